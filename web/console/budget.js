// The day's money in the header: what is left, and on request all of it.

import { budget } from "./api.js";
import { h } from "./dom.js";
import { clock, money } from "./format.js";

/** A share between 0 and 1 as a bar's width. */
function setShare(bar, share) {
  bar.style.width = `${Math.round(Math.min(1, Math.max(0, share)) * 1000) / 10}%`;
}

export class BudgetMeter {
  #place;
  /** The last answer: `GET /budget`. */
  now;

  constructor(place) {
    this.#place = place;
  }

  /** What a new batch may still reserve; nothing if there is no limit, or it is not known. */
  get remaining() {
    const left = [this.now?.everyone.remaining, this.now?.user?.remaining].filter((amount) => typeof amount === "number");
    return left.length ? Math.min(...left) : undefined;
  }

  /** Asks anew. What cannot be had is not shown. */
  async refresh() {
    try {
      this.now = await budget();
    } catch {
      return this.now;
    }
    this.#show();
    return this.now;
  }

  #show() {
    const { everyone, user, resetsAt, message } = this.now;
    // Of two limits the one that is nearer counts.
    const scope = user && (everyone.remaining === null || user.remaining < everyone.remaining) ? user : everyone;
    const limited = scope.dailyLimit !== null;
    const used = h("span", { class: "spent" });
    const held = h("span", { class: "held" });
    if (limited && scope.dailyLimit > 0) {
      setShare(used, scope.spent / scope.dailyLimit);
      setShare(held, scope.reserved / scope.dailyLimit);
    }
    const open = this.#place.querySelector("details")?.open;
    const list = (title, money_) => h("div", {}, title && h("h3", {}, title), h("dl", {},
      ...rows(money_).map(([name, amount]) => [h("dt", {}, name), h("dd", {}, money(amount))])));
    const details = h("details", { class: "budget", open, onkeydown: (event) => event.key === "Escape" && details.removeAttribute("open") },
      h("summary", {}, limited && h("span", { class: "meter", "aria-hidden": "true" }, used, held),
        h("span", {}, limited ? `${money(scope.remaining)} left today` : `${money(scope.spent)} spent today`)),
      h("div", { class: "pop" }, h("h2", {}, "Money today"),
        user ? list("You", user) : undefined, list(user ? "Everyone" : undefined, everyone),
        h("p", { class: "soft" }, `Starts anew at ${clock(resetsAt)}. Reserved is the most that open pictures can cost; what they do not use comes back.`),
        message && h("p", { class: "soft" }, message)));
    this.#place.replaceChildren(details);
  }
}

function rows({ dailyLimit, spent, reserved, remaining, unknown }) {
  return [
    ["Spent", spent], ...(unknown ? [["of it without a known outcome", unknown]] : []), ["Reserved", reserved],
    ...(dailyLimit === null ? [] : [["Left", remaining], ["Limit", dailyLimit]]),
  ];
}
