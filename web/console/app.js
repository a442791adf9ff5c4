// Puts the page together: which view is shown, the login, and what all views share.

import { batch as loadBatch, logIn, logOut, models, onLoginNeeded } from "./api.js";
import { BudgetMeter } from "./budget.js";
import { composeView } from "./compose.js";
import { button, endToast, h, icon } from "./dom.js";
import { historyView } from "./history.js";
import { operationsView } from "./operations.js";
import { runView } from "./run.js";

/** The pages of the navigation, in their order. */
const PAGES = [
  { path: "#/", name: "New batch", matches: /^#?\/?$/ },
  { path: "#/batches", name: "Batches", matches: /^#\/batches/ },
  { path: "#/operations", name: "Operations", matches: /^#\/operations/ },
];
const USER = "orchestrator.user";

const main = document.getElementById("main");
const meter = new BudgetMeter(document.getElementById("budget"));
let catalogue;
let leave = () => {};
let shown;

/** What views may use of the page. */
const shell = {
  meter,
  get catalogue() {
    return catalogue;
  },
  go(hash) {
    location.hash = hash;
  },
};

const links = PAGES.map(({ path, name }) => h("a", { href: path }, name));
document.getElementById("pages").append(...links);

function showPages(hash) {
  PAGES.forEach(({ name, matches }, index) => {
    const here = matches.test(hash);
    if (here) document.title = `${name} · orchestrator`;
    if (here) links[index].setAttribute("aria-current", "page");
    else links[index].removeAttribute("aria-current");
  });
}

/** A part of an address; one that nobody wrote is taken as it is. */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

async function route(event) {
  const hash = location.hash || "#/";
  if (hash === "#main") return main.focus();
  const [, view, id, ...rest] = hash.split("/").map(decoded);
  // The viewer is a part of the batch's own page.
  if (shown?.id && shown.id === id) return shown.open?.(rest);
  showPages(hash);
  endToast();
  leave();
  [leave, shown] = [() => {}, undefined];
  const ending = new AbortController();
  leave = () => ending.abort();
  main.replaceChildren(h("p", { class: "loading" }, "One moment…"));
  try {
    // Who looks how the service is, is told that even while it can list no models.
    if (view !== "operations") catalogue ??= await models();
    if (ending.signal.aborted) return;
    if (view === "operations") operationsView(shell, main, ending.signal);
    else if (view === "batches" && id) shown = { id, ...(await runView(shell, main, id, ending.signal)) };
    else if (view === "batches") historyView(shell, main, ending.signal);
    else composeView(shell, main, ending.signal);
    if (ending.signal.aborted) return;
    // Who uses the keyboard or a screen reader goes on in the page that was asked for.
    if (event?.type === "hashchange") main.focus({ preventScroll: true });
    shown?.open?.(rest);
    meter.refresh();
  } catch (error) {
    if (ending.signal.aborted) return;
    main.replaceChildren(h("section", { class: "notice-page" }, icon("warn"), h("h1", {}, "This page cannot be shown"), h("p", {}, error.message),
      h("div", { class: "actions" }, button("Try again", () => route(), { kind: "primary" }), h("a", { class: "button", href: "#/batches" }, "All batches"))));
    if (!error.status && error.status !== 0) throw error;
  }
}

/** Asks for a key until one is good. */
function showLogin() {
  return new Promise((resolve) => {
    const field = h("input", { id: "key", type: "password", autocomplete: "current-password", required: true, placeholder: "aip_…", spellcheck: "false", "aria-describedby": "key-help" });
    const says = h("p", { class: "fault", role: "alert" });
    const submit = h("button", { class: "primary" }, "Log in");
    const form = h("form", {
      onsubmit: async (event) => {
        event.preventDefault();
        submit.disabled = true;
        try {
          const session = await logIn(field.value.trim());
          remember(session.expiresAt ? session.user : "");
          dialog.close();
        } catch (error) {
          says.textContent = error.message;
          field.select();
        } finally {
          submit.disabled = false;
        }
      },
    }, h("h2", {}, "Log in"), h("label", { for: "key" }, "API key"), field,
    h("p", { class: "soft", id: "key-help" }, "Whoever runs the service makes one with ", h("code", {}, "orchestrator keys new --name you"), ". This browser keeps a session, not the key."),
    says, h("div", { class: "actions" }, submit));
    const dialog = h("dialog", {
      class: "ask", "aria-label": "Log in",
      oncancel: (event) => event.preventDefault(),
      onclose: () => (dialog.remove(), showAccount(), resolve(true)),
    }, form);
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Who is logged in; nobody where the browser keeps nothing for pages. */
function remembered() {
  try {
    return localStorage.getItem(USER);
  } catch {
    return null;
  }
}

function remember(user) {
  try {
    localStorage.setItem(USER, user);
  } catch {
    // The session is the cookie's; only the name is not shown.
  }
}

/** Nothing of one person's work stays for the next at this browser. */
function forget() {
  try {
    Object.keys(localStorage).filter((key) => key.startsWith("orchestrator.")).forEach((key) => localStorage.removeItem(key));
  } catch {
    // Nothing was kept.
  }
}

function showAccount() {
  const user = remembered();
  const end = async () => {
    await logOut().catch(() => {});
    forget();
    location.reload();
  };
  document.getElementById("account").replaceChildren(...(user ? [h("span", { class: "user" }, user), button("Log out", end, { kind: "quiet" })] : []));
}

onLoginNeeded(showLogin);
showAccount();
addEventListener("hashchange", route);
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
route();
