// A batch while it runs and after: progress, pictures as they come, failures and what to do, downloads.

import { ApiError, batch as loadPage, cancel, retry } from "./api.js";
import { Board, keyOf } from "./board.js";
import { replaceDraft } from "./compose.js";
import { announce, button, confirm, h, icon, saveText, toast } from "./dom.js";
import { fromItems, load as loadDraft } from "./draft.js";
import { inWords, Pace } from "./estimate.js";
import { count, csvRecord, money, span, when } from "./format.js";
import { FILTERS, Grid } from "./grid.js";
import { statePill } from "./history.js";
import { Picks } from "./picks.js";
import { follow, Refused } from "./stream.js";
import { Viewer } from "./viewer.js";
import { failure, sentence } from "./words.js";

/** How often a service without streams is asked. */
const POLL = 5_000;
/** How long numbers may lag behind, in milliseconds. */
const SHOWN_EVERY = 150;
/** Shares of a batch that are told to those who cannot see it. */
const TOLD = [0.25, 0.5, 0.75];

/** Shows a batch. What is returned opens and closes its viewer: `open([sceneId, variant])`. */
export async function runView(shell, main, id, signal) {
  const first = await loadPage(id, undefined, signal);
  const run = new Run(shell, id, first, signal);
  main.replaceChildren(run.element);
  run.start(first);
  return { open: (rest) => run.openPath(rest) };
}

class Run {
  #shell;
  #id;
  #signal;
  #pace = new Pace();
  #told = 0;
  #timer;
  #wake = new Set();
  #following;
  #refusals = 0;

  constructor(shell, id, first, signal) {
    [this.#shell, this.#id, this.#signal] = [shell, id, signal];
    this.board = new Board(first);
    this.picks = new Picks(id);
    this.grid = new Grid(this.picks, { open: (tile) => this.#open(tile), picked: (tile) => this.#picked(tile) });
    this.viewer = new Viewer(this.board, this.picks, {
      picked: (tile) => this.#picked(tile),
      moved: (tile) => history.replaceState(null, "", `#/batches/${id}/${encodeURIComponent(tile.sceneId)}/${tile.variant}`),
      closed: (tile) => this.#closed(tile),
    });
    this.#parts();
    const timer = setInterval(() => this.board.counts().open > 0 && this.#showProgress(), 1000);
    const online = () => this.#tryNow();
    addEventListener("online", online);
    signal.addEventListener("abort", () => {
      clearInterval(timer);
      removeEventListener("online", online);
      this.viewer.close();
      this.viewer.remove();
    });
  }

  #parts() {
    const { batch } = this.board;
    this.pill = h("span", {});
    this.actions = h("div", { class: "toolbar" });
    this.bar = h("div", { class: "progress", role: "progressbar", "aria-label": "Pictures that ended", "aria-valuemin": 0 },
      ...["completed", "failed", "cancelled"].map((kind) => h("span", { class: kind })));
    this.facts = h("dl", { class: "stats" });
    this.connection = h("p", { class: "banner warn", role: "status", hidden: true });
    this.notices = h("div", { class: "notices" });
    this.failures = h("section", { class: "card failures", "aria-label": "Failures", hidden: true });
    this.filters = h("div", { class: "filters", role: "group", "aria-label": "Show" }, ...FILTERS.map(([name]) => h("button", { type: "button", "aria-pressed": String(name === "all"), "data-filter": name, onclick: () => this.#filter(name) })));
    this.exports = h("div", { class: "toolbar" },
      h("a", { class: "button", href: `/images/${this.#id}/results?format=zip`, download: "" }, icon("save"), h("span", {}, "ZIP")),
      h("a", { class: "button", href: `/images/${this.#id}/results?format=csv&bom=true`, download: "" }, icon("sheet"), h("span", {}, "CSV with links")));
    this.pickExport = button("Picked list", () => this.#exportPicks(), { icon: "pick", hidden: true });
    this.exports.append(this.pickExport);
    this.element = h("section", { class: "page run" },
      h("div", { class: "page-head" }, h("div", { class: "title" }, h("h1", {}, `Batch from ${when(batch.createdAt)}`), this.pill), this.actions),
      h("p", { class: "soft sub" }, `${batch.model} · `, h("span", { class: "id" }, batch.batchId)),
      batch.message && h("p", { class: "banner" }, icon("picture"), h("span", {}, sentence(batch.message))),
      this.connection, this.notices,
      h("div", { class: "card status" }, this.bar, this.facts), this.failures,
      h("div", { class: "grid-head" }, this.filters, this.exports), this.grid.element, this.grid.nothing);
  }

  /** Shows the first page, gets the others, and follows what comes after. */
  async start(first) {
    try {
      await this.#takeIn(first);
      if (this.#signal.aborted) return;
      if (this.board.counts().open > 0) await this.#follow(first.lastEvent);
    } catch (error) {
      if (this.#signal.aborted || error.name === "AbortError") return;
      if (!(error instanceof ApiError)) throw error;
      this.#showConnection(error.message, "Try again", () => this.#reload());
    }
  }

  /** Everything anew: what a retry has set back is in no event. */
  async #reload() {
    this.#following?.abort();
    this.#pace.clear();
    this.#told = 0;
    this.connection.hidden = true;
    try {
      const first = await loadPage(this.#id, undefined, this.#signal);
      await this.start(first);
    } catch (error) {
      if (this.#signal.aborted || error.name === "AbortError") return;
      if (!(error instanceof ApiError)) throw error;
      this.#showConnection(error.message, "Try again", () => this.#reload());
    }
  }

  async #takeIn(first) {
    this.board.batch = first;
    for (let page = first; ; page = await loadPage(this.#id, page.nextCursor, this.#signal)) {
      this.grid.add(this.board.addItems(page.items));
      const tiles = page.items.flatMap((item) => item.images.map((image) => this.board.tiles.get(keyOf(item.sceneId, image.variant))));
      this.grid.update(tiles);
      this.viewer.update(tiles);
      this.#showSoon();
      if (!page.nextCursor) return;
    }
  }

  async #follow(after) {
    this.#following = new AbortController();
    const { signal } = this.#following;
    this.#signal.addEventListener("abort", () => this.#following.abort());
    const events = follow(`/images/${this.#id}/events`, {
      after, signal, onState: (state) => this.#heard(state),
      wake: (now) => (this.#wake.add(now), () => this.#wake.delete(now)),
    });
    try {
      for await (const event of events) {
        if (event.type === "started" && event.id > 1) return void this.#reload();
        this.#refusals = 0;
        this.#apply(event);
      }
      if (!signal.aborted) await this.#ended();
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      // Asking for the batch shows the login if that is what is missing. A stream that is refused all the same is done without.
      this.#refusals += 1;
      if (error.status === 401 && this.#refusals < 2) await this.#reload();
      else await this.#poll(signal);
    }
  }

  #heard(state) {
    if (state.state === "open") {
      if (!this.connection.hidden) announce("Connected again");
      this.connection.hidden = true;
    } else {
      const seconds = Math.max(1, Math.round(state.pause / 1000));
      this.#showConnection(`Connection lost, reconnecting in ${seconds} s. Nothing is missed.`, "Try now", () => this.#tryNow());
    }
  }

  #tryNow() {
    for (const wake of [...this.#wake]) wake();
  }

  #showConnection(text, name, act) {
    this.connection.replaceChildren(icon("again"), h("span", {}, text), button(name, act, { kind: "link" }));
    this.connection.hidden = false;
  }

  async #poll(signal) {
    while (!signal.aborted && this.board.counts().open > 0) {
      await new Promise((resolve) => setTimeout(resolve, POLL));
      if (signal.aborted) return;
      await this.#takeIn(await loadPage(this.#id, undefined, this.#signal));
    }
    if (!signal.aborted) await this.#ended();
  }

  #apply(event) {
    const tiles = this.board.apply(event);
    if (event.type === "image_complete" || event.type === "image_failed") this.#pace.note(event.data.ts, performance.now());
    this.grid.update(tiles);
    this.viewer.update(tiles);
    this.#showSoon();
  }

  async #ended() {
    const counts = this.board.counts();
    announce(`The batch has ended: ${counts.completed} of ${count(counts.total, "picture")} made`);
    const now = await loadPage(this.#id, undefined, this.#signal);
    this.board.batch = now;
    this.#showSoon();
    await this.#shell.meter.refresh();
  }

  /** Shows the numbers, a few times a second at most: nobody reads them faster. */
  #showSoon() {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      if (!this.#signal.aborted) this.#show();
    }, SHOWN_EVERY);
  }

  #show() {
    const counts = this.board.counts();
    this.#showProgress(counts);
    this.#showFailures(counts);
    this.#showActions(counts);
    const shown = { all: counts.total, made: counts.completed, open: counts.open, failed: counts.failed + counts.cancelled, picked: this.picks.size };
    for (const [name, title] of FILTERS) {
      const filter = this.filters.querySelector(`[data-filter=${name}]`);
      filter.replaceChildren(title, h("span", { class: "count" }, shown[name].toLocaleString("en-US")));
      filter.hidden = name !== "all" && shown[name] === 0 && filter.getAttribute("aria-pressed") === "false";
    }
    this.exports.hidden = counts.completed === 0;
    this.pickExport.hidden = this.picks.size === 0;
    if (this.notices.children.length !== this.board.notices.length) {
      this.notices.replaceChildren(...this.board.notices.map((text) => h("p", { class: "banner" }, icon("warn"), h("span", {}, sentence(text)))));
    }
  }

  #showProgress(counts = this.board.counts()) {
    const ended = counts.total - counts.open;
    const state = counts.open ? (ended || counts.running ? "running" : "queued") : this.board.batch.finishedAt || counts.open === 0 ? endState(counts) : this.board.batch.state;
    if (this.pill.dataset.state !== state) {
      this.pill.dataset.state = state;
      this.pill.replaceChildren(statePill(state));
    }
    for (const part of this.bar.children) part.style.width = `${(100 * counts[part.className]) / Math.max(1, counts.total)}%`;
    this.bar.setAttribute("aria-valuemax", counts.total);
    this.bar.setAttribute("aria-valuenow", ended);
    this.bar.setAttribute("aria-valuetext", `${counts.completed} of ${counts.total} made${counts.failed ? `, ${counts.failed} failed` : ""}`);
    const share = TOLD.filter((one) => ended / counts.total >= one).length;
    if (share > this.#told && counts.open) announce(`${counts.completed} of ${counts.total} made`);
    this.#told = share;
    const { batch } = this.board;
    document.title = `${counts.open ? `${ended} of ${counts.total}` : "Batch"} · orchestrator`;
    const facts = [["Made", `${counts.completed.toLocaleString("en-US")} of ${counts.total.toLocaleString("en-US")}`]];
    if (counts.failed) facts.push(["Failed", counts.failed.toLocaleString("en-US")]);
    if (counts.cancelled) facts.push(["Cancelled", counts.cancelled.toLocaleString("en-US")]);
    facts.push([counts.open ? "Cost so far" : "Cost", h("span", {}, money(counts.cost), counts.open ? h("span", { class: "soft" }, ` of at most ${money(batch.estimatedCost)}`) : batch.unknownCost ? h("span", { class: "soft" }, ` (${money(batch.unknownCost)} without a known outcome)`) : "")]);
    if (counts.open) facts.push(["Time left", this.#timeLeft(counts.open)]);
    else if (batch.finishedAt) facts.push(["Took", span(new Date(batch.finishedAt) - new Date(batch.createdAt))]);
    this.facts.replaceChildren(...facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
  }

  #timeLeft(open) {
    const estimate = this.#pace.estimate(open, performance.now());
    return { measuring: () => "measuring…", stalled: () => "waiting for the model", known: () => inWords(estimate.left) }[estimate.state]();
  }

  #showActions({ open, retryable }) {
    const wanted = `${open > 0} ${retryable}`;
    if (this.actions.dataset.for === wanted) return;
    this.actions.dataset.for = wanted;
    this.actions.replaceChildren(...[
      open > 0 && button("Cancel", () => this.#cancel(), { icon: "stop", kind: "quiet" }),
      open === 0 && retryable > 0 && button(`Try ${retryable} again`, (event) => this.#retry(undefined, event), { icon: "again", kind: "primary" }),
      open === 0 && button("Use as a new batch", () => this.#reuse(this.board.rows), { icon: "sheet", kind: "quiet" }),
    ].filter(Boolean));
  }

  #showFailures(counts) {
    const groups = counts.failed ? this.board.failures() : [];
    const open = counts.open > 0;
    const told = JSON.stringify([open, groups.map(([code, tiles]) => [code, tiles.length])]);
    this.failures.hidden = groups.length === 0;
    if (this.failures.dataset.told === told) return;
    this.failures.dataset.told = told;
    this.failures.replaceChildren(h("h2", {}, "What went wrong"), ...groups.map(([code, tiles]) => this.#failureGroup(code, tiles, open)));
  }

  #failureGroup(code, tiles, open) {
    const { title, advice } = failure(code);
    const details = [...new Set(tiles.map((tile) => sentence(tile.error?.detail ?? "")))].filter(Boolean);
    const names = [...new Set(tiles.map((tile) => tile.sceneId))];
    const rows = [...new Set(tiles.map((tile) => tile.row))].map((row) => ({ ...row, images: tiles.filter((tile) => tile.row === row) }));
    const retryable = tiles.some((tile) => tile.error?.retryable);
    const rewording = code === "safety_blocked" || code.startsWith("reference_") || code === "no_image";
    return h("div", { class: "failure" }, h("div", {}, h("h3", {}, icon("warn"), `${title} `, h("span", { class: "count" }, count(tiles.length, "picture"))), h("p", {}, advice),
      h("details", {}, h("summary", {}, "Details"), ...details.slice(0, 5).map((text) => h("p", { class: "soft" }, text)), h("p", { class: "soft names" }, names.slice(0, 30).join(", ") + (names.length > 30 ? ` and ${names.length - 30} more` : "")))),
    h("div", { class: "toolbar" }, rewording && button(code === "safety_blocked" ? "Reword" : "Change", () => this.#reuse(rows), { kind: retryable ? "" : "primary" }),
      button(retryable ? "Try again" : "Try anyway", (event) => this.#retry([code], event), { disabled: open, title: open ? "When the batch has ended" : undefined, "aria-label": `${retryable ? "Try again" : "Try anyway"}: ${title}` })));
  }

  async #retry(codes, event) {
    const pressed = event.currentTarget;
    pressed.disabled = true;
    try {
      await retry(this.#id, codes);
      announce("Trying again");
      await Promise.all([this.#shell.meter.refresh(), this.#reload()]);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      toast(error.message);
    } finally {
      pressed.disabled = false;
    }
  }

  async #cancel() {
    const { open } = this.board.counts();
    if (!(await confirm("Cancel this batch?", `${count(open, "picture is", "pictures are")} not made yet. Those on their way are finished and paid; the others cost nothing.`, "Cancel the batch"))) return;
    try {
      await cancel(this.#id);
      await this.#shell.meter.refresh();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      toast(error.message);
    }
  }

  async #reuse(rows) {
    const kept = loadDraft();
    if (kept.rows.length && !(await confirm("Replace the batch that you are writing?", `${count(kept.rows.length, "row")} that you have not sent will be lost.`, "Replace"))) return;
    replaceDraft(fromItems(this.board.batch, rows));
    this.#shell.go("#/");
  }

  #filter(name) {
    for (const filter of this.filters.children) filter.setAttribute("aria-pressed", String(filter.dataset.filter === name));
    this.grid.filter(name);
    this.#showSoon();
  }

  #picked(tile) {
    if (tile.state !== "completed") return;
    const picked = this.picks.toggle(tile.key);
    announce(`${tile.sceneId}, picture ${tile.variant}: ${picked ? "picked" : "no longer picked"}`);
    this.grid.update([tile]);
    this.#showSoon();
  }

  #exportPicks() {
    const picked = [...this.board.tiles.values()].filter((tile) => this.picks.has(tile.key));
    const records = picked.map((tile) => csvRecord([tile.sceneId, tile.variant, tile.row.prompt, new URL(tile.permalink, location.href).href]));
    saveText(`picked-${this.#id}.csv`, `\uFEFF${csvRecord(["sceneId", "variant", "prompt", "permalink"])}${records.join("")}`);
  }

  /** Opens the picture that an address names, or closes the viewer. */
  openPath([sceneId, variant] = []) {
    const tile = sceneId && this.board.tiles.get(keyOf(sceneId, variant ?? 1));
    if (tile) this.viewer.open(tile);
    else this.viewer.close();
  }

  #open(tile) {
    history.pushState(null, "", `#/batches/${this.#id}/${encodeURIComponent(tile.sceneId)}/${tile.variant}`);
    this.viewer.open(tile);
  }

  #closed(tile) {
    if (this.#signal.aborted) return;
    history.replaceState(null, "", `#/batches/${this.#id}`);
    this.grid.focus(tile);
  }
}

function endState({ completed, failed, cancelled }) {
  if (cancelled) return "cancelled";
  if (!failed) return "completed";
  return completed ? "partial" : "failed";
}
