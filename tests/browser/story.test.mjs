// The whole story of somebody who needs pictures: from a spreadsheet to files, over a service that dies on the way.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";

import { closeBrowser, exactly, openPage, paste, shoot } from "./browser.mjs";
import { Service } from "./service.mjs";

after(closeBrowser);

const PROMPTS = [
  'a cup, "as it is"', "a chair in the rain", "東京タワーの夜景 🌃", "a red kite", "a bowl of figs", "[refuse] what no model draws",
  "a brass lamp", "a folded map", "a cat asleep", "a stone bridge", "a jar of buttons", "a blue door",
];
/** The last row has a name that cannot be one. */
const NAMES = PROMPTS.map((_, index) => (index === 11 ? "blue door!" : `row-${index + 1}`));
const SHEET = ["name\tprompt\tpictures", ...PROMPTS.map((prompt, index) => `${NAMES[index]}\t${index === 0 ? '"a cup, ""as it is"""' : prompt}\t${index === 1 ? 3 : 1}`)].join("\r\n");
const MADE = 13;

/** The event numbers and pictures that the stream of a batch has told. */
async function toldBy(service, batch) {
  const text = await (await fetch(`${service.url}/images/${batch}/events`)).text();
  const events = text.split("\n\n").map((block) => /^data: (.*)$/m.exec(block)?.[1]).filter(Boolean).map((data) => JSON.parse(data));
  assert.deepEqual(events.map(({ seq }) => seq), events.map((_, index) => index + 1));
  return events;
}

async function saved(page, press, folder) {
  const [download] = await Promise.all([page.waitForEvent("download"), press()]);
  const path = join(folder, download.suggestedFilename());
  await download.saveAs(path);
  return path;
}

test("from twelve pasted rows to files, over a service that is killed on the way", async (t) => {
  const service = await Service.start(t, { SYNTHETIC_LATENCY: "400ms", PROVIDER_CONCURRENCY: "2" });
  const folder = mkdtempSync(join(tmpdir(), "orchestrator-story-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const page = await openPage(t, service);
  // What a killed service leaves in the console of any browser.
  page.expected = [/ERR_CONNECTION_(REFUSED|RESET)|ERR_INCOMPLETE_CHUNKED_ENCODING|ERR_EMPTY_RESPONSE/];

  await paste(page, SHEET);
  const fault = page.getByText("Name: Use letters, digits");
  await fault.waitFor();
  await exactly(page.locator(".rows .row.faulty"), 1);
  assert.equal(await page.getByLabel("Prompt, row-1", { exact: true }).inputValue(), 'a cup, "as it is"');
  await page.getByRole("button", { name: "Check the price" }).click();
  await page.getByRole("button", { name: "1 row needs a look" }).waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.getAttribute("aria-label")), "Name, blue door!");
  await page.keyboard.press("ControlOrMeta+a");
  await page.keyboard.type("row-12");
  await fault.waitFor({ state: "detached" });

  const before = await service.get("/budget");
  await page.getByRole("button", { name: "Check the price" }).click();
  const make = page.getByRole("button", { name: "Make 14 pictures" });
  await make.waitFor();
  assert.equal(await page.locator(".price dd strong").textContent(), "$0.70");
  assert.equal(await page.locator(".rows .row").nth(1).locator(".cost").textContent(), "$0.15");
  assert.match(await page.locator(".price").innerText(), /Left today\s+\$1,000.00\s+Left after that\s+\$999.30/);
  assert.deepEqual(await service.get("/budget"), before, "a price costs nothing");

  await make.click();
  await page.waitForURL(/#\/batches\/bat_/);
  const batch = /bat_\w+/.exec(page.url())[0];
  await page.locator(".tile.completed").nth(2).waitFor();
  await service.kill();
  await page.getByText("reconnecting in").waitFor();
  await shoot(page, "story-reconnecting");
  const madeBefore = await page.locator(".tile.completed").count();
  await service.start();
  await page.getByRole("button", { name: "Try now" }).click({ timeout: 2000 }).catch(() => {});
  await page.locator(".pill.partial").waitFor();
  assert.ok(await page.getByText("reconnecting in").isHidden());

  const keys = await page.locator(".tile").evaluateAll((tiles) => tiles.map((tile) => [tile.dataset.key, tile.classList[1]]));
  assert.equal(new Set(keys.map(([key]) => key)).size, 14, "each picture is there once");
  const view = await service.get(`/images/${batch}?limit=200`);
  const real = view.items.flatMap((item) => item.images.map((image) => [`${item.sceneId.toLowerCase()}/${image.variant}`, image.state]));
  assert.deepEqual(keys, real, "what is shown is what is there");
  assert.ok(madeBefore < MADE, "the service was killed in the middle");
  const told = (await toldBy(service, batch)).filter(({ type }) => type === "image_complete").map(({ sceneId, variant }) => `${sceneId}/${variant}`);
  assert.equal(told.length, MADE);
  assert.equal(new Set(told).size, MADE, "no picture is made twice");
  const rowTwo = page.locator(".shot").nth(1);
  await exactly(rowTwo.locator("img"), 3);

  await page.getByRole("button", { name: "Try anyway: The model refused" }).click();
  await page.locator(".pill.running, .pill.queued").waitFor();
  await page.locator(".pill.partial").waitFor();
  const again = await toldBy(service, batch);
  assert.deepEqual(again.filter(({ type }) => ["started", "done"].includes(type)).map(({ type }) => type), ["started", "done", "started", "done"]);

  const first = page.getByRole("button", { name: "row-2, picture 2, made" });
  await first.focus();
  await page.keyboard.press("p");
  await page.getByRole("button", { name: /row-2, picture 2, made, .*picked/ }).waitFor();
  await page.getByRole("button", { name: /^Picked/ , pressed: false }).first().click();
  await exactly(page.locator(".tile:visible"), 1);
  const picked = readFileSync(await saved(page, () => page.getByRole("button", { name: "Picked list" }).click(), folder), "utf8");
  assert.ok(picked.includes(`"row-2","2","a chair in the rain","${service.url}/images/${batch}/items/row-2/2"`), picked);
  await page.reload();
  await page.getByRole("button", { name: /row-2, picture 2, made, .*picked/ }).waitFor();

  const zip = await saved(page, () => page.getByRole("link", { name: "ZIP" }).click(), folder);
  const files = join(folder, "zip");
  execFileSync("python3", ["-m", "zipfile", "-e", zip, files]);
  const pictures = readdirSync(files, { recursive: true }).filter((name) => name.endsWith(".png"));
  assert.equal(pictures.length, MADE, pictures.join(" "));
  for (const item of view.items) for (const image of item.images.filter(({ state }) => state === "completed")) {
    const name = pictures.find((one) => one.endsWith(`${item.sceneId}_v${image.variant}.png`));
    assert.equal(readFileSync(join(files, name)).length, image.bytes, name);
  }
  const csv = readFileSync(await saved(page, () => page.getByRole("link", { name: "CSV" }).click(), folder), "utf8");
  for (const name of told) assert.ok(csv.includes(`/images/${batch}/items/${name}`), name);
  assert.ok(csv.includes("東京タワーの夜景 🌃"));

  await page.getByRole("button", { name: "Reword" }).click();
  await page.getByLabel("Prompt, row-6").fill("what any model draws");
  await page.getByRole("button", { name: "Check the price" }).click();
  await page.getByRole("button", { name: "Make 1 picture" }).click();
  await page.locator(".pill.completed").waitFor();
  await page.getByRole("link", { name: "Batches" }).click();
  await page.locator("tbody tr").nth(1).waitFor();
  await exactly(page.locator("tbody tr"), 2);
  page.check();
});

test("a second try after a lost answer makes no second batch", async (t) => {
  const service = await Service.start(t);
  const page = await openPage(t, service);
  page.expected = [/ERR_FAILED/];
  await paste(page, "one prompt\nanother prompt");
  await page.getByRole("button", { name: "Check the price" }).click();
  const make = page.getByRole("button", { name: "Make 2 pictures" });
  await make.waitFor();
  // The service takes the batch, and its answer is lost.
  await page.route("**/images", async (route) => (await route.fetch(), route.abort()), { times: 1 });
  await make.click();
  await page.getByText("The service cannot be reached").waitFor();
  await page.reload();
  await page.getByRole("button", { name: "Check the price" }).click();
  await make.click();
  await page.locator(".pill.completed").waitFor();
  assert.equal((await service.get("/images")).batches.length, 1);
  page.check();
});

test("a key is asked for, kept as a session, and what it may not do is said", async (t) => {
  const service = await Service.start(t);
  const key = service.newKey("maria");
  const page = await openPage(t, service);
  page.expected = [/status of 40[13]/];
  await page.getByRole("heading", { name: "Log in" }).waitFor();
  await shoot(page, "story-login");
  await page.getByLabel("API key").fill(`${key.slice(0, -1)}${key.endsWith("0") ? 1 : 0}`);
  await page.keyboard.press("Enter");
  await page.getByRole("alert").filter({ hasText: "not valid" }).waitFor();
  await page.getByLabel("API key").fill(key);
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "Paste rows from your spreadsheet" }).waitFor();
  await page.getByText("maria").waitFor();
  assert.equal(await page.evaluate(() => JSON.stringify({ ...localStorage, cookie: document.cookie }).includes("aip_")), false, "no page sees the key again");
  await page.reload();
  await page.getByRole("button", { name: "Try an example" }).click();
  await page.getByRole("button", { name: "Check the price" }).click();
  await page.getByRole("button", { name: "Make 10 pictures" }).waitFor();
  await page.getByRole("button", { name: "Log out" }).click();
  await page.getByRole("heading", { name: "Log in" }).waitFor();
  page.check();
});

test("a service that only checks prices says so, and how pictures are made", async (t) => {
  const service = await Service.start(t, { RUN_MODE: "dry_run" });
  const page = await openPage(t, service);
  await page.getByText("RUN_MODE=live").waitFor();
  await page.getByRole("button", { name: "Try an example" }).click();
  await page.getByRole("button", { name: "Check the price" }).click();
  await page.getByText("it runs with RUN_MODE=dry_run").waitFor();
  assert.ok(await page.locator(".price button.primary").isDisabled());
  await shoot(page, "story-prices-only");
  page.check();
});

test("a batch that is dearer than what is left says how much is missing; one without streams is asked for", async (t) => {
  const service = await Service.start(t, { DAILY_BUDGET_USD: "0.12", SSE_ENABLED: "false", SYNTHETIC_LATENCY: "0s" });
  const page = await openPage(t, service);
  page.expected = [/status of 40[24]/];
  await paste(page, "one\ntwo\nthree");
  await page.getByRole("button", { name: "Check the price" }).click();
  await page.getByRole("button", { name: "Make 3 pictures" }).click();
  await page.getByText("This would reserve up to $0.15, and $0.12 of today's $0.12 is left.").waitFor();
  await page.getByRole("button", { name: "Remove, s-003" }).click();
  await page.getByRole("button", { name: "Check the price" }).click();
  await page.getByRole("button", { name: "Make 2 pictures" }).click();
  await page.locator(".pill.completed").waitFor();
  page.check();
});

test("a batch that is cancelled makes nothing more", async (t) => {
  const service = await Service.start(t, { SYNTHETIC_LATENCY: "1s", PROVIDER_CONCURRENCY: "1" });
  const page = await openPage(t, service);
  await paste(page, Array.from({ length: 8 }, (_, index) => `prompt ${index}`).join("\n"));
  await page.getByRole("button", { name: "Check the price" }).click();
  await page.getByRole("button", { name: "Make 8 pictures" }).click();
  await page.getByRole("button", { name: "Cancel" }).click();
  await page.getByRole("button", { name: "Cancel the batch" }).click();
  await page.locator(".pill.cancelled").waitFor();
  const { counts } = await service.get(`/images/${/bat_\w+/.exec(page.url())[0]}`);
  await exactly(page.locator(".tile.cancelled"), counts.cancelled);
  assert.ok(counts.cancelled >= 6);
  page.check();
});

test("a session that ends while a batch runs asks for the key again, and nothing is missed", async (t) => {
  const service = await Service.start(t, { SYNTHETIC_LATENCY: "500ms", PROVIDER_CONCURRENCY: "1" });
  const key = service.newKey("maria");
  const page = await openPage(t, service);
  page.expected = [/status of 401/, /ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED_ENCODING|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE/];
  const logIn = async () => {
    await page.getByLabel("API key").fill(key);
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: "Log in" }).waitFor({ state: "detached" });
  };
  await logIn();
  await paste(page, Array.from({ length: 8 }, (_, index) => `picture ${index}`).join("\n"));
  await page.getByRole("button", { name: "Check the price" }).click();
  await page.getByRole("button", { name: "Make 8 pictures" }).click();
  await page.locator(".tile.completed").first().waitFor();
  await page.context().clearCookies();
  await service.kill();
  await service.start();
  await page.getByRole("heading", { name: "Log in" }).waitFor();
  await logIn();
  await page.locator(".pill.completed").waitFor();
  await exactly(page.locator(".tile.completed"), 8);
  page.check();
});

test("a batch that is not there is told as such, and an address of a picture opens it", async (t) => {
  const service = await Service.start(t, { SYNTHETIC_LATENCY: "0s" });
  const page = await openPage(t, service, "/#/batches/bat_01KB0000000000000000000000");
  page.expected = [/status of 404/];
  await page.getByRole("heading", { name: "This page cannot be shown" }).waitFor();
  const { batchId } = await service.post("/images", { runMode: "live", items: [{ sceneId: "A", prompt: "a cup", variants: 2 }] }, { prefer: "wait=30" });
  await page.goto(`${service.url}/#/batches/${batchId}/a/2`);
  assert.equal(await page.locator(".place").textContent(), "A, 2 of 2");
  await page.goBack();
  await page.locator("dialog[open]").waitFor({ state: "detached" });
  page.check();
});
