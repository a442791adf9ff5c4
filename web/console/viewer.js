// One picture at a time, as large as there is room; or the variants of a row side by side.

import { button, h, icon, iconButton, toast } from "./dom.js";
import { bytes, money } from "./format.js";
import { nameOf, thumbnail } from "./references.js";
import { failure, sentence } from "./words.js";

const BILLING = { charged: "charged", not_charged: "not charged", unknown: "counted as spent: no answer came" };

export class Viewer {
  #board;
  #picks;
  #tools;
  #tile;
  #beside = false;

  /** `tools`: what to do on `picked(tile)`, `moved(tile)` and `closed(tile)`. */
  constructor(board, picks, tools) {
    [this.#board, this.#picks, this.#tools] = [board, picks, tools];
    this.stage = h("div", { class: "stage", tabindex: -1 });
    this.info = h("aside", { class: "info", "aria-label": "About this picture" });
    this.place = h("span", { class: "place", "aria-live": "polite" });
    this.besideButton = button("Side by side", () => this.#compare(!this.#beside), { kind: "quiet", title: "Side by side (C)" });
    this.dialog = h("dialog", { class: "viewer", "aria-label": "Picture", onkeydown: (event) => this.#key(event), onclose: () => this.#tools.closed(this.#tile) },
      h("div", { class: "viewer-bar" }, iconButton("left", "Previous picture (←)", () => this.#step(-1)), this.place, iconButton("right", "Next picture (→)", () => this.#step(1)),
        h("span", { class: "grow" }), this.besideButton, iconButton("remove", "Close (Esc)", () => this.close())),
      this.stage, this.info);
  }

  get isOpen() {
    return this.dialog.open;
  }

  open(tile) {
    if (!this.dialog.isConnected) document.body.append(this.dialog);
    if (!this.dialog.open) this.dialog.showModal();
    this.stage.focus();
    this.#show(tile);
  }

  close() {
    if (this.dialog.open) this.dialog.close();
  }

  remove() {
    this.dialog.remove();
  }

  /** A tile has changed: shows it anew if it is the one that is looked at. */
  update(tiles) {
    if (this.dialog.open && tiles.some((tile) => tile.row === this.#tile.row)) this.#show(this.#tile);
  }

  #compare(beside) {
    this.#beside = beside;
    this.#show(this.#tile);
  }

  #step(by) {
    const all = this.#board.rows.flatMap((row) => (this.#beside ? row.tiles.slice(0, 1) : row.tiles));
    const at = all.findIndex((tile) => (this.#beside ? tile.row === this.#tile.row : tile === this.#tile));
    const next = all[at + by];
    if (next) this.#show(next);
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { tiles } = this.#tile.row;
    const variant = tiles[Number(event.key) - 1];
    const act = { ArrowLeft: () => this.#step(-1), ArrowRight: () => this.#step(1), p: () => this.#pick(this.#tile), c: () => tiles.length > 1 && this.#compare(!this.#beside) }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act && !variant) return;
    event.preventDefault();
    if (act) act();
    else if (this.#beside) this.#pick(variant);
    else this.#show(variant);
  }

  #pick(tile) {
    if (tile.state !== "completed") return;
    this.#tools.picked(tile);
    this.#show(this.#tile);
  }

  #show(tile) {
    const moved = this.#tile !== tile;
    const held = document.activeElement?.dataset.hold;
    this.#tile = tile;
    const { row } = tile;
    const several = row.tiles.length > 1;
    const beside = this.#beside && several;
    const index = this.#board.rows.indexOf(row) + 1;
    this.place.textContent = beside ? `Row ${index} of ${this.#board.rows.length}` : `${tile.sceneId}${several ? `, ${tile.variant} of ${row.tiles.length}` : ""}`;
    this.besideButton.hidden = !several;
    this.besideButton.setAttribute("aria-pressed", String(beside));
    const figures = (beside ? row.tiles : [tile]).map((one) => this.#figure(one, beside));
    this.stage.replaceChildren(...figures);
    this.stage.classList.toggle("beside", beside);
    this.info.replaceChildren(...this.#about(tile, beside));
    // What had the keyboard was made anew.
    if (held) (this.dialog.querySelector(`[data-hold="${held}"]`) ?? this.stage).focus();
    if (moved) this.#tools.moved(tile);
    if (!beside) this.#preload(tile);
  }

  #figure(tile, beside) {
    if (tile.state !== "completed") return h("figure", { class: "none" }, ...whyNot(tile), beside && h("figcaption", {}, `Picture ${tile.variant}`));
    const image = h("img", { alt: tile.row.prompt, width: tile.width, height: tile.height, decoding: "async" });
    showLarge(image, tile);
    const caption = beside && h("figcaption", {}, `Picture ${tile.variant}`, this.#pickButton(tile, true));
    return h("figure", { class: this.#picks.has(tile.key) ? "picked" : "" }, image, caption);
  }

  #pickButton(tile, beside) {
    const picked = this.#picks.has(tile.key);
    return button(picked ? "Picked" : "Pick", () => this.#pick(tile), { icon: "pick", "aria-pressed": String(picked), kind: "pick-wide", "data-hold": `pick-${beside ? tile.variant : 0}`, title: "Pick (P)", "aria-label": `${picked ? "Picked" : "Pick"}, ${tile.sceneId}, picture ${tile.variant}` });
  }

  #about(tile, beside) {
    const { row } = tile;
    const made = tile.state === "completed";
    const facts = [["Model", this.#board.batch.model], ["Asked for", `${row.aspectRatio}, ${row.imageSize}`]];
    if (made) facts.push(["Picture", `${tile.width} × ${tile.height}, ${bytes(tile.bytes)}`]);
    if (tile.cost !== null && tile.cost !== undefined) facts.push(["Cost", `${money(tile.cost)}${tile.billing ? `, ${BILLING[tile.billing]}` : ""}`]);
    return [
      h("h2", {}, row.sceneId),
      h("p", { class: "full-prompt", tabindex: 0 }, row.prompt),
      made && !beside && h("div", { class: "actions" }, this.#pickButton(tile), h("a", { class: "button", href: tile.permalink, download: `${tile.sceneId}_v${tile.variant}` }, icon("save"), h("span", {}, "Save")),
        button("Copy link", () => copyLink(tile), { kind: "quiet" })),
      h("dl", { class: "facts" }, ...facts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
      row.references.length > 0 && h("h3", {}, "References"),
      row.references.length > 0 && h("ul", { class: "references" }, ...row.references.map((reference) => h("li", {}, thumbnail(reference.url, "thumb large"), h("span", { class: "name", title: reference.url }, nameOf(reference))))),
      row.tiles.length > 1 && !beside && this.#strip(tile),
      h("p", { class: "keys soft" }, h("kbd", {}, "←"), " ", h("kbd", {}, "→"), " next, ", h("kbd", {}, "P"), " pick", ...(row.tiles.length > 1 ? [", ", h("kbd", {}, "C"), " side by side"] : []), ", ", h("kbd", {}, "Esc"), " close"),
    ].filter(Boolean);
  }

  #strip(tile) {
    return h("div", { class: "strip", role: "group", "aria-label": "Variants" }, ...tile.row.tiles.map((one) => h("button", {
      type: "button", "data-hold": `variant-${one.variant}`, "aria-label": `Picture ${one.variant}`, "aria-pressed": String(one === tile), class: this.#picks.has(one.key) ? "picked" : "", onclick: () => this.#show(one),
    }, one.state === "completed" ? h("img", { src: one.thumbnailUrl ?? one.permalink, alt: "" }) : icon(one.state === "failed" ? "warn" : "wait"))));
  }

  #preload(tile) {
    const all = [...this.#board.tiles.values()];
    const next = all[all.indexOf(tile) + 1];
    if (next?.state === "completed") new Image().src = next.url;
  }
}

/** The small picture at once, the large one when it is there. */
function showLarge(image, tile) {
  if (tile.thumbnailUrl) image.src = tile.thumbnailUrl;
  const large = new Image();
  large.onload = () => (image.src = large.src);
  large.onerror = () => {
    large.onerror = null;
    large.src = tile.permalink;
  };
  large.src = tile.url;
}

function whyNot(tile) {
  if (tile.state !== "failed") return [icon(tile.state === "cancelled" ? "remove" : "wait"), h("p", {}, tile.state === "cancelled" ? "Cancelled before it was made." : "Not made yet.")];
  const { title, advice } = failure(tile.error?.code);
  return [icon("warn"), h("h3", {}, title), h("p", {}, advice), h("p", { class: "soft" }, sentence(tile.error?.detail ?? ""))];
}

async function copyLink(tile) {
  const link = new URL(tile.permalink, location.href).href;
  try {
    await navigator.clipboard.writeText(link);
    toast("The link is copied. It lasts as long as the picture.");
  } catch {
    toast(link);
  }
}
