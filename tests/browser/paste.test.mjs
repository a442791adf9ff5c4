// What people paste and drop arrives as they typed it.

import assert from "node:assert/strict";
import { after, test } from "node:test";

import { closeBrowser, drop, exactly, openPage, paste } from "./browser.mjs";
import { Service } from "./service.mjs";

after(closeBrowser);

/** The names and prompts that a finished batch was made of. */
async function sent(page, service) {
  await page.getByRole("button", { name: "Check the price" }).click();
  await page.getByRole("button", { name: /^Make \d+ picture/ }).click();
  await page.locator(".pill.completed").waitFor();
  const view = await service.get(`/images/${/bat_\w+/.exec(page.url())[0]}`);
  return view.items.map(({ sceneId, prompt, images, aspectRatio }) => [sceneId, prompt, images.length, aspectRatio]);
}

test("cells with quotes, line breaks, other scripts and emoji arrive as typed, from the clipboard to the batch", async (t) => {
  const service = await Service.start(t, { SYNTHETIC_LATENCY: "0s" });
  const page = await openPage(t, service);
  await paste(page, [
    'Name\tPrompt\tPictures\tShape\tNotes',
    'a\t"a ""golden"" cup,\nwith a second line\tand a tab"\t2\t16:9\tx',
    "b\t  זר פרחים על שולחן  \t\t\t",
    "c\tکاسه‌ای از انار 🍎👩‍🎨\t1\t\t",
    'd\t"Hello" said the sign\t1\t1:1\t',
    "e\t=SUM(1;2) is no formula, <b>and no HTML</b>\t1\t\t",
  ].join("\r\n"));
  await page.getByText("5 rows from the clipboard. Not used: Notes.").waitFor();
  assert.deepEqual(await sent(page, service), [
    ["a", 'a "golden" cup,\nwith a second line\tand a tab', 2, "16:9"],
    ["b", "  זר פרחים על שולחן  ", 1, "1:1"],
    ["c", "کاسه‌ای از انار 🍎👩‍🎨", 1, "1:1"],
    ["d", '"Hello" said the sign', 1, "1:1"],
    ["e", "=SUM(1;2) is no formula, <b>and no HTML</b>", 1, "1:1"],
  ]);
  page.check();
});

test("a CSV file from Excel is dropped: byte order mark, semicolons, CRLF", async (t) => {
  const service = await Service.start(t, { SYNTHETIC_LATENCY: "0s" });
  const page = await openPage(t, service);
  const text = '\uFEFFscene_id;prompt;variants;aspect_ratio\r\ntasse-1;"Eine Tasse; grün,\r\nmit ""Henkel""";2;4:5\r\ntasse-2;Größe zählt;;\r\n';
  await drop(page, [{ name: "Tassen.csv", type: "text/csv", bytes: Buffer.from(text) }]);
  await page.getByText("2 rows from Tassen.csv.").waitFor();
  assert.deepEqual(await sent(page, service), [
    ["tasse-1", 'Eine Tasse; grün,\nmit "Henkel"', 2, "4:5"],
    ["tasse-2", "Größe zählt", 1, "1:1"],
  ]);
  page.check();
});

test("text that is pasted into a field stays in it, cells become rows, and a draft outlives a reload", async (t) => {
  const service = await Service.start(t);
  const page = await openPage(t, service);
  await page.getByRole("button", { name: "Type a row" }).click();
  await page.getByLabel("Prompt, s-001").fill("typed");
  await paste(page, "two lines\nof one prompt", ".rows textarea");
  await exactly(page.locator(".rows .row"), 1);
  await paste(page, "x\ty z, a longer text\nv\tw and more", ".rows textarea");
  await exactly(page.locator(".rows .row"), 3);
  await page.waitForFunction(() => localStorage.getItem("orchestrator.draft")?.includes("w and more"));
  await page.reload();
  await page.locator(".rows .row").nth(2).waitFor();
  assert.deepEqual(await page.locator(".rows textarea").evaluateAll((all) => all.map((one) => one.value)), ["typed", "y z, a longer text", "w and more"]);
  await drop(page, [{ name: "sheet.xlsx", type: "application/octet-stream", bytes: Buffer.from("PK") }]);
  await page.getByText("Save the sheet as CSV and drop that").waitFor();
  page.check();
});

test("what the service refuses is shown at its row", async (t) => {
  const service = await Service.start(t);
  const page = await openPage(t, service);
  page.expected = [/status of 400/];
  await paste(page, "name\tprompt\treferences\na\tx\thttps://user:secret@example.com/a.png\nb\ty\t");
  await page.getByRole("button", { name: "Check the price" }).click();
  await page.getByText("References: must not contain a user name or a password").waitFor();
  await exactly(page.locator(".rows .row.faulty"), 1);
  page.check();
});
