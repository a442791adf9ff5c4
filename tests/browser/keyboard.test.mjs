// Everything without a mouse, and on a small screen.

import assert from "node:assert/strict";
import { after, test } from "node:test";

import { closeBrowser, exactly, openPage } from "./browser.mjs";
import { Service } from "./service.mjs";

after(closeBrowser);

/** What has the keyboard: its name, and whether that can be seen. */
const focused = (page) => page.evaluate(() => {
  const element = document.activeElement;
  const style = getComputedStyle(element);
  const name = element.getAttribute("aria-label") ?? element.labels?.[0]?.textContent ?? element.textContent;
  return { name: name.trim(), seen: element === document.body || (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2) };
});

/** Presses Tab until the element with this name has the keyboard; each on the way must show that it has it. */
async function tabTo(page, name, key = "Tab") {
  const passed = [];
  for (let count = 0; count < 80; count += 1) {
    await page.keyboard.press(key);
    const at = await focused(page);
    assert.ok(at.seen, `nobody sees that ${at.name} has the keyboard`);
    if (at.name.startsWith(name)) return;
    passed.push(at.name.slice(0, 30));
  }
  assert.fail(`${name} is out of reach: ${passed.join(" | ")}`);
}

test("a batch is written, priced, made, looked at, picked and reworded with the keyboard alone", async (t) => {
  const service = await Service.start(t, { SYNTHETIC_LATENCY: "0s" });
  const page = await openPage(t, service);
  await page.getByRole("heading", { name: "Paste rows from your spreadsheet" }).waitFor();
  await tabTo(page, "Type a row");
  await page.keyboard.press("Enter");
  assert.equal((await focused(page)).name, "Prompt, s-001");
  await page.keyboard.type("a cup of tea");
  await tabTo(page, "Pictures, s-001");
  await page.keyboard.type("3");
  await tabTo(page, "Shape, s-001");
  await page.keyboard.type("16:9");
  await tabTo(page, "Add references, s-001");
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  assert.equal((await focused(page)).name, "Add references, s-001");
  await tabTo(page, "Add a row");
  await page.keyboard.press("Enter");
  await page.keyboard.type("[refuse] a cup of nothing");
  await page.keyboard.press("Control+Enter");
  await page.getByRole("button", { name: "Make 4 pictures" }).waitFor();
  await page.keyboard.press("Control+Enter");
  await page.locator(".pill.partial").waitFor();

  await tabTo(page, "s-001, picture 1");
  await page.keyboard.press("ArrowRight");
  assert.match((await focused(page)).name, /^s-001, picture 2/);
  await page.keyboard.press("p");
  await page.waitForFunction(() => document.activeElement.getAttribute("aria-label").endsWith("picked"));
  await page.keyboard.press("End");
  assert.match((await focused(page)).name, /^s-002, picture 1, the model refused/);
  await page.keyboard.press("Home");
  await page.keyboard.press("Enter");
  const place = page.locator(".place");
  assert.equal(await place.textContent(), "s-001, 1 of 3");
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("ArrowRight");
  assert.equal(await place.textContent(), "s-001, 3 of 3");
  await page.keyboard.press("c");
  await exactly(page.locator(".stage figure"), 3);
  await exactly(page.locator(".stage .picked"), 1);
  await page.keyboard.press("1");
  await exactly(page.locator(".stage .picked"), 2);
  await page.keyboard.press("ArrowRight");
  assert.equal(await page.locator(".stage h3").textContent(), "The model refused");
  assert.match(page.url(), /\/s-002\/1$/);
  await page.keyboard.press("Escape");
  await page.locator("dialog[open]").waitFor({ state: "detached" }).catch(() => {});
  // The focus goes back when the dialog has told that it is closed.
  await page.waitForFunction(() => document.activeElement.getAttribute("aria-label")?.startsWith("s-002, picture 1"));

  await tabTo(page, "Reword", "Shift+Tab");
  await page.keyboard.press("Enter");
  await page.getByLabel("Prompt, s-002").waitFor();
  assert.equal(await page.getByLabel("Prompt, s-002").inputValue(), "[refuse] a cup of nothing");
  page.check();
});

test("progress is told to who cannot see it", async (t) => {
  const service = await Service.start(t, { SYNTHETIC_LATENCY: "300ms", PROVIDER_CONCURRENCY: "1" });
  const page = await openPage(t, service);
  await page.evaluate(() => {
    window.told = [];
    new MutationObserver(() => window.told.push(document.getElementById("announcer").textContent)).observe(document.getElementById("announcer"), { childList: true });
  });
  await page.getByRole("button", { name: "Try an example" }).click();
  await page.keyboard.press("Control+Enter");
  await page.getByRole("button", { name: "Make 10 pictures" }).click();
  await page.locator(".pill.completed").waitFor();
  const told = await page.evaluate(() => window.told);
  assert.ok(told.includes("At most $0.50"), told.join("; "));
  assert.ok(told.some((text) => /^5 of 10 made/.test(text)), told.join("; "));
  await page.waitForFunction(() => window.told.at(-1) === "The batch has ended: 10 of 10 pictures made");
  const bar = page.getByRole("progressbar", { name: "Pictures that ended" });
  assert.equal(await bar.getAttribute("aria-valuetext"), "10 of 10 made");
  page.check();
});
