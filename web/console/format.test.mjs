// node --test web/

import assert from "node:assert/strict";
import { test } from "node:test";

import { bytes, count, csvRecord, money, span } from "./format.js";
import { failure, meaning, problemText } from "./words.js";

test("money shows cents, and more where a price has more", () => {
  assert.deepEqual([0, 0.05, 0.0336, 1.23456, 1234.5, null].map(money), ["$0.00", "$0.05", "$0.0336", "$1.23", "$1,234.50", "–"]);
});

test("numbers are read as people say them", () => {
  assert.deepEqual([count(1, "row"), count(1200, "row"), span(42_400), span(200_000), span(3_900_000), bytes(5 << 20)], ["1 row", "1,200 rows", "42 s", "3 min 20 s", "1 h 5 min", "5.0 MB"]);
});

test("a record for a spreadsheet holds no formula", () => {
  assert.equal(csvRecord(["=1+1", "+x", "-x", "@x", 'a "b", c', "\tx", 7]), '"\'=1+1","\'+x","\'-x","\'@x","a ""b"", c","\'\tx","7"\r\n');
  assert.equal(csvRecord(["a;=1+1", "b\n＝1", "c, =1", ";\n="]), `"a;'=1+1","b\n'＝1","c, =1",";'\n'="\r\n`);
});

test("problems and failures are told in words, unknown ones by what the service says", () => {
  assert.equal(problemText({ code: "model_unknown", detail: "model \"x\" is not in the price table" }), "Model \"x\" is not in the price table.");
  assert.match(problemText({ code: "live_disabled" }), /RUN_MODE=live/);
  assert.match(problemText({ code: "forbidden", detail: "this key has the scope read; this needs submit" }), /scope submit/);
  assert.equal(problemText({ code: "invalid_request", errors: [{ detail: "must not be empty" }, { detail: "is required" }] }), "Must not be empty; is required.");
  assert.equal(failure("of_a_later_version").title, "Something went wrong");
});

test("spans grow from seconds to days", () => {
  assert.deepEqual([42, 200, 18_600, 172_800, 273_600].map((seconds) => span(seconds * 1000)), ["42 s", "3 min 20 s", "5 h 10 min", "2 days 0 h", "3 days 4 h"]);
});

test("a code means something to who runs the service, and one of a later version is nobody's", () => {
  assert.deepEqual(["safety_blocked", "not_found", "internal", "later"].map((code) => meaning(code).whose), ["picture", "caller", "service", "nobody"]);
  assert.match(meaning("safety_blocked").text, /^The model refused\. Reword/);
});

test("a scope that is missing is told as what it is", () => {
  const told = (needed) => problemText({ code: "forbidden", detail: `this key has the scope read; this needs ${needed}` });
  assert.deepEqual([told("submit"), told("admin")], ["Your key may look, but not make pictures. Ask for one with the scope submit.", "This key has the scope read; this needs admin."]);
});
