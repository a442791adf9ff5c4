// The earlier batches, newest first.

import { batches } from "./api.js";
import { button, h } from "./dom.js";
import { count, money, span, when } from "./format.js";
import { stateText } from "./words.js";

export async function historyView(shell, main, signal) {
  const body = h("tbody");
  const more = h("div", { class: "more" });
  const table = h("table", { class: "history" },
    h("caption", { class: "unseen" }, "Batches, newest first"),
    h("thead", {}, h("tr", {}, ...["Batch", "State", "Pictures", "Cost", "Took", "Model"].map((name) => h("th", { scope: "col" }, name)))), body);
  const head = h("div", { class: "page-head" }, h("h1", {}, "Batches"), h("a", { class: "button primary", href: "#/" }, "New batch"));
  main.replaceChildren(h("section", { class: "page" }, head, h("p", { class: "loading" }, "One moment…")));

  const load = async (cursor) => {
    const page = await batches(cursor);
    if (signal.aborted) return;
    body.append(...page.batches.map(row));
    more.replaceChildren(...(page.nextCursor ? [button("Show earlier ones", () => load(page.nextCursor))] : []));
    const shown = body.children.length ? [h("div", { class: "card flush" }, table), more] : [empty()];
    main.firstChild.replaceChildren(head, ...shown);
  };
  try {
    await load();
  } catch (error) {
    if (!signal.aborted) main.firstChild.replaceChildren(head, h("p", { class: "fault", role: "alert" }, error.message), button("Try again", () => historyView(shell, main, signal)));
  }
}

function empty() {
  return h("div", { class: "empty" }, h("h2", {}, "No batch yet"), h("p", {}, "The first one takes a minute: paste some rows and see what they cost."),
    h("a", { class: "button primary", href: "#/" }, "Start a batch"));
}

function row(batch) {
  const { counts } = batch;
  const made = counts.completed === counts.total ? count(counts.total, "picture") : `${counts.completed} of ${count(counts.total, "picture")}`;
  const took = batch.finishedAt ? span(new Date(batch.finishedAt) - new Date(batch.createdAt)) : "–";
  return h("tr", {},
    h("th", { scope: "row" }, h("a", { href: `#/batches/${batch.batchId}` }, when(batch.createdAt)), h("span", { class: "id" }, `…${batch.batchId.slice(-6)}`)),
    h("td", {}, statePill(batch.state)),
    h("td", {}, made, counts.failed ? h("span", { class: "bad" }, `, ${counts.failed} failed`) : undefined),
    h("td", { class: "number" }, money(batch.actualCost)), h("td", { class: "number took" }, took), h("td", { class: "model" }, batch.model));
}

/** The state of a batch, in a word and a colour. */
export function statePill(state) {
  return h("span", { class: `pill ${state}` }, stateText(state));
}
