// How the service is, for whoever runs it: now, and in the last hour. Reads itself anew while somebody looks.

import { overview, readiness } from "./api.js";
import { Chart } from "./charts.js";
import { announce, button, h, icon } from "./dom.js";
import { awayText, findings } from "./findings.js";
import { bytes, clock, count, money, moment, span } from "./format.js";
import { CHARTS, hour, p95Text } from "./hour.js";
import { PACE, Poll } from "./poll.js";
import { meaning } from "./words.js";

export function operationsView(shell, main, signal) {
  const board = new Board(shell);
  const trouble = new Trouble(() => poll.now());
  const loading = h("p", { class: "loading" }, "One moment…");
  const place = h("section", { class: "page" }, h("div", { class: "page-head" }, h("h1", {}, "Operations"), board.age), trouble.element, loading);
  const poll = new Poll(read, ({ answer, error, since, next }) => {
    if (error && needsScope(error)) return main.replaceChildren(noScope(() => operationsView(shell, main, signal)));
    trouble.show(error, since, next, board.at);
    board.verdict.hidden = Boolean(error);
    if (answer) board.show(answer);
    if (board.at) loading.replaceWith(board.element);
    loading.hidden = Boolean(error);
  }, needsScope);
  const look = () => (document.visibilityState === "hidden" ? poll.stop() : poll.start());
  signal.addEventListener("abort", () => poll.stop());
  document.addEventListener("visibilitychange", look, { signal });
  main.replaceChildren(place);
  look();
}

/** Reads it. While the database is away nobody can be let in by a session; what is away is told to everybody. */
async function read() {
  try {
    return await overview();
  } catch (error) {
    if (error.status === 503) error.message = awayText((await readiness()).reasons ?? []) || error.message;
    throw error;
  }
}

const needsScope = ({ code }) => code === "forbidden";

function noScope(again) {
  return h("section", { class: "notice-page" }, icon("warn"), h("h1", {}, "This page needs the scope admin"),
    h("p", {}, "It shows what all users do and spend. Your key may not look at that. Whoever runs the service makes one that may:"),
    h("p", {}, h("code", {}, "orchestrator keys new --name you --scopes admin")),
    h("p", { class: "soft" }, "Then log out, and log in with it."),
    h("div", { class: "actions" }, button("Try again", again), h("a", { class: "button", href: "#/batches" }, "All batches")));
}

/** That nothing new can be read: since when, why, and when it is tried again. */
class Trouble {
  #text = h("span");
  element;
  #since;

  constructor(again) {
    this.element = h("div", { class: "banner warn sticky", hidden: true }, icon("warn"), this.#text, button("Try now", again));
  }

  show(error, since, next, at) {
    this.element.hidden = !error;
    if (error) {
      const shown = at ? ` What is shown is from ${moment(at)}.` : "";
      this.#text.textContent = `Not read since ${moment(since)}. ${error.message}${shown} Next try at ${moment(next)}.`;
    }
    if (this.#since !== since) announce(error ? this.#text.textContent : "The page is up to date again.");
    this.#since = since;
  }
}

/** A card of numbers, each set anew without touching what stays. */
class Card {
  element;
  #large = h("p", { class: "large" });
  #list = h("dl");
  #note = h("p", { class: "soft" });

  constructor(title, ...more) {
    this.element = h("div", { class: "card" }, h("h3", {}, title), this.#large, ...more, this.#list, this.#note);
  }

  /** `rows` are pairs of a name and a text; those without a text are left out. */
  show(large, rows, note = "") {
    this.#large.textContent = large;
    this.#list.hidden = !rows.length;
    this.#list.replaceChildren(...rows.filter(([, text]) => text !== undefined).flatMap(([name, text]) => [h("dt", {}, name), h("dd", {}, text)]));
    this.#note.textContent = note;
    this.#note.hidden = !note;
  }
}

/** Everything that was read. */
class Board {
  /** When that was. */
  at;
  age = h("p", { class: "soft" });
  element;
  #shell;
  /** Whether all is well; hidden while nobody knows. */
  verdict = h("div", { class: "verdict" });
  #told = "";
  #spent;
  #used = h("span", { class: "spent" });
  #held = h("span", { class: "held" });
  #money = new Card("Money today", h("div", { class: "meter wide", "aria-hidden": "true" }, this.#used, this.#held));
  #queue = new Card("Pictures in the queue");
  #ledger = new Card("Ledger");
  #process = h("p", { class: "soft" });
  #requests = new Card("Requests in the last hour");
  #pictures = new Card("Pictures in the last hour");
  #calls = new Card("Calls of the provider");
  #program = new Card("Program");
  #since = h("p", { class: "soft" });
  #startedAt;
  #others = false;
  #charts = CHARTS.map((chart, index) => new Chart(chart, index));
  #rows = h("tbody");
  #codes = h("div", { class: "card flush" });

  constructor(shell) {
    this.#shell = shell;
    const cards = (...cards) => h("div", { class: "cards" }, cards.map(({ element }) => element));
    this.element = h("div", { class: "operations" }, this.verdict,
      h("h2", {}, "All instances"), cards(this.#money, this.#queue, this.#ledger),
      h("h2", {}, "This process"), this.#process, cards(this.#requests, this.#pictures, this.#calls, this.#program),
      h("h2", {}, "The last hour of this process"), this.#since, h("div", { class: "charts" }, this.#charts.map(({ element }) => element)),
      h("details", { class: "card" }, h("summary", {}, "The same as a table"), this.#table()),
      h("h2", {}, "Errors in the last hour of this process"), this.#codes);
  }

  show(view) {
    this.at = view.at;
    this.age.textContent = `As of ${moment(view.at)}, read every ${PACE / 1000} s while you look`;
    this.#showVerdict(findings(view));
    this.#showWork(view.work);
    this.#showProcess(view);
    const minutes = hour(view);
    this.#since.textContent = minutes[0].known ? "" : `Counted since ${clock(view.startedAt)}, when it started.`;
    this.#since.hidden = minutes[0].known;
    this.#charts.forEach((chart) => chart.show(minutes));
    this.#rows.replaceChildren(...tableRows(minutes));
    this.#codes.replaceChildren(codesTable(view.codes));
  }

  #showVerdict(found) {
    const first = found.find(({ level }) => level !== "note");
    const others = found.filter((one) => one !== first);
    const level = first?.level ?? "good";
    const scope = ({ scope }) => h("span", { class: "soft" }, ` (${scope})`);
    this.verdict.className = `verdict ${level}`;
    this.verdict.replaceChildren(icon(first ? "warn" : "check"), h("p", {}, h("strong", {}, first?.text ?? "All is well."), first && scope(first)),
      ...(others.length ? [h("ul", {}, others.map((one) => h("li", {}, one.text, scope(one))))] : []));
    // Numbers change all the time. What is said aloud is that something else is wrong, or nothing any more.
    const wrong = found.map(({ key }) => key).join();
    if (wrong !== this.#told) announce([...(first ? [] : ["All is well."]), ...found.map(({ text }) => text)].join(" "));
    this.#told = wrong;
  }

  #showWork(work) {
    if (!work) {
      for (const card of [this.#money, this.#queue, this.#ledger]) card.show("Not known", [], "The database does not answer.");
      return this.#showMeter(0, 0);
    }
    const { dailyLimit, spent, reserved, unknown, remaining, resetsAt } = work;
    const limited = dailyLimit !== null;
    this.#money.show(limited ? `${money(remaining)} left` : `${money(spent)} spent`, [
      ["Limit", limited ? money(dailyLimit) : "none"], ["Spent", money(spent)], ["of it without a known outcome", money(unknown)], ["Reserved", money(reserved)],
    ], `Starts anew at ${clock(resetsAt)}.`);
    this.#showMeter(limited && dailyLimit > 0 ? spent / dailyLimit : 0, limited && dailyLimit > 0 ? reserved / dailyLimit : 0);
    this.#queue.show(work.queued ? `${work.queued.toLocaleString("en-US")} waiting` : "None waits", [
      ["Under way", work.running.toLocaleString("en-US")], ["The oldest waits for", work.queued ? span(work.oldestSeconds * 1000) : "–"],
    ]);
    const { ledgerPending: pending, ledgerLagSeconds: lag } = work;
    if (pending === null) this.#ledger.show("Off", [], "Charges are kept in the database. BUDGET_LEDGER_ENABLED=true writes them to the ledger, with those of before.");
    else this.#ledger.show(pending ? `${count(pending, "charge")} to write` : "Up to date", [["The oldest waits for", pending ? span(lag * 1000) : "–"]]);
    const now = `${spent} ${reserved}`;
    // The header shows what a moment ago was left.
    if (this.#spent !== undefined && this.#spent !== now) this.#shell.meter.refresh();
    this.#spent = now;
  }

  #showMeter(used, held) {
    this.#used.style.width = `${Math.min(100, used * 100)}%`;
    this.#held.style.width = `${Math.min(100, held * 100)}%`;
  }

  #showProcess(view) {
    const { at, startedAt, version, memory, callsInFlight, streamsOpen, gate, minutes } = view;
    this.#others ||= this.#startedAt !== undefined && this.#startedAt !== startedAt;
    this.#startedAt = startedAt;
    this.#process.textContent = "What one process has counted since it started: with several instances, the one that answered."
      + (this.#others ? ` Another one than before answered meanwhile, or it was started anew: this one runs since ${moment(startedAt)}.` : "");
    const sum = (name) => minutes.reduce((total, minute) => total + minute[name], 0);
    const [requests, errors, made, failed] = ["requests", "errors", "completed", "failed"].map(sum);
    const last = minutes.findLast(({ p95 }) => p95 !== null);
    this.#requests.show(requests.toLocaleString("en-US"), [
      ["Faults of the service (5xx)", errors.toLocaleString("en-US")], ["95 of 100 answers, last minute", last ? p95Text(last.p95) : "–"],
    ], "Those of this page count too.");
    this.#pictures.show(`${made.toLocaleString("en-US")} made`, [["Failed", failed.toLocaleString("en-US")], ["Charged", money(sum("cost"))]]);
    this.#calls.show(gateText(gate), [["Under way", callsInFlight.toLocaleString("en-US")], ["Allowed at once", gate.limit === gate.usual ? gate.limit : `${gate.limit} of ${gate.usual}`]], gateNote(gate));
    this.#program.show(`Version ${version}`, [
      ["Runs for", span(new Date(at) - new Date(startedAt))], ["Memory", memory === null ? "not known" : bytes(memory)], ["Progress streams open", streamsOpen.toLocaleString("en-US")],
    ]);
  }

  #table() {
    const heads = ["Minute", "Requests", "5xx", "p95", "Made", "Failed", "Charged"];
    return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "The last hour as a table" }, h("table", { class: "numbers" },
      h("caption", { class: "unseen" }, "The minutes in which anything happened, newest first"),
      h("thead", {}, h("tr", {}, heads.map((name) => h("th", { scope: "col" }, name)))), this.#rows));
  }
}

const GATE = { throttled: "Paused", failing: "Paused", quota: "Quota used up" };

function gateText({ closed }) {
  return closed === null ? "Open" : GATE[closed] ?? "Paused";
}

/** Why calls wait, in plain words. */
function gateNote({ closed, opensInSeconds, limit, usual }) {
  const opens = `Opens in ${span((opensInSeconds ?? 0) * 1000)}.`;
  switch (closed) {
    case "throttled":
      return `The provider asked to slow down. ${opens} Nothing is lost or charged by that.`;
    case "failing":
      return `The provider failed several times in a row. One call at a time tries whether it is back. ${opens}`;
    case "quota":
      return `The provider's quota of the day is used up for a model, whose pictures fail without a call. ${opens}`;
    default:
      return limit < usual ? "Fewer calls at once than usual, as the provider asked for fewer: they come back with its answers." : "";
  }
}

function tableRows(minutes) {
  const number = (value) => h("td", {}, value);
  return minutes.filter(({ requests, completed, failed, micros }) => requests || completed || failed || micros).reverse().map((minute) => h("tr", {},
    h("th", { scope: "row" }, clock(minute.start)), number(minute.requests.toLocaleString("en-US")), number(minute.errors), number(p95Text(minute.p95)),
    number(minute.completed), number(minute.failed), number(money(minute.micros / 1e6))));
}

const WHOSE = { picture: "Picture", caller: "Caller", service: "Service", nobody: "–" };

function codesTable(codes) {
  if (!codes.length) return h("p", { class: "none soft" }, "None.");
  return h("table", { class: "codes" }, h("caption", { class: "unseen" }, "Error codes, the most frequent first"),
    h("thead", {}, h("tr", {}, ["Code", "Times", "Whose", "What it means"].map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, codes.map(({ code, count: times }) => {
      const { whose, text } = meaning(code);
      return h("tr", {}, h("th", { scope: "row" }, h("code", {}, code)), h("td", { class: "number" }, times.toLocaleString("en-US")), h("td", { class: `whose ${whose}` }, WHOSE[whose]), h("td", {}, text));
    })));
}
