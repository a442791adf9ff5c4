// node --test web/

import assert from "node:assert/strict";
import { test } from "node:test";

import { Board, keyOf } from "./board.js";

const image = (variant, state = "queued", rest = {}) => ({ variant, state, cost: null, error: null, permalink: `/p/${variant}`, ...rest });
const item = (sceneId, ...images) => ({ sceneId, prompt: "p", images });
const made = (sceneId, variant, cost = 0.05) => ({ type: "image_complete", data: { sceneId, variant, cost, thumbnailUrl: "/t", url: "/u", permalink: "/p" } });
const failed = (sceneId, variant, code, cost = 0) => ({ type: "image_failed", data: { sceneId, variant, cost, error: { code, detail: "d", retryable: true } } });

function board() {
  const board = new Board({});
  board.addItems([item("a", image(1), image(2)), item("B", image(1, "running"))]);
  return board;
}

test("events set the state of their picture, and change nothing when they come again", () => {
  const one = board();
  for (const event of [made("a", 1), made("a", 1), failed("b", 1, "no_image", 0.01)]) one.apply(event);
  assert.deepEqual(one.counts(), { total: 3, queued: 1, running: 0, completed: 1, failed: 1, cancelled: 0, retryable: 1, cost: 0.06, open: 1 });
  assert.equal(one.tiles.get(keyOf("A", 1)).thumbnailUrl, "/t");
});

test("an event of a picture on a page that is not here yet is no fault", () => {
  assert.deepEqual(board().apply(made("zzz", 1)), []);
});

test("a page that comes again sets back what a retry has set back", () => {
  const one = board();
  one.apply(failed("a", 2, "provider_error"));
  const fresh = one.addItems([item("a", image(1), image(2, "queued", { cost: 0.01 })), item("c", image(1))]);
  assert.deepEqual(fresh.map((row) => row.sceneId), ["c"]);
  assert.deepEqual([one.tiles.get(keyOf("a", 2)).state, one.tiles.size, one.rows.length], ["queued", 4, 3]);
  assert.equal(one.counts().failed, 0);
});

test("a cancel ends those that wait; one under way tells its own end", () => {
  const one = board();
  assert.deepEqual(one.apply({ type: "cancelled", data: { cancelled: 2 } }).map((tile) => tile.key), ["a/1", "a/2"]);
  one.apply(made("B", 1));
  assert.deepEqual([one.counts().cancelled, one.counts().completed, one.counts().open], [2, 1, 0]);
});

test("failures are grouped by their code, the most frequent first", () => {
  const one = board();
  for (const event of [failed("a", 1, "x"), failed("a", 2, "y"), failed("B", 1, "y")]) one.apply(event);
  assert.deepEqual(one.failures().map(([code, tiles]) => [code, tiles.length]), [["y", 2], ["x", 1]]);
});

test("notices are kept, and unknown events pass", () => {
  const one = board();
  one.apply({ type: "notice", data: { detail: "slow" } });
  one.apply({ type: "of-a-later-version", data: {} });
  assert.deepEqual(one.notices, ["slow"]);
});
