// node --test web/

import assert from "node:assert/strict";
import { test } from "node:test";

import { decode, readFile, readPasted, split } from "./rows.js";

const bytes = (text) => new TextEncoder().encode(text);

test("cells of a spreadsheet arrive as they were typed", () => {
  const text = 'sceneId\tprompt\nA1\t"a ""golden"" hour,\nsecond line\twith a tab"\nA2\t東京タワー, 夜 🌃\nA3\t  spaces kept  \n';
  assert.deepEqual(readPasted(text).rows, [
    { sceneId: "A1", prompt: 'a "golden" hour,\nsecond line\twith a tab' },
    { sceneId: "A2", prompt: "東京タワー, 夜 🌃" },
    { sceneId: "A3", prompt: "  spaces kept  " },
  ]);
});

test("a quote that only begins a cell, or is never closed, is a character", () => {
  assert.deepEqual(split('"Hello" she said\tb\n"open\tc', "\t"), [['"Hello" she said', "b"], ['"open', "c"]]);
  assert.deepEqual(split('"Hello"\tb', "\t"), [['"Hello"', "b"]]);
  assert.deepEqual(split('"""Hello"""\tb', "\t"), [['"Hello"', "b"]]);
  assert.deepEqual(split('"Hello","a,b"', ","), [["Hello", "a,b"]]);
});

test("cells that are empty stay in their place, at the ends too", () => {
  assert.deepEqual(split("a,,c\n,b,\n,", ","), [["a", "", "c"], ["", "b", ""], ["", ""]]);
  assert.deepEqual(split("", ","), []);
  assert.deepEqual(split("a\n\nb\n", ","), [["a"], [""], ["b"]]);
});

test("a file from Excel is read: byte order mark, semicolons, CRLF", () => {
  const text = '\uFEFFscene_id;prompt;Anzahl;variants\r\ns-1;"Tasse; grün\r\nmit Henkel";7;2\r\ns-2;Größe;;\r\n';
  const { rows, ignored } = readFile(bytes(text));
  assert.deepEqual(rows, [
    { sceneId: "s-1", prompt: "Tasse; grün\nmit Henkel", variants: "2" },
    { sceneId: "s-2", prompt: "Größe", variants: "" },
  ]);
  assert.deepEqual(ignored, ["Anzahl"]);
  assert.deepEqual(readFile(bytes("sep=;\r\nprompt;variants\r\na, b;2\r\n")).rows, [{ prompt: "a, b", variants: "2" }]);
});

test("files in other encodings are read", () => {
  const wide = new Uint8Array([0xff, 0xfe, ...[..."prompt\nGröße"].flatMap((c) => [c.charCodeAt(0) & 255, c.charCodeAt(0) >> 8])]);
  assert.deepEqual(readFile(wide).rows, [{ prompt: "Größe" }]);
  assert.equal(decode(new Uint8Array([0x47, 0x72, 0xf6, 0xdf, 0x65])), "Größe");
  assert.equal(decode(bytes("Größe")), "Größe");
});

test("a list of prompts is a row a line, whatever commas are in it", () => {
  const { rows } = readPasted("a cup, blue, on wood\n\na chair; red\n");
  assert.deepEqual(rows, [{ prompt: "a cup, blue, on wood" }, { prompt: "a chair; red" }]);
});

test("a byte order mark is no part of the first prompt", () => {
  assert.deepEqual(readPasted("\uFEFFa cup\na chair").rows[0], { prompt: "a cup" });
});

test("text with a header and commas is a table", () => {
  const { rows } = readPasted('prompt,variants\n"a, b",2\nc,1');
  assert.deepEqual(rows, [{ prompt: "a, b", variants: "2" }, { prompt: "c", variants: "1" }]);
});

test("columns without a header are known by what is in them", () => {
  const text = "sku-1\ta blue cup on a table\t2\t16:9\t2K\thttps://a.example/1.png https://a.example/2.png\nsku-2\ta chair\t\t1:1\t1K\t";
  const { rows, ignored } = readPasted(text);
  assert.deepEqual(rows[0], {
    sceneId: "sku-1", prompt: "a blue cup on a table", variants: "2", aspectRatio: "16:9", imageSize: "2K",
    references: ["https://a.example/1.png", "https://a.example/2.png"],
  });
  assert.deepEqual(rows[1].references, []);
  assert.deepEqual(ignored, []);
  assert.deepEqual(readPasted("a long sentence about a cup\tshort\nanother long sentence\tx").ignored, ["column 2"]);
});

test("names of columns are known in several spellings, and both of ours", () => {
  const { rows } = readPasted("Scene ID\tPrompt\tref_pack_public_urls\treference_mode\tAspect Ratio\timage_size\nx\ty\thttps://a.example/b\tstyle_only\t4:5\t4K");
  assert.deepEqual(rows, [{
    sceneId: "x", prompt: "y", references: ["https://a.example/b"], referenceMode: "style_only", aspectRatio: "4:5", imageSize: "4K",
  }]);
});

test("a sheet may have a column for each reference", () => {
  const { rows } = readPasted("prompt\treference 1\tRef URL 2\nx\thttps://a.example/1\thttps://a.example/2");
  assert.deepEqual(rows, [{ prompt: "x", references: ["https://a.example/1", "https://a.example/2"] }]);
});

test("a row that looks like a header is one only once: prompts may begin with such words", () => {
  assert.equal(readPasted("name a colour\na prompt").rows.length, 2);
  assert.equal(readPasted("prompt 1\nprompt 2").rows.length, 2);
  assert.deepEqual(readPasted("").rows, []);
  assert.deepEqual(readPasted("\n\t\n").rows, []);
});
