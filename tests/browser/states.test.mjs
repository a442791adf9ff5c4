// Every state of the console as it looks, in light, dark and on a phone: kept as pictures, and looked at by axe.

import assert from "node:assert/strict";
import { after, test } from "node:test";

import { accessFaults, closeBrowser, drop, openPage, paste, shoot } from "./browser.mjs";
import { Service } from "./service.mjs";

after(closeBrowser);

/** A picture of one colour: one pixel is enough for a reference. */
const PIXEL = Buffer.from("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPj/HwADBwIAMCbHYQAAAABJRU5ErkJggg==", "base64");
const LOOKS = [
  ["light", { colorScheme: "light" }],
  ["dark", { colorScheme: "dark" }],
  ["phone", { colorScheme: "light", viewport: { width: 375, height: 812 }, hasTouch: true, isMobile: true }],
];

const ROWS = [
  "Name\tPrompt\tPictures\tShape",
  "mug-hero\tA hand-thrown stoneware mug in sage green on a linen tablecloth, soft morning window light\t3\t1:1",
  "mug-steam\tThe same mug filled with black coffee, steam rising, dark walnut table, moody side light\t2\t4:5",
  "mug-shelf\tFive stoneware mugs in muted earth tones in a row on a pale oak shelf, seen straight on\t1\t16:9",
  "mug-dark\t[refuse] A mug that the model will not draw\t1\t1:1",
  "mug-text\t[text-only] A mug that is only talked about\t1\t1:1",
  "mug-box\tA sage green mug half unpacked from a kraft paper gift box with crumpled tissue\t1\t9:16",
].join("\n");

for (const [look, options] of LOOKS) {
  test(`every state in ${look} is fit to be seen`, async (t) => {
    const service = await Service.start(t, { SYNTHETIC_LATENCY: "300ms", PROVIDER_CONCURRENCY: "2" });
    const page = await openPage(t, service, "/", options);
    const faults = [];
    const state = async (name) => {
      await shoot(page, `${look}-${name}`);
      faults.push(...(await accessFaults(page)).map((fault) => `${name}: ${fault}`));
      const [wide, seen] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
      if (wide > seen) faults.push(`${name}: the page is ${wide} wide on a screen of ${seen}`);
    };
    const isPhone = look === "phone";

    await page.getByRole("heading", { name: "Paste rows from your spreadsheet" }).waitFor();
    await state("1-empty");

    await paste(page, `${ROWS}\nmug hands\t\t1\t3:2`);
    await page.getByText("Write what the picture should show").waitFor();
    await state("2-faults");

    await page.getByRole("button", { name: "Use mug-hands" }).click();
    await page.getByLabel("Prompt, mug hands").fill("Two hands in a cream jumper holding a sage green mug");
    await drop(page, [{ name: "brand.png", type: "image/png", bytes: PIXEL }]);
    await page.getByText("brand.png").waitFor();
    await page.getByRole("button", { name: "Add references, mug-hero" }).click();
    await page.getByLabel("References of mug-hero: address").fill("https://example.com/style/sheet.png");
    await page.getByRole("dialog").getByRole("button", { name: "Add", exact: true }).click();
    await state("3-references");
    await page.getByRole("button", { name: "Remove example.com …/sheet.png" }).click();
    await page.getByRole("button", { name: "Done" }).click();

    await page.getByRole("button", { name: "Check the price" }).click();
    await page.getByRole("button", { name: "Make 10 pictures" }).waitFor();
    await state("4-priced");
    await page.locator(".budget summary").click();
    await state("5-budget");
    await page.keyboard.press("Escape");

    await page.getByRole("button", { name: "Make 10 pictures" }).click();
    await page.locator(".tile.completed img").first().waitFor();
    await state("6-running");
    await page.getByRole("heading", { name: "What went wrong" }).waitFor();
    await page.locator(".pill.partial").waitFor();
    await state("7-ended");
    await shoot(page, `${look}-7-ended-whole`, { fullPage: true });

    await page.getByRole("button", { name: /mug-hero, picture 2, made/ }).click();
    await page.locator(".viewer .stage img").waitFor();
    await page.keyboard.press("p");
    await page.waitForLoadState("networkidle");
    await state("8-viewer");
    await page.keyboard.press("c");
    await page.waitForLoadState("networkidle");
    await state("9-side-by-side");
    await page.keyboard.press("Escape");

    await page.getByRole("link", { name: "Batches" }).click();
    await page.getByRole("table").waitFor();
    await state("10-batches");

    if (!isPhone) await page.setViewportSize({ width: 900, height: 800 });
    await page.goto(`${service.url}/#/`);
    await page.getByRole("button", { name: "Try an example" }).click();
    await state("11-narrower");
    assert.deepEqual(faults, []);
    page.check();
  });
}
