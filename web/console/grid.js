// The pictures of a batch as they come: one card a row, its variants side by side.
//
// What changes is shown once a frame, and only so much of it that the page goes on answering.

import { h, icon } from "./dom.js";
import { money } from "./format.js";
import { failure } from "./words.js";

const TILES_A_FRAME = 60;
const CARDS_A_FRAME = 40;

/** The filters, and which tiles each shows. */
export const FILTERS = [
  ["all", "All", () => true],
  ["made", "Made", (tile) => tile.state === "completed"],
  ["open", "Waiting", (tile) => tile.state === "queued" || tile.state === "running"],
  ["failed", "Failed", (tile) => tile.state === "failed" || tile.state === "cancelled"],
  ["picked", "Picked", (tile, picks) => picks.has(tile.key)],
];

export class Grid {
  #picks;
  #tools;
  #cards = [];
  #elements = new Map();
  #changed = new Set();
  #fresh = [];
  #frame;
  #current;
  #shows = FILTERS[0][2];

  /** `tools`: what to do on `open(tile)` and `picked(tile)`. */
  constructor(picks, tools) {
    this.#picks = picks;
    this.#tools = tools;
    this.element = h("ul", { class: "grid", "aria-label": "Pictures", onkeydown: (event) => this.#key(event), onclick: (event) => this.#click(event), onfocusin: (event) => this.#focused(event) });
    this.nothing = h("p", { class: "loading", hidden: true }, "No picture here yet.");
  }

  /** Shows more rows. */
  add(rows) {
    this.#fresh.push(...rows);
    const even = [...this.#cards, ...this.#fresh].every((one) => one.tiles.length === this.#each(rows));
    this.element.classList.toggle("even", even);
    this.#soon();
  }

  /** Pictures of a row, by its first. */
  #each(rows) {
    const each = (this.#cards[0] ?? rows[0])?.tiles.length ?? 1;
    this.element.style.setProperty("--each", each);
    return each;
  }

  /** Shows the tiles as they are now. */
  update(tiles) {
    for (const tile of tiles) this.#changed.add(tile);
    this.#soon();
  }

  /** Shows only the tiles of a filter. */
  filter(name) {
    this.#shows = FILTERS.find(([one]) => one === name)[2];
    for (const card of this.#cards) this.#sift(card);
    this.#count();
  }

  /** Puts the keyboard on a tile. */
  focus(tile) {
    this.#elements.get(tile.key)?.open.focus();
  }

  #soon() {
    this.#frame ??= requestAnimationFrame(() => {
      this.#frame = undefined;
      const rows = this.#fresh.splice(0, CARDS_A_FRAME);
      if (rows.length) this.element.append(...rows.map((row) => this.#card(row)));
      let left = TILES_A_FRAME;
      for (const tile of this.#changed) {
        if (left === 0) break;
        this.#changed.delete(tile);
        left -= 1;
        this.#fill(tile);
      }
      if (this.#fresh.length || this.#changed.size) this.#soon();
      this.#count();
    });
  }

  #count() {
    this.nothing.hidden = this.#fresh.length > 0 || this.#cards.some(({ element }) => !element.hidden);
  }

  #card(row) {
    const tiles = row.tiles.map((tile) => this.#tile(tile));
    const element = h("li", { class: row.aspectRatio === "1:1" ? "shot square" : "shot" }, h("div", { class: "pictures" }, ...tiles.map((one) => one.element)),
      h("div", { class: "caption" }, h("span", { class: "name" }, row.sceneId), h("span", { class: "said", title: row.prompt }, row.prompt)));
    element.style.setProperty("--n", row.tiles.length);
    const card = { element, tiles };
    this.#cards.push(card);
    for (const tile of tiles) {
      tile.card = card;
      this.#fill(tile.tile);
    }
    this.#sift(card);
    return element;
  }

  #tile(tile) {
    const open = h("button", { type: "button", class: "open", tabindex: this.#current ? -1 : 0 });
    const pick = h("button", { type: "button", class: "pick", tabindex: -1, hidden: true }, icon("pick"));
    this.#current ??= open;
    const element = h("div", { class: "tile", "data-key": tile.key }, open, pick);
    const parts = { tile, element, open, pick };
    this.#elements.set(tile.key, parts);
    return parts;
  }

  /** Shows what a tile is now. */
  #fill(tile) {
    const parts = this.#elements.get(tile.key);
    if (!parts) return;
    const { element, open, pick } = parts;
    const picked = this.#picks.has(tile.key);
    const source = tile.state === "completed" ? tile.thumbnailUrl ?? tile.url : undefined;
    element.className = `tile ${tile.state}${picked ? " picked" : ""}`;
    if (parts.source !== source || parts.state !== tile.state) {
      open.replaceChildren(source ? picture(tile, source) : sign(tile));
      Object.assign(parts, { source, state: tile.state });
    }
    open.setAttribute("aria-label", `${tile.sceneId}, picture ${tile.variant}, ${spoken(tile)}${picked ? ", picked" : ""}`);
    pick.hidden = tile.state !== "completed";
    pick.setAttribute("aria-pressed", String(picked));
    pick.setAttribute("aria-label", `Pick ${tile.sceneId}, picture ${tile.variant}`);
    pick.title = picked ? "Picked (P)" : "Pick (P)";
    if (parts.card) this.#sift(parts.card);
  }

  #sift({ element, tiles }) {
    let any = false;
    for (const { tile, element: one } of tiles) {
      const shows = this.#shows(tile, this.#picks);
      one.hidden = !shows;
      any ||= shows;
    }
    element.hidden = !any;
  }

  #of(target) {
    return this.#elements.get(target.closest?.(".tile")?.dataset.key);
  }

  #click(event) {
    const parts = this.#of(event.target);
    if (!parts) return;
    if (event.target.closest(".pick")) this.#tools.picked(parts.tile);
    else if (event.target.closest(".open")) this.#tools.open(parts.tile);
  }

  /** One tile is in the order of the Tab key: the last that had the keyboard. */
  #focused(event) {
    const open = this.#of(event.target)?.open;
    if (!open || event.target !== open || open === this.#current) return;
    this.#current.tabIndex = -1;
    this.#current = open;
    open.tabIndex = 0;
  }

  #key(event) {
    const parts = this.#of(event.target);
    if (!parts || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "p" || event.key === "P") return this.#tools.picked(parts.tile);
    const shown = this.#cards.flatMap(({ tiles }) => tiles).filter(({ element }) => !element.hidden);
    const at = shown.indexOf(parts);
    const next = { ArrowRight: () => shown[at + 1], ArrowLeft: () => shown[at - 1], Home: () => shown[0], End: () => shown.at(-1),
      ArrowDown: () => below(parts, shown.slice(at + 1)), ArrowUp: () => below(parts, shown.slice(0, at).reverse()) }[event.key]?.();
    if (!next) return;
    event.preventDefault();
    next.open.focus();
  }
}

/** The first of `others` in another line, as near to straight on as there is. */
function below(parts, others) {
  const from = parts.element.getBoundingClientRect();
  let best;
  for (const other of others) {
    const to = other.element.getBoundingClientRect();
    if (Math.abs(to.top - from.top) < from.height / 2) continue;
    if (best && Math.abs(to.top - best.top) > from.height / 2) break;
    const off = Math.abs(to.left - from.left);
    if (!best || off < best.off) best = { other, off, top: to.top };
  }
  return best?.other;
}

function picture(tile, source) {
  const image = h("img", { src: source, alt: "", loading: "lazy", decoding: "async" });
  // A link lives for hours, its permalink as long as the picture.
  image.addEventListener("error", () => {
    image.src = tile.thumbnailUrl ? `${tile.permalink}/thumbnail` : tile.permalink;
  }, { once: true });
  return image;
}

function sign(tile) {
  const drawing = { failed: "warn", cancelled: "remove" }[tile.state] ?? "wait";
  return h("span", { class: "sign" }, icon(drawing), h("span", {}, short(tile)));
}

function short(tile) {
  if (tile.state === "failed") return failure(tile.error?.code).title;
  return { queued: "Waiting", running: "Being made", cancelled: "Cancelled" }[tile.state] ?? tile.state;
}

function spoken(tile) {
  return tile.state === "completed" ? `made, ${money(tile.cost)}` : short(tile).toLowerCase();
}
