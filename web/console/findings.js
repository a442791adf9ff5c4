// Whether all is well with the service, or what is not, in sentences. Pure: from `GET /overview` alone.

import { count, money, span } from "./format.js";

/** Charges that wait for the ledger as long as this are late, in seconds: it is written every 2 s. */
export const LEDGER_LATE = 60;
/** The share of the day's limit from which on its end is near. */
export const MONEY_NEAR = 0.9;
/** The share of what was spent that may be for calls of unknown outcome. */
export const UNKNOWN_SHARE = 0.1;
/** A picture that waits as long as this waits long, in seconds. */
export const WAIT_LONG = 300;
/** Pictures that wait as long as this while none is under way are stuck, in seconds. */
export const STUCK = 60;
/** Over how many minutes, the one under way too, answers and pictures are judged. */
export const RECENT = 10;
/** The share of answers that may be faults of the service. */
export const FAULTS_SHARE = 0.01;
/** The share of pictures that may fail, and how many have to until it is told. */
export const FAILED_SHARE = 0.2;
export const FAILED_LEAST = 3;
/** Milliseconds in which 95 of 100 answers are to be there, and how many minutes may be slower. */
export const SLOW = 400;
export const SLOW_MINUTES = 2;

const HERE = "this process";
const ALL = "all instances";

const seconds = (number) => span(number * 1000);

/** A sentence with what it is of: `key` is the same as long as the same is so, `level` is `bad`, `warn`, or `note` if nothing is wrong. */
const finding = (level, key, scope, text) => ({ level, key, scope, text });

/** What is wrong, the worst first, and then what is only to be known; empty if all is well. */
export function findings(view) {
  const { gate, ledgerTrouble } = view;
  const found = [...unanswered(view), ...gateFindings(gate), ...ledgerFindings(view.work, ledgerTrouble)];
  if (view.work) found.push(...moneyFindings(view.work), ...queueFindings(view.work, gate));
  found.push(...recentFindings(view));
  return ["bad", "warn", "note"].flatMap((wanted) => found.filter(({ level }) => level === wanted));
}

const PARTS = {
  store: "The database does not answer: batches are refused until it does",
  assets: "The place of the pictures does not answer: what is made cannot be kept",
};

/** What does not answer, by the `reasons` of `GET /ready`; empty if everything does. */
export const awayText = (reasons) => unanswered({ reasons }).map(({ text }) => text).join(" ");

function unanswered({ reasons, work }) {
  const found = reasons.map((reason) => {
    const part = reason.split(":")[0];
    return finding("bad", part, HERE, `${PARTS[part] ?? "A part of the service does not answer"} (${reason}).`);
  });
  if (work === null && !found.some(({ key }) => key === "store")) {
    found.push(finding("bad", "store", HERE, "Queue and money could not be read from the database."));
  }
  return found;
}

function gateFindings({ closed, opensInSeconds }) {
  switch (closed) {
    case null:
      return [];
    case "throttled":
      return [finding("warn", closed, HERE, `Calls are paused: the provider asked to slow down. They go on in ${seconds(opensInSeconds)}.`)];
    case "quota":
      return [finding("bad", closed, HERE, `The provider's quota of the day is used up for a model: its pictures fail for ${seconds(opensInSeconds)} more. Retry them then.`)];
    case "failing":
      return [finding("bad", closed, HERE, "Calls are paused: the provider failed several times in a row. One call at a time tries whether it is back.")];
    default:
      return [finding("bad", closed, HERE, `Calls are paused (${closed}).`)];
  }
}

function ledgerFindings(work, trouble) {
  const { ledgerPending: pending, ledgerLagSeconds: lag } = work ?? {};
  const waits = pending ? `${count(pending, "charge")} ${pending === 1 ? "waits" : "wait"} for the ledger, the oldest for ${seconds(lag)}` : "";
  if (trouble) return [finding("bad", "ledger", HERE, waits ? `${waits}: ${trouble}.` : `The ledger is not written: ${trouble}.`)];
  return waits && lag >= LEDGER_LATE ? [finding("warn", "ledger", ALL, `${waits}. Nothing is lost by that.`)] : [];
}

function moneyFindings({ dailyLimit, spent, reserved, unknown, remaining }) {
  const found = [];
  const held = reserved > 0 ? ` and ${money(reserved)} reserved` : "";
  if (dailyLimit !== null && remaining <= 0) {
    found.push(finding("bad", "money", ALL, `The day's money is used up: ${money(spent)} spent${held}, of ${money(dailyLimit)}. New batches are refused.`));
  } else if (dailyLimit !== null && spent + reserved >= dailyLimit * MONEY_NEAR) {
    found.push(finding("warn", "money", ALL, `${money(spent)} spent${held}, of ${money(dailyLimit)} for the day: ${money(remaining)} is left.`));
  }
  if (unknown > 0 && unknown >= spent * UNKNOWN_SHARE) {
    found.push(finding("note", "unknown", ALL, `${money(unknown)} of ${money(spent)} spent is for calls whose outcome nobody knows. Compare with the provider's bill.`));
  }
  return found;
}

function queueFindings({ queued, running, oldestSeconds }, { closed }) {
  const waits = `${count(queued, "picture")} ${queued === 1 ? "waits" : "wait"}`;
  if (queued > 0 && running === 0 && oldestSeconds >= STUCK && closed === null) {
    return [finding("bad", "stuck", ALL, `${waits} and none is under way, for ${seconds(oldestSeconds)}.`)];
  }
  return queued > 0 && oldestSeconds >= WAIT_LONG
    ? [finding("warn", "queue", ALL, `${waits}, the oldest for ${seconds(oldestSeconds)}.`)] : [];
}

/** The sums of the last minutes. */
function recent({ at, minutes }) {
  const since = new Date(at) - RECENT * 60_000;
  const last = minutes.filter(({ start }) => new Date(start) > since);
  const sum = (name) => last.reduce((total, minute) => total + minute[name], 0);
  return {
    requests: sum("requests"), errors: sum("errors"), completed: sum("completed"), failed: sum("failed"),
    slow: last.filter(({ p95 }) => p95 > SLOW).length,
  };
}

function recentFindings(view) {
  const { requests, errors, completed, failed, slow } = recent(view);
  const found = [];
  if (errors > 0 && errors >= requests * FAULTS_SHARE) {
    found.push(finding("bad", "faults", HERE, `${errors} of ${count(requests, "answer")} in the last ${RECENT} minutes ${errors === 1 ? "was a fault" : "were faults"} of the service (5xx).`));
  }
  if (failed >= FAILED_LEAST && failed >= (completed + failed) * FAILED_SHARE) {
    found.push(finding("warn", "failed", HERE, `${failed} of ${count(completed + failed, "picture")} in the last ${RECENT} minutes failed.`));
  }
  if (slow > SLOW_MINUTES) {
    found.push(finding("warn", "slow", HERE, `Answers were slow in ${slow} of the last ${RECENT} minutes: more than 5 of 100 took over ${SLOW} ms.`));
  }
  return found;
}
