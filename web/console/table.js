// The rows of a draft as a table in which people type. Shows what it is told; tells every edit.

import { choices, h, icon, iconButton } from "./dom.js";
import { MODES, mendName, ratioOf, sizeOf } from "./draft.js";
import { money } from "./format.js";
import { thumbnail } from "./references.js";

/** Rows that are built in one go; more would keep the page from answering. */
const ROWS_A_FRAME = 25;
const COLUMNS = [["", "num"], ["Name", "name"], ["Prompt", "prompt"], ["Pictures", "variants"], ["Shape", "ratio"], ["Size", "size"], ["References", "refs"], ["Cost", "cost"], ["", "end"]];
const FIELDS = { sceneId: "Name", prompt: "Prompt", variants: "Pictures", aspectRatio: "Shape", imageSize: "Size", references: "References", referenceMode: "References" };

export class RowTable {
  #body = h("div", { role: "rowgroup", class: "rows" });
  #elements = new Map();
  #pending = [];
  #tools;

  /** `tools`: `draft`, `catalogue`, `model()`, and what to do on `edit(row)`, `remove(row)`, `references(row)`. */
  constructor(tools) {
    this.#tools = tools;
    const names = COLUMNS.map(([name, kind]) => h("div", { role: "columnheader", class: `cell ${kind}` }, name || h("span", { class: "unseen" }, kind === "num" ? "Row" : "Remove")));
    this.element = h("div", { role: "table", class: "sheet", "aria-label": "Rows of the batch" },
      h("div", { role: "rowgroup", class: "sheet-head" }, h("div", { role: "row", class: "row" }, ...names)), this.#body);
  }

  /** Shows all rows of the draft anew. */
  reset() {
    this.#elements.clear();
    this.#body.replaceChildren();
    this.#pending = [];
    this.append(this.#tools.draft.rows);
  }

  /** Shows more rows; many come in over several frames. */
  append(rows) {
    const idle = this.#pending.length === 0;
    this.#pending.push(...rows);
    if (idle) this.#build();
  }

  #build() {
    const rows = this.#pending.splice(0, ROWS_A_FRAME);
    this.#body.append(...rows.map((row) => this.#make(row)));
    if (this.#pending.length) requestAnimationFrame(() => this.#build());
    else this.#number();
    this.#tools.shown?.(rows);
  }

  remove(row) {
    this.#elements.get(row.id)?.element.remove();
    this.#elements.delete(row.id);
    this.#number();
  }

  /** Puts the keyboard into a row. */
  focus(row, field = "prompt") {
    const parts = this.#elements.get(row.id);
    parts?.element.scrollIntoView({ block: "nearest" });
    (parts?.fields[field] ?? parts?.fields.prompt)?.focus();
  }

  /** Whose row an element is in. */
  rowAt(target) {
    const id = Number(target.closest?.(".rows > .row")?.dataset.id);
    return this.#tools.draft.rows.find((row) => row.id === id);
  }

  /** Shows what is wrong with a row; nothing takes it away. */
  setFaults(row, faults) {
    const parts = this.#elements.get(row.id);
    const told = faults && JSON.stringify(faults);
    if (!parts || parts.told === told) return;
    parts.told = told;
    parts.element.classList.toggle("faulty", Boolean(faults));
    for (const [name, field] of Object.entries(parts.fields)) {
      if (faults?.[name]) field.setAttribute("aria-invalid", "true");
      else field.removeAttribute("aria-invalid");
    }
    parts.faults.replaceChildren(...Object.entries(faults ?? {}).map(([name, text]) => h("p", { class: "fault" }, icon("warn"),
      h("span", {}, `${FIELDS[name] ?? name}: ${text}`), name === "sceneId" && this.#mend(row, parts))));
    parts.faults.hidden = !faults;
  }

  #mend(row, parts) {
    const name = mendName(row.sceneId);
    if (!name || name === row.sceneId) return undefined;
    const use = () => {
      row.sceneId = parts.fields.sceneId.value = name;
      this.#tools.edit(row);
      parts.fields.sceneId.focus();
    };
    return h("button", { type: "button", class: "link", onclick: use }, `Use ${name}`);
  }

  /** Shows what a row costs: `exact` if the service said so, else about. */
  setCost(row, amount, exact) {
    const parts = this.#elements.get(row.id);
    const shown = `${amount} ${exact}`;
    // Of a thousand rows one changes at a time.
    if (!parts || parts.shown === shown) return;
    parts.shown = shown;
    parts.cost.textContent = amount === undefined ? "–" : money(amount);
    parts.cost.classList.toggle("soft", !exact);
  }

  /** Shows a row's shape, size and references anew; without one, those of all rows. */
  refresh(row) {
    for (const one of row ? [row] : this.#tools.draft.rows) {
      const parts = this.#elements.get(one.id);
      if (!parts) continue;
      this.#fill(parts.fields.aspectRatio, one, "aspectRatio", false);
      this.#fill(parts.fields.imageSize, one, "imageSize", false);
      this.#showReferences(one, parts.fields.references);
    }
  }

  #number() {
    this.#tools.draft.rows.forEach((row, index) => {
      const parts = this.#elements.get(row.id);
      if (parts) parts.number.textContent = index + 1;
    });
  }

  #make(row) {
    const { limits } = this.#tools.catalogue;
    const edit = (name) => (event) => {
      row[name] = event.target.value;
      this.#tools.edit(row);
    };
    const named = (name) => `${name}, ${row.sceneId || "row without a name"}`;
    const variants = Array.from({ length: limits.variants }, (_, index) => String(index + 1));
    const fields = {
      sceneId: h("input", { "aria-label": named("Name"), spellcheck: "false", autocomplete: "off", maxlength: 200, oninput: edit("sceneId") }),
      prompt: h("textarea", { "aria-label": named("Prompt"), rows: 1, oninput: edit("prompt") }),
      variants: h("select", { "aria-label": named("Pictures"), onchange: edit("variants") }),
      aspectRatio: h("select", { "aria-label": named("Shape"), onchange: edit("aspectRatio") }),
      imageSize: h("select", { "aria-label": named("Size"), onchange: edit("imageSize") }),
      references: h("button", { type: "button", class: "refs-button", onclick: () => this.#tools.references(row) }),
    };
    fields.sceneId.value = row.sceneId;
    fields.prompt.value = row.prompt;
    choices(fields.variants, variants, row.variants);
    for (const name of ["aspectRatio", "imageSize"]) {
      this.#fill(fields[name], row, name, false);
      // All choices of all rows would be most of the page: they come when somebody wants them.
      fields[name].addEventListener("focus", () => this.#fill(fields[name], row, name, true));
    }
    this.#showReferences(row, fields.references);
    const number = h("div", { role: "cell", class: "cell num" });
    const cost = h("div", { role: "cell", class: "cell cost soft" }, "–");
    const faults = h("div", { role: "cell", class: "cell faults", id: `faults-${row.id}`, hidden: true });
    for (const field of Object.values(fields)) field.setAttribute("aria-describedby", faults.id);
    const cell = (kind, field) => h("div", { role: "cell", class: `cell ${kind}` }, field);
    const element = h("div", {
      role: "row", class: "row", "data-id": row.id,
      onfocusout: (event) => element.contains(event.relatedTarget) || this.#tools.left(row),
    }, number, cell("name", fields.sceneId), cell("prompt", fields.prompt), cell("variants", fields.variants), cell("ratio", fields.aspectRatio),
    cell("size", fields.imageSize), cell("refs", fields.references), cost,
    cell("end", iconButton("remove", named("Remove"), () => this.#tools.remove(row))), faults);
    this.#elements.set(row.id, { element, fields, number, cost, faults });
    return element;
  }

  #fill(element, row, name, all) {
    const model = this.#tools.model();
    const own = name === "aspectRatio" ? model.aspectRatios : model.sizes.map(({ size }) => size);
    const common = name === "aspectRatio" ? ratioOf({}, this.#tools.draft) : sizeOf({}, this.#tools.draft);
    const options = all ? [["", `${common} (all rows)`], ...own] : row[name] ? [row[name]] : [["", common]];
    choices(element, options, row[name]);
    element.classList.toggle("common", !row[name]);
  }

  #showReferences(row, element) {
    const count = row.references.length;
    const whole = count > 0 && row.referenceMode !== MODES[0][0] ? "with composition" : "";
    element.setAttribute("aria-label", count ? `References, ${row.sceneId}: ${count} ${whole}`.trim() : `Add references, ${row.sceneId}`);
    const shown = [...row.references.slice(0, 3).map(({ url }) => thumbnail(url)), count > 3 ? String(count) : "", whole];
    element.replaceChildren(...(count ? shown : [icon("add"), "Add"]));
  }
}
