// The page of whoever runs the service: its numbers are those of the service, it says what is wrong, keeps itself up to
// date while somebody looks, and says since when it could not.

import assert from "node:assert/strict";
import { after, test } from "node:test";

import { accessFaults, closeBrowser, exactly, openPage, shoot } from "./browser.mjs";
import { Service } from "./service.mjs";

after(closeBrowser);

const LOOKS = [
  ["light", { colorScheme: "light" }],
  ["dark", { colorScheme: "dark" }],
  ["phone", { colorScheme: "light", viewport: { width: 375, height: 812 }, hasTouch: true, isMobile: true }],
];

/** Makes a batch of these prompts, and waits until it ended. */
const make = (service, ...prompts) => service.post("/images", {
  runMode: "live", items: prompts.map((prompt, index) => ({ sceneId: `s-${index + 1}`, prompt })),
}, { prefer: "wait=60" });

/** What a service answers after an hour of work in which much went wrong. */
function busyHour() {
  const at = new Date();
  const minute = (age) => {
    const load = Math.round(60 + 40 * Math.sin(age / 7) + (age % 5) * 4);
    const start = new Date(Math.floor(at / 60_000) * 60_000 - age * 60_000).toISOString();
    return { start, requests: load, errors: age > 20 && age < 24 ? 3 : Number(age === 4), p95: age > 20 && age < 24 ? 2500 : 20, completed: Math.round(load / 5), failed: age % 9 ? 0 : 4, cost: load / 100 };
  };
  return {
    at: at.toISOString(), version: "0.1.0", startedAt: new Date(at - 50 * 60_000).toISOString(), memory: 181_000_000, callsInFlight: 3, streamsOpen: 12,
    gate: { limit: 4, usual: 8, closed: "throttled", opensInSeconds: 12 }, reasons: [], ledgerTrouble: null,
    work: {
      dailyLimit: 50, spent: 38.4512, reserved: 9.8, unknown: 0.15, remaining: 1.7488, resetsAt: "2026-11-29T00:00:00Z", queued: 1242, running: 4,
      oldestSeconds: 754, ledgerPending: 42, ledgerLagSeconds: 185,
    },
    minutes: Array.from({ length: 50 }, (_, age) => minute(49 - age)),
    codes: [["safety_blocked", 24], ["unavailable", 9], ["not_found", 3], ["internal", 1], ["of_a_later_version", 1]].map(([code, count]) => ({ code, count })),
  };
}

/** The card with this heading: its large number, and its list as an object. */
async function card(page, title) {
  const element = page.locator(".cards .card").filter({ has: page.getByRole("heading", { name: title, exact: true }) });
  const texts = (selector) => element.locator(selector).allTextContents();
  const [large, names, values] = [await element.locator(".large").textContent(), await texts("dt"), await texts("dd")];
  return { large, ...Object.fromEntries(names.map((name, index) => [name, values[index]])) };
}

for (const [look, options] of LOOKS) {
  test(`the page shows the numbers of a batch with failures, in ${look}`, async (t) => {
    const service = await Service.start(t, { SYNTHETIC_LATENCY: "0s", BUDGET_LEDGER_ENABLED: "true" });
    const good = Array.from({ length: 9 }, (_, index) => `a cup, row ${index}`);
    const { counts, actualCost } = await make(service, ...good, "[refuse] one", "[refuse] two", "[text-only] three");
    assert.deepEqual([counts.completed, counts.failed], [9, 3]);
    assert.equal((await fetch(`${service.url}/images/bat_01KB0000000000000000000000`)).status, 404);

    const page = await openPage(t, service, "/#/operations", options);
    await page.locator(".verdict.warn").waitFor();
    assert.match(await page.locator(".verdict strong").textContent(), /^3 of 12 pictures in the last 10 minutes failed\.$/);
    const dollars = `$${actualCost.toFixed(2)}`;
    const spent = await card(page, "Money today");
    assert.deepEqual([spent.large, spent.Limit, spent.Spent, spent.Reserved], [`$${(1000 - actualCost).toFixed(2)} left`, "$1,000.00", dollars, "$0.00"]);
    assert.deepEqual(await card(page, "Pictures in the queue"), { large: "None waits", "Under way": "0", "The oldest waits for": "–" });
    assert.deepEqual(await card(page, "Pictures in the last hour"), { large: "9 made", Failed: "3", Charged: dollars });
    assert.equal((await card(page, "Calls of the provider")).large, "Open");
    assert.match((await card(page, "Program")).Memory, /^\d+\.\d MB$/);

    const rows = await page.locator(".codes tbody tr").evaluateAll((all) => all.map((row) => [...row.cells].slice(0, 3).map((cell) => cell.textContent)));
    assert.deepEqual(rows, [["safety_blocked", "2", "Picture"], ["no_image", "1", "Picture"], ["not_found", "1", "Caller"]]);
    assert.match(await page.locator(".codes tbody tr").first().innerText(), /The model refused\./);

    await exactly(page.getByRole("img"), 4);
    const pictures = page.getByRole("img", { name: "Pictures a minute" });
    assert.match(await pictures.evaluate((svg) => document.getElementById(svg.getAttribute("aria-describedby")).textContent), /^9 made, 3 failed\./);
    assert.ok((await pictures.locator("rect.fault-column").count()) > 0 && (await pictures.locator("path.fault-column").count()) > 0);
    const columns = await pictures.locator("rect:has(title)").evaluateAll((all) => all.map((rect) => (
      { height: rect.getBoundingClientRect().height, said: Number(rect.getAttribute("height")) })));
    for (const { height, said } of columns) assert.ok(Math.abs(height - said) < 1, `a column of ${said} is drawn ${height} high`);
    const letters = await page.locator(".chart text").evaluateAll((all) => all.map((text) => text.getBoundingClientRect().height));
    assert.ok(Math.min(...letters) >= 12, `letters of ${Math.min(...letters)} pixels`);

    await shoot(page, `${look}-operations`, { fullPage: true });
    const faults = await accessFaults(page);
    await page.getByText("The same as a table").focus();
    await page.keyboard.press("Enter");
    await page.getByRole("table", { name: "The minutes in which anything happened" }).waitFor();
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement.getAttribute("aria-label")), "The last hour as a table");
    await shoot(page, `${look}-operations-table`);
    faults.push(...await accessFaults(page));

    await page.route("**/overview", (route) => route.fulfill({ json: busyHour() }));
    await page.reload();
    await page.getByText("1,242 waiting").waitFor();
    await exactly(page.locator(".verdict li"), 3);
    await shoot(page, `${look}-operations-busy`, { fullPage: true });
    faults.push(...await accessFaults(page));
    const [wide, seen] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    if (wide > seen) faults.push(`the page is ${wide} wide on a screen of ${seen}`);
    assert.deepEqual(faults, []);
    page.check();
  });
}

test("the page says what is wrong, the worst first, and says aloud that something else is", async (t) => {
  const service = await Service.start(t, { SYNTHETIC_LATENCY: "0s", DAILY_BUDGET_USD: "0.55" });
  const page = await openPage(t, service);
  await page.clock.install();
  await page.goto(`${service.url}/#/operations`);
  await page.locator(".verdict.good").waitFor();
  assert.equal(await page.locator(".verdict").innerText(), "All is well.");
  await shoot(page, "light-operations-well", { fullPage: true });
  await make(service, ...Array.from({ length: 10 }, () => "a cup"));
  await make(service, "[quota] a cup");
  await page.clock.runFor(5_000);
  await page.locator(".verdict.bad").waitFor();
  assert.match(await page.locator(".verdict strong").textContent(), /^The provider's quota of the day is used up for a model/);
  assert.match(await page.locator(".verdict li").innerText(), /^\$0\.50 spent, of \$0\.55 for the day: \$0\.05 is left\. \(all instances\)$/);
  assert.match(await page.locator("#announcer").textContent(), /quota of the day .* \$0\.05 is left/);
  assert.equal((await card(page, "Calls of the provider")).large, "Quota used up");
  await shoot(page, "light-operations-troubled", { fullPage: true });
  assert.deepEqual(await accessFaults(page), []);
  page.check();
});

test("money that was spent on calls of unknown outcome is a note, and all is well", async (t) => {
  const service = await Service.start(t, { SYNTHETIC_LATENCY: "0s" });
  const page = await openPage(t, service);
  await page.route("**/overview", async (route) => {
    const view = await (await route.fetch()).json();
    await route.fulfill({ json: { ...view, work: { ...view.work, spent: 1, unknown: 0.1 } } });
  });
  await page.goto(`${service.url}/#/operations`);
  await page.locator(".verdict.good").waitFor();
  assert.equal(await page.locator(".verdict strong").textContent(), "All is well.");
  assert.match(await page.locator(".verdict li").innerText(), /^\$0\.10 of \$1\.00 spent is for calls whose outcome nobody knows\./);
  assert.match(await page.locator("#announcer").textContent(), /^All is well\. \$0\.10 of/);
  assert.deepEqual(await accessFaults(page), []);
  page.check();
});

test("the page reads itself anew while somebody looks, and says since when it could not", async (t) => {
  const service = await Service.start(t, { SYNTHETIC_LATENCY: "0s" });
  const page = await openPage(t, service);
  page.expected = [/ERR_CONNECTION_REFUSED|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE/];
  let asked = 0;
  page.on("request", (request) => (asked += new URL(request.url()).pathname === "/overview"));
  await page.clock.install();
  await page.goto(`${service.url}/#/operations`);
  await page.locator(".verdict").waitFor();
  const made = page.locator(".cards .card").filter({ hasText: "Pictures in the last hour" }).locator(".large");
  assert.equal(await made.textContent(), "0 made");
  const table = page.getByText("The same as a table");
  await table.focus();
  await page.keyboard.press("Enter");
  await make(service, "a cup", "another cup");
  await page.clock.runFor(5_000);
  await page.getByText("2 made", { exact: true }).waitFor();
  assert.ok(await table.evaluate((element) => element === document.activeElement && element.parentElement.open), "what is read and opened stays");

  const turn = (state) => page.evaluate((now) => {
    Object.defineProperty(document, "visibilityState", { value: now, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
  }, state);
  await turn("hidden");
  const before = asked;
  await page.clock.runFor(120_000);
  assert.equal(asked, before, "nobody looks");
  await Promise.all([page.waitForResponse("**/overview"), turn("visible")]);
  assert.equal(asked, before + 1);

  await service.kill();
  await page.clock.runFor(5_000);
  const trouble = page.locator(".banner.warn");
  await trouble.getByText(/^Not read since .* The service cannot be reached/).waitFor();
  assert.match(await page.locator("#announcer").textContent(), /^Not read since/);
  assert.ok(await page.locator(".verdict").isHidden(), "nobody knows whether all is well");
  await shoot(page, "light-operations-away");
  assert.deepEqual(await accessFaults(page), []);
  const since = /since \S+( [AP]M)?/.exec(await trouble.textContent())[0];
  const earlier = await trouble.textContent();
  await page.clock.runFor(5_000);
  await trouble.filter({ hasNotText: earlier }).waitFor();
  assert.ok((await trouble.textContent()).includes(since), "since when stays");
  await service.start();
  await trouble.getByRole("button", { name: "Try now" }).click();
  await trouble.waitFor({ state: "hidden" });
  await page.getByText("Another one than before answered meanwhile, or it was started anew").waitFor();

  await page.getByRole("link", { name: "New batch" }).first().click();
  await page.getByRole("heading", { name: "Paste rows from your spreadsheet" }).waitFor();
  const left = asked;
  await page.clock.runFor(60_000);
  assert.equal(asked, left, "another page does not read it");
  page.check();
});

test("while nobody can be let in, what is away is told all the same", async (t) => {
  const service = await Service.start(t);
  const page = await openPage(t, service);
  page.expected = [/status of 503/];
  const away = (more) => ({ status: 503, contentType: "application/problem+json", json: { code: "unavailable", title: "Unavailable for now", status: 503, ...more } });
  await page.route("**/overview", (route) => route.fulfill(away({})));
  await page.route("**/ready", (route) => route.fulfill(away({ reasons: ["store: database unavailable"] })));
  await page.goto(`${service.url}/#/operations`);
  await page.locator(".banner").getByText(/^Not read since .*\. The database does not answer: batches are refused until it does \(store: database unavailable\)\. Next try at/).waitFor();
  assert.ok(await page.getByText("One moment…").isHidden());
  assert.deepEqual(await accessFaults(page), []);
  await page.unroute("**/overview");
  await page.getByRole("button", { name: "Try now" }).click();
  await page.locator(".verdict.good").waitFor();
  page.check();
});

test("who may not look is told what is needed", async (t) => {
  const service = await Service.start(t);
  const key = service.newKey("maria");
  const page = await openPage(t, service, "/#/operations");
  page.expected = [/status of 40[13]/];
  await page.getByLabel("API key").fill(key);
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "This page needs the scope admin" }).waitFor();
  await page.getByText("orchestrator keys new --name you --scopes admin").waitFor();
  await shoot(page, "light-operations-no-scope");
  assert.deepEqual(await accessFaults(page), []);
  await page.getByRole("link", { name: "All batches" }).click();
  await page.getByRole("heading", { name: "No batch yet" }).waitFor();
  page.check();
});
