// node --test web/

import assert from "node:assert/strict";
import { test } from "node:test";

import { addRows, emptyDraft, faultsOf, fromItems, isAddress, mendName, placeFaults, toBody, totals } from "./draft.js";

const catalogue = {
  limits: { rows: 1000, variants: 3, references: 6, promptChars: 20 },
  models: [
    { id: "a", default: true, aspectRatios: ["1:1", "16:9"], sizes: [{ size: "1K", price: 0.05 }, { size: "4K", price: 0.2 }] },
    { id: "b", default: false, aspectRatios: ["1:1"], sizes: [{ size: "1K", price: 1 }] },
  ],
};

function drafted(...rows) {
  const draft = emptyDraft();
  addRows(draft, rows);
  return draft;
}

test("rows without a name get one that is free, and an empty row gives way", () => {
  const draft = drafted({});
  draft.rows[0].sceneId = "";
  addRows(draft, [{ prompt: "x" }, { sceneId: "s-001", prompt: "y" }, { prompt: "z" }]);
  assert.deepEqual(draft.rows.map((row) => row.sceneId), ["s-002", "s-001", "s-003"]);
});

test("every fault of a row is told at its field", () => {
  const draft = drafted(
    { sceneId: "a b", prompt: " " }, { sceneId: "ok", prompt: "x", variants: "4", aspectRatio: "9:16", imageSize: "2k" },
    { sceneId: "OK", prompt: "y".repeat(21), references: ["ftp://x", "https://a.example"] }, { sceneId: "fine", prompt: "🍊".repeat(20) });
  const faults = draft.rows.map((row) => Object.keys(faultsOf(draft, catalogue).get(row.id) ?? {}).sort());
  assert.deepEqual(faults, [["prompt", "sceneId"], ["aspectRatio", "imageSize", "variants"], ["prompt", "references", "sceneId"], []]);
});

test("references count together with those of all rows, equal ones once", () => {
  const many = Array.from({ length: 5 }, (_, index) => `https://a.example/${index}`);
  const draft = drafted({ prompt: "x", references: many });
  draft.pack = [{ url: many[0] }, { url: "https://a.example/pack" }];
  assert.equal(faultsOf(draft, catalogue).size, 0);
  draft.pack.push({ url: "/assets/references/one.png" });
  assert.match(faultsOf(draft, catalogue).get(draft.rows[0].id).references, /not 7/);
});

test("a name is mended to the nearest that is allowed", () => {
  assert.deepEqual(["Blue cup", "Crème brûlée №1", "-x", "a/b", "東京"].map(mendName), ["Blue-cup", "Creme-brulee-No1", "x", "a-b", ""]);
});

test("what is sent has everything of the rows and what is common to all", () => {
  const draft = drafted({ sceneId: "x", prompt: " p\nq ", variants: "2", references: ["https://a.example/1"], referenceMode: "style_and_composition" });
  Object.assign(draft, { model: "a", aspectRatio: "16:9", pack: [{ url: "/assets/references/p.png", name: "p.png" }] });
  assert.deepEqual(toBody(draft, "live"), {
    runMode: "live", model: "a", referencePack: [{ url: "/assets/references/p.png", mode: "style_only" }],
    items: [{ sceneId: "x", prompt: " p\nq ", variants: 2, aspectRatio: "16:9", imageSize: "1K", referenceMode: "style_and_composition", references: [{ url: "https://a.example/1" }] }],
  });
});

test("prices follow the model and the size of each row", () => {
  const draft = drafted({ prompt: "x", variants: "2" }, { prompt: "y", imageSize: "4K" });
  assert.deepEqual(totals(draft, catalogue), { pictures: 3, listed: 0.05 * 2 + 0.2 });
  draft.model = "b";
  assert.equal(totals(draft, catalogue).listed, 2);
});

test("what the service finds is shown at its row, the rest above", () => {
  const draft = drafted({ prompt: "x" }, { prompt: "y" });
  const { rows, others } = placeFaults([{ pointer: "/items/1/references/0/url", detail: "is bad" }, { pointer: "/items/0/prompt", detail: "is empty" },
    { pointer: "/model", detail: "is unknown" }, { pointer: "/referencePack/0", detail: "is gone" }, { pointer: "/items/9/prompt", detail: "is nowhere" }], draft);
  assert.deepEqual([...rows], [[draft.rows[1].id, { references: "is bad" }], [draft.rows[0].id, { prompt: "is empty" }]]);
  assert.deepEqual(others, ["is unknown", "References for all rows: is gone", "is nowhere"]);
});

test("a batch becomes a draft again", () => {
  const item = { sceneId: "x", prompt: "p", aspectRatio: "16:9", imageSize: "4K", images: [{}, {}], references: [{ url: "https://a.example", mode: "style_and_composition" }] };
  const [row] = fromItems({ model: "a" }, [item]).rows;
  assert.deepEqual({ ...row, id: 0 }, { id: 0, sceneId: "x", prompt: "p", variants: "2", aspectRatio: "16:9", imageSize: "4K", referenceMode: "style_and_composition", references: [{ url: "https://a.example" }] });
});

test("addresses are those that the service takes", () => {
  assert.ok(["https://a.example/b.png", "http://a.example", "/assets/references/x.png?expires=1", "gs://b/o"].every(isAddress));
  assert.ok(!["a.png", "ftp://a", "https://a b", "javascript:alert(1)", "//a.example"].some(isAddress));
});
