// node --test web/

import assert from "node:assert/strict";
import { test } from "node:test";

import { LONGEST, PACE, Poll } from "./poll.js";

/** What is under way goes as far as it can without time passing. */
const settle = () => new Promise(setImmediate);

/** A poll on a clock that the test moves; `answers` are given one after the other, the last again and again. */
function polled(t, answers, isFinal) {
  t.mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_000_000 });
  const [told, asked] = [[], []];
  const read = async () => {
    asked.push(Date.now());
    const answer = answers.length > 1 ? answers.shift() : answers[0];
    if (answer instanceof Error) throw answer;
    return answer;
  };
  const pass = async (time) => {
    t.mock.timers.tick(time);
    await settle();
  };
  return { poll: new Poll(read, (one) => told.push(one), isFinal), told, asked, pass };
}

test("an answer is asked for at once, and again a pace after each", async (t) => {
  const { poll, told, asked, pass } = polled(t, ["one"]);
  poll.start();
  poll.start();
  await settle();
  assert.deepEqual(told, [{ answer: "one" }]);
  await pass(PACE - 1);
  assert.equal(asked.length, 1);
  await pass(1);
  assert.equal(asked.length, 2);
});

test("failures are told with when they began and when it is tried again, more and more seldom", async (t) => {
  const away = new Error("away");
  const { poll, told, pass } = polled(t, [away, away, away, away, away, away, "there", away]);
  poll.start();
  await settle();
  let now = 1_000_000;
  for (const pause of [5_000, 10_000, 20_000, 40_000, LONGEST, LONGEST]) {
    assert.deepEqual(told.at(-1), { error: away, since: 1_000_000, next: now + pause });
    now += pause;
    await pass(pause);
  }
  assert.deepEqual(told.at(-1), { answer: "there" });
  await pass(PACE);
  assert.deepEqual(told.at(-1), { error: away, since: now + PACE, next: now + 2 * PACE }, "a new failure begins anew");
});

test("who looks away is not asked for, and what was under way is not told", async (t) => {
  const { poll, told, asked, pass } = polled(t, ["one"]);
  poll.start();
  poll.stop();
  await settle();
  await pass(10 * PACE);
  assert.deepEqual([told, asked.length], [[], 1]);
  poll.start();
  await settle();
  assert.deepEqual([told.length, asked.length], [1, 2]);
  poll.stop();
  await pass(10 * PACE);
  assert.equal(asked.length, 2);
});

test("now is at once, and the pace goes on from there", async (t) => {
  const { poll, asked, pass } = polled(t, [new Error("away"), "there"]);
  poll.start();
  await settle();
  await pass(1_000);
  poll.now();
  await settle();
  await pass(PACE);
  assert.deepEqual(asked.map((time) => time - 1_000_000), [0, 1_000, 1_000 + PACE]);
});

test("an error that no time mends ends it", async (t) => {
  const refused = new Error("refused");
  const { poll, told, asked, pass } = polled(t, [refused, "there"], (error) => error === refused);
  poll.start();
  await settle();
  await pass(10 * LONGEST);
  assert.deepEqual([told, asked.length], [[{ error: refused }], 1]);
  poll.start();
  await settle();
  assert.deepEqual(told.at(-1), { answer: "there" });
});
