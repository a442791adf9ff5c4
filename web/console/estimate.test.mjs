// node --test web/

import assert from "node:assert/strict";
import { test } from "node:test";

import { inWords, Pace } from "./estimate.js";

test("nothing is claimed before enough pictures ended", () => {
  const pace = new Pace();
  for (let count = 0; count < 5; count += 1) {
    assert.deepEqual(pace.estimate(100, 0), { state: "measuring" });
    pace.note(1000 * count, 50);
  }
  assert.deepEqual(pace.estimate(100, 50), { state: "known", left: 100_000 });
});

test("it goes by when pictures ended, not by when they were told: a replay comes at once", () => {
  const pace = new Pace();
  for (let count = 0; count < 10; count += 1) pace.note(2000 * count, 7);
  assert.equal(pace.estimate(3, 7).left, 6000);
  assert.equal(pace.estimate(3, 2007).left, 4000);
});

test("a pace that changes is followed, and a stall is told", () => {
  const pace = new Pace();
  for (let count = 0; count < 50; count += 1) pace.note(count * 10, 0);
  for (let count = 0; count < 50; count += 1) pace.note(500 + count * 1000, 0);
  assert.equal(pace.estimate(10, 0).left, 10_000);
  assert.deepEqual(pace.estimate(10, 20_000), { state: "stalled" });
  pace.clear();
  assert.deepEqual(pace.estimate(10, 0), { state: "measuring" });
});

test("the words claim no more than is known", () => {
  const words = [0, 12_000, 49_000, 55_000, 130_000, 3_600_000, 9_100_000].map(inWords);
  assert.deepEqual(words, ["a few seconds", "about 20 seconds", "about 50 seconds", "about 1 minute",
    "about 2 minutes", "about 1 hour", "about 2.5 hours"]);
});
