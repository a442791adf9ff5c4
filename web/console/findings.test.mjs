// node --test web/

import assert from "node:assert/strict";
import { test } from "node:test";

import * as limits from "./findings.js";

const AT = "2026-11-28T12:30:20Z";
const WORK = {
  dailyLimit: 10, spent: 1, reserved: 0, unknown: 0, remaining: 9, resetsAt: "2026-11-29T00:00:00Z", queued: 0, running: 0, oldestSeconds: 0,
  ledgerPending: 0, ledgerLagSeconds: 0,
};
const GATE = { limit: 8, usual: 8, closed: null, opensInSeconds: null };

/** What is found of a service that is well but for this. */
function found({ work = {}, gate = {}, minutes = [], ...view } = {}) {
  const whole = { at: AT, reasons: [], ledgerTrouble: null, minutes, ...view, work: work && { ...WORK, ...work }, gate: { ...GATE, ...gate } };
  return limits.findings(whole).map(({ level, key, text }) => `${level} ${key}: ${text}`);
}

const minute = (start, counts) => ({ start, requests: 0, errors: 0, p95: null, completed: 0, failed: 0, cost: 0, ...counts });

test("a service that works, waits or is busy within bounds is well", () => {
  assert.deepEqual(found(), []);
  const busy = { queued: 400, running: 8, oldestSeconds: limits.WAIT_LONG - 1, ledgerPending: 30, ledgerLagSeconds: limits.LEDGER_LATE - 1, spent: 8, remaining: 2 };
  assert.deepEqual(found({ work: busy, minutes: [minute("2026-11-28T12:30:00Z", { requests: 1000, errors: 9, p95: 400, completed: 9, failed: 2 })] }), []);
  assert.deepEqual(found({ work: { dailyLimit: null, remaining: null, spent: 1000, ledgerPending: null, ledgerLagSeconds: null } }), []);
});

test("a closed gate is told in plain words", () => {
  assert.deepEqual(found({ gate: { closed: "throttled", opensInSeconds: 12 } }), ["warn throttled: Calls are paused: the provider asked to slow down. They go on in 12 s."]);
  assert.match(found({ gate: { closed: "failing", opensInSeconds: 10 } })[0], /^bad failing: Calls are paused: the provider failed several times in a row/);
  assert.match(found({ gate: { closed: "quota", opensInSeconds: 7200 } })[0], /^bad quota: The provider's quota of the day .* for 2 h 0 min more/);
});

test("charges that wait long for the ledger are told, with the reason if it is known", () => {
  const late = { ledgerPending: 42, ledgerLagSeconds: 180 };
  assert.deepEqual(found({ work: late }), ["warn ledger: 42 charges wait for the ledger, the oldest for 3 min 0 s. Nothing is lost by that."]);
  assert.deepEqual(found({ work: { ledgerPending: 1, ledgerLagSeconds: 3 }, ledgerTrouble: "it is away" }), ["bad ledger: 1 charge waits for the ledger, the oldest for 3 s: it is away."]);
  assert.deepEqual(found({ ledgerTrouble: "it is away" }), ["bad ledger: The ledger is not written: it is away."]);
});

test("money near its end, at its end, and of unknown outcome is told", () => {
  assert.deepEqual(found({ work: { spent: 9.5, reserved: 0.3, remaining: 0.2 } }), ["warn money: $9.50 spent and $0.30 reserved, of $10.00 for the day: $0.20 is left."]);
  assert.deepEqual(found({ work: { spent: 10, remaining: 0 } }), ["bad money: The day's money is used up: $10.00 spent, of $10.00. New batches are refused."]);
  assert.match(found({ work: { dailyLimit: 0, spent: 0, remaining: 0 } })[0], /^bad money/);
  assert.match(found({ work: { spent: 1, unknown: limits.UNKNOWN_SHARE } })[0], /^note unknown: \$0.10 of \$1.00/);
  assert.deepEqual(found({ work: { spent: 1, unknown: 0.09 } }), []);
  const all = found({ work: { spent: 9.5, unknown: 5, remaining: 0.5, queued: 1, oldestSeconds: limits.WAIT_LONG } });
  assert.match(all.at(-1), /^note unknown/, "what is wrong comes before it");
});

test("a queue that stands still is worse than one that is long", () => {
  assert.deepEqual(found({ work: { queued: 3, running: 2, oldestSeconds: 400 } }), ["warn queue: 3 pictures wait, the oldest for 6 min 40 s."]);
  assert.deepEqual(found({ work: { queued: 1, oldestSeconds: limits.STUCK } }), ["bad stuck: 1 picture waits and none is under way, for 1 min 0 s."]);
  assert.deepEqual(found({ work: { queued: 1, oldestSeconds: limits.STUCK }, gate: { closed: "throttled", opensInSeconds: 1 } }).length, 1);
});

test("faults, failed pictures and slow answers of the last minutes are told, and those of before are not", () => {
  const counts = { requests: 100, errors: 1, p95: 1000, completed: 8, failed: 3 };
  const minutes = [26, 27, 28].map((number) => minute(`2026-11-28T12:${number}:00Z`, counts));
  assert.deepEqual(found({ minutes }), [
    "bad faults: 3 of 300 answers in the last 10 minutes were faults of the service (5xx).",
    "warn failed: 9 of 33 pictures in the last 10 minutes failed.",
    "warn slow: Answers were slow in 3 of the last 10 minutes: more than 5 of 100 took over 400 ms.",
  ]);
  assert.deepEqual(found({ minutes: minutes.map((one) => ({ ...one, start: one.start.replace("12:", "11:") })) }), []);
});

test("what does not answer comes first, and a database that is away is told once", () => {
  const away = found({ work: null, reasons: ["assets: no bucket", "store: no answer within 5 s"], gate: { closed: "throttled", opensInSeconds: 1 } });
  assert.deepEqual(away.map((text) => text.split(":")[0]), ["bad assets", "bad store", "warn throttled"]);
  assert.match(away[1], /refused until it does \(store: no answer within 5 s\)\.$/);
  assert.equal(limits.awayText(["assets: no bucket"]), "The place of the pictures does not answer: what is made cannot be kept (assets: no bucket).");
  assert.equal(limits.awayText([]), "");
  assert.match(found({ work: null })[0], /^bad store: Queue and money could not be read/);
});
