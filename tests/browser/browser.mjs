// A real Chromium with an eye on it: no fault in its console, no request that leaves the service, no fault that axe sees.

import assert from "node:assert/strict";
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

import { AxeBuilder } from "@axe-core/playwright";
import { chromium } from "playwright-core";

import { ROOT } from "./service.mjs";

const SHOTS = join(ROOT, "target/screenshots");
const PROGRAM = process.env.TEST_CHROMIUM ?? ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);
const ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
/** Longest wait for anything, in milliseconds. */
const WAIT = Number(process.env.TEST_PATIENCE ?? 60_000);

let shared;

/** Closes the browser of all tests of a file; for `after`. */
export const closeBrowser = async () => (await shared)?.close();

/**
 * A page of `service`. `options` are those of a browser's context. What must not happen is noted, and checked by
 * `page.check()`; faults that a test provokes are named in `page.expected`.
 */
export async function openPage(t, service, path = "/", options = {}) {
  shared ??= chromium.launch({ executablePath: PROGRAM, args: ARGUMENTS });
  const context = await (await shared).newContext({ viewport: { width: 1440, height: 900 }, reducedMotion: "reduce", acceptDownloads: true, ...options });
  const faults = [];
  t.after(async () => {
    // What the page said is the first thing to know when a test fails, and nothing to anybody else.
    faults.forEach((fault) => t.diagnostic(fault));
    await context.close();
  });
  if (process.env.TEST_CONSOLE_FROM_DISK) await fromDisk(context);
  const page = await context.newPage();
  page.setDefaultTimeout(WAIT);
  page.expected = [];
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && faults.push(`console: ${message.text()}`));
  page.on("pageerror", (error) => faults.push(`exception: ${error.message} ${error.stack}`));
  page.on("request", (request) => {
    const { protocol, origin } = new URL(request.url());
    if (!["data:", "blob:"].includes(protocol) && origin !== service.url) faults.push(`a request left the origin: ${request.url()}`);
  });
  page.check = () => assert.deepEqual(faults.filter((fault) => !page.expected.some((known) => known.test(fault))), []);
  await page.goto(service.url + path);
  return page;
}

/** Serves the console as it is on the disk, so that it can be changed without building the program again. */
async function fromDisk(context) {
  await context.route(/:\d+\/(console\/[a-z.]+)?$/, async (route) => {
    const name = new URL(route.request().url()).pathname.split("/").at(-1) || "index.html";
    const body = readFileSync(join(ROOT, "web", name === "stream.js" ? name : `console/${name}`));
    const response = await route.fetch();
    const contentType = { css: "text/css", js: "text/javascript", html: "text/html" }[name.split(".").at(-1)];
    await route.fulfill({ body, status: 200, headers: { ...response.headers(), "content-type": contentType } });
  });
}

/** What axe finds serious on the page as it is. */
export async function accessFaults(page) {
  const { violations } = await new AxeBuilder({ page }).withTags(["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]).analyze();
  const serious = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
  const where = ({ html, any, all }) => `\n  ${html.slice(0, 160)} ${[...any, ...all][0]?.message ?? ""}`;
  return serious.map(({ id, help, nodes }) => `${id}: ${help}${nodes.slice(0, 4).map(where).join("")}`);
}

/** There come to be so many of these, within what Playwright waits for anything. */
export async function exactly(locator, count) {
  for (const end = Date.now() + WAIT; (await locator.count()) !== count; await locator.page().waitForTimeout(50)) {
    if (Date.now() > end) assert.equal(await locator.count(), count, String(locator));
  }
}

/** Keeps what the page looks like. */
export async function shoot(page, name, options = {}) {
  mkdirSync(SHOTS, { recursive: true });
  await page.screenshot({ path: join(SHOTS, `${name}.png`), ...options });
}

/** Puts text into the page as if it were pasted from a spreadsheet. */
export async function paste(page, text, selector = "body") {
  await page.locator(selector).first().evaluate((element, pasted) => {
    const data = new DataTransfer();
    data.setData("text/plain", pasted);
    element.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true }));
  }, text);
}

/** Drops files onto the page. */
export async function drop(page, files, selector = "main") {
  await page.locator(selector).first().evaluate((element, dropped) => {
    const data = new DataTransfer();
    for (const { name, type, base64 } of dropped) {
      data.items.add(new File([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))], name, { type }));
    }
    for (const kind of ["dragover", "drop"]) element.dispatchEvent(new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
  }, files.map(({ name, type, bytes }) => ({ name, type, base64: Buffer.from(bytes).toString("base64") })));
}
