// node --test web/

import assert from "node:assert/strict";
import { test } from "node:test";

import { CHARTS, MINUTES, bars, caption, hour, marks, p95Text, quarters } from "./hour.js";

const [REQUESTS, PICTURES, COST, TIMES] = CHARTS;
const minute = (start, counts) => ({ start, requests: 0, errors: 0, p95: null, completed: 0, failed: 0, cost: 0, ...counts });
const VIEW = {
  at: "2026-11-28T12:30:20Z", startedAt: "2026-11-28T12:00:30Z",
  minutes: [minute("2026-11-28T12:05:00Z", { requests: 8, errors: 2, p95: 2500, failed: 1 }), minute("2026-11-28T12:30:00Z", { requests: 4, p95: 5, completed: 3, cost: 0.15 })],
};

test("each minute of the hour is there, with nothing where nothing happened, and unknown before the start", () => {
  const minutes = hour(VIEW);
  assert.equal(minutes.length, MINUTES);
  assert.deepEqual([minutes[0].start, minutes.at(-1).start], [Date.parse("2026-11-28T11:30:00Z"), Date.parse("2026-11-28T12:30:00Z")]);
  assert.equal(minutes.findIndex(({ known }) => known), 30, "the minute in which it started is known");
  assert.deepEqual(minutes[35], { start: Date.parse("2026-11-28T12:05:00Z"), known: true, requests: 8, errors: 2, p95: 2500, completed: 0, failed: 1, micros: 0 });
  assert.deepEqual([minutes[36].requests, minutes.at(-1).micros], [0, 150_000]);
});

test("a caption says the sum of the hour and its highest minute", () => {
  const minutes = hour(VIEW);
  assert.match(caption(REQUESTS, minutes), /^12 requests, 2 with 5xx\. Most: 8, at .*05/);
  assert.match(caption(PICTURES, minutes), /^3 made, 1 failed\. Most: 3, at .*30/);
  assert.match(caption(COST, minutes), /^\$0\.15 charged\. Most: \$0\.15/);
  assert.match(caption(TIMES, minutes), /^95 of 100 answers below 5 ms at last\. Slowest minute: below 2\.5 s, at .*05/);
  const still = hour({ ...VIEW, minutes: [] });
  assert.deepEqual(CHARTS.map((chart) => caption(chart, still)), ["0 requests, 0 with 5xx.", "0 made, 0 failed.", "$0.00 charged.", "No answer was timed."]);
});

test("the highest class of times has no end", () => {
  assert.deepEqual([1, 400, 1000, 10_000, null].map(p95Text), ["below 1 ms", "below 400 ms", "below 1 s", "10 s or more", "–"]);
});

test("marks are round, few, and reach above the highest bar", () => {
  assert.deepEqual(marks(0, 1), [0, 1]);
  assert.deepEqual(marks(3, 1), [0, 1, 2, 3]);
  assert.deepEqual(marks(17, 1), [0, 5, 10, 15, 20]);
  assert.deepEqual(marks(150_000, 10_000), [0, 50_000, 100_000, 150_000]);
  assert.deepEqual(marks(10_000, 1), [0, 5_000, 10_000]);
  for (let most = 1; most < 5_000; most += 1) {
    const axis = marks(most, 1);
    assert.ok(axis.at(-1) >= most && axis.at(-2) < most && axis.length <= 6, `${most}: ${axis}`);
  }
});

test("bars stand on each other and on the ground, and one fault among many answers is seen", () => {
  const minutes = hour({ ...VIEW, minutes: [minute("2026-11-28T12:30:00Z", { requests: 1000, errors: 1 })] });
  const drawn = bars(REQUESTS, minutes, 1000, { width: 610, height: 100 });
  assert.deepEqual(drawn.map(({ x, width, bad }) => [x, width, bad]), [[601, 8, false], [601, 8, true]]);
  assert.ok(Math.abs(drawn[0].y + drawn[0].height - 100) < 1e-9);
  assert.ok(drawn[1].height >= 3 && drawn[1].y >= 0);
  assert.deepEqual(bars(TIMES, minutes, 1, { width: 610, height: 100 }), [], "a minute without a time has no bar");
});

test("quarters of an hour are marked where they are", () => {
  const marked = quarters(hour(VIEW));
  assert.equal(marked.length, 5);
  assert.ok(marked.every(({ start }) => new Date(start).getMinutes() % 15 === 0));
  assert.deepEqual(marked.map(({ place }) => Math.round(place * MINUTES - 0.5)), [0, 15, 30, 45, 60]);
});
