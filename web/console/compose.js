// Writing a batch: rows in, faults shown, priced, and sent.

import { ApiError, price, submit } from "./api.js";
import { announce, button, choices, confirm, h, icon, toast } from "./dom.js";
import { addRows, emptyDraft, faultsOf, listedPrice, load, MODES, modelOf, placeFaults, save, toBody, totals } from "./draft.js";
import { count, money } from "./format.js";
import { addDropped, editReferences, referenceList } from "./references.js";
import { readFile, readPasted } from "./rows.js";
import { RowTable } from "./table.js";

const SAVE_AFTER = 400;
const EXAMPLE = `Name\tPrompt\tPictures\tShape
mug-hero\tA hand-thrown stoneware mug in sage green on a linen tablecloth, soft morning window light, shallow depth of field\t3\t1:1
mug-steam\tThe same sage green mug filled with black coffee, steam rising, dark walnut table, moody side light\t2\t4:5
mug-shelf\tFive stoneware mugs in muted earth tones in a row on a pale oak shelf, seen straight on, even studio light\t1\t16:9
mug-hands\tTwo hands in a cream wool jumper holding a sage green mug, close up, autumn park out of focus behind\t2\t3:2
mug-flatlay\tBreakfast from above: sage green mug, buttered toast, figs and an open notebook on white marble\t1\t1:1
mug-box\tA sage green mug half unpacked from a kraft paper gift box with crumpled tissue, warm grey background\t1\t4:5`;

/** A key for a submission; one that is sent twice makes one batch. */
const newKey = () => `console-${Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("")}`;

let draft;

/** Puts another batch in place of the one that is being written. */
export function replaceDraft(other) {
  draft = other;
  save(draft);
}

export function composeView(shell, main, signal) {
  draft ??= load();
  new Composer(shell, main, signal).show();
}

class Composer {
  #shell;
  #main;
  #priced;
  #busy = false;
  /** Counts edits: a price is of the rows as they were when it was asked for. */
  #revision = 0;
  #serverFaults = new Map();
  #checkAll = false;
  #checked = new Set(draft.rows.map((row) => row.id));
  #saveTimer;
  #recheckFrame;

  constructor(shell, main, signal) {
    this.#shell = shell;
    this.#main = main;
    const on = (type, listener) => document.addEventListener(type, listener, { signal });
    on("paste", (event) => this.#pasted(event));
    on("dragover", (event) => this.#dragged(event));
    on("dragleave", (event) => event.relatedTarget ?? document.body.classList.remove("dropping"));
    on("drop", (event) => this.#dropped(event));
    on("keydown", (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || document.querySelector("dialog[open]")) return;
      event.preventDefault();
      this.#primary();
    });
    signal.addEventListener("abort", () => this.#keep());
  }

  get #catalogue() {
    return this.#shell.catalogue;
  }

  get #model() {
    return modelOf(draft, this.#catalogue);
  }

  show() {
    // A draft may be older than the list of models: what is shown is what is sent.
    if (draft.model) draft.model = this.#model?.id;
    this.table = new RowTable({
      draft, catalogue: this.#catalogue, model: () => this.#model,
      edit: (row) => this.#edited(row),
      left: (row) => (this.#checked.add(row.id), this.#recheck()),
      remove: (row) => this.#remove(row),
      references: (row) => editReferences(row, draft.pack, this.#catalogue.limits, () => (this.table.refresh(row), this.#edited(row))),
      shown: () => this.#recheck(),
    });
    this.#parts();
    this.#main.replaceChildren(h("section", { class: "page compose" },
      h("div", { class: "page-head" }, h("h1", {}, "New batch"), this.toolbar), this.#banner(),
      h("div", { class: "columns" }, h("div", { class: "work" }, this.empty, this.sheet), this.side)));
    this.table.reset();
    this.#arrange();
    this.#recheck();
  }

  #parts() {
    const { limits } = this.#catalogue;
    const chooser = h("input", { type: "file", accept: ".csv,.tsv,.txt,text/csv,text/tab-separated-values", hidden: true, "aria-hidden": "true", tabindex: "-1",
      onchange: () => (this.#takeFiles([...chooser.files]), (chooser.value = "")) });
    this.chooser = chooser;
    this.toolbar = h("div", { class: "toolbar" },
      button("Paste", () => this.#pasteDialog(), { icon: "sheet", kind: "quiet" }),
      button("From a file…", () => chooser.click(), { icon: "add", kind: "quiet" }),
      button("Clear", () => this.#clear(), { kind: "quiet" }));
    const paste = h("textarea", { id: "paste-field", rows: 3, placeholder: "Paste here, or anywhere on this page", "aria-describedby": "paste-help" });
    this.empty = h("div", { class: "empty drop" }, h("div", { class: "big-icon" }, icon("sheet")),
      h("h2", {}, h("label", { for: "paste-field" }, "Paste rows from your spreadsheet")),
      h("p", { id: "paste-help" }, "One row makes one to three pictures. A column with prompts is enough; names, numbers of pictures, shapes, sizes and references are recognised. Or drop a CSV file."),
      paste,
      h("div", { class: "actions centre" }, button("Type a row", () => this.#addRow(), { kind: "primary", icon: "add" }),
        button("Choose a file…", () => chooser.click()), button("Try an example", () => this.#take(readPasted(EXAMPLE), "the example"))));
    this.sheet = h("div", { class: "card flush" }, this.table.element,
      h("div", { class: "sheet-foot" }, button("Add a row", () => this.#addRow(), { icon: "add", kind: "quiet" }),
        h("span", { class: "soft hint" }, "Paste more rows at any time. Drop pictures on a row to use them as its references.")));
    this.side = h("aside", { class: "side", "aria-label": "Settings and price" }, this.#summary(), this.#settings(limits), chooser);
  }

  #settings(limits) {
    const models = this.#catalogue.models.map((model) => [model.id, `${model.id} · ${fromPrice(model)}`]);
    this.modelField = h("select", { id: "model", onchange: () => this.#changeModel(this.modelField.value) });
    choices(this.modelField, models, this.#model.id);
    this.modelNote = h("p", { class: "soft note" });
    this.ratioField = h("select", { id: "ratio", onchange: () => ((draft.aspectRatio = this.ratioField.value), this.#settingsChanged()) });
    this.sizeField = h("select", { id: "size", onchange: () => ((draft.imageSize = this.sizeField.value), this.#settingsChanged()) });
    this.packMode = h("select", { id: "pack-mode", onchange: () => ((draft.packMode = this.packMode.value), this.#settingsChanged()) });
    choices(this.packMode, MODES, draft.packMode);
    this.pack = referenceList({ references: draft.pack, limits, label: "References for all rows", changed: () => this.#settingsChanged() });
    const field = (id, name, control) => h("div", { class: "field" }, h("label", { for: id }, name), control);
    return h("div", { class: "card" }, h("h2", {}, "For all rows"), field("model", "Model", this.modelField), this.modelNote,
      h("div", { class: "pair" }, field("ratio", "Shape", this.ratioField), field("size", "Size", this.sizeField)),
      h("div", { class: "field" }, h("h3", {}, "References"), h("p", { class: "soft" }, "Pictures that every row goes by, such as a brand sheet. Drop files anywhere here."), this.pack.element, this.packModeField = field("pack-mode", "What to take over", this.packMode)));
  }

  #summary() {
    this.facts = h("dl", { class: "facts" });
    this.problem = h("div", { class: "problem", role: "alert", hidden: true });
    this.action = h("button", { type: "button", class: "primary wide", onclick: () => this.#primary() });
    this.actionHelp = h("p", { class: "soft" });
    return h("div", { class: "card price" }, h("h2", {}, "Price"), this.facts, this.problem, this.action, this.actionHelp);
  }

  #banner() {
    const { runMode, rehearsal } = this.#catalogue;
    if (runMode === "dry_run") {
      return h("p", { class: "banner warn" }, icon("warn"), h("span", {}, "This service checks prices and makes no pictures. To make some, whoever runs it starts it with ", h("code", {}, "RUN_MODE=live"), "."));
    }
    if (rehearsal) {
      return h("p", { class: "banner" }, icon("picture"), h("span", {}, "Rehearsal: the service draws placeholder pictures itself. Prices are counted, nothing is paid."));
    }
    return undefined;
  }

  /** Shows the empty page or the table. */
  #arrange() {
    const filled = draft.rows.length > 0;
    this.empty.hidden = filled;
    this.sheet.hidden = !filled;
    this.toolbar.hidden = !filled;
    this.side.classList.toggle("idle", !filled);
    const model = this.#model;
    choices(this.ratioField, model.aspectRatios, draft.aspectRatio);
    choices(this.sizeField, model.sizes.map(({ size, price: listed }) => [size, `${size} · ${money(listed)}`]), draft.imageSize);
    this.packModeField.hidden = draft.pack.length === 0;
    this.modelNote.textContent = model.deprecated ?? "";
    this.#showPrice();
  }

  /** Another model: what it does not make gives way to what it does. */
  #changeModel(id) {
    draft.model = id;
    const { aspectRatios, sizes } = this.#model;
    if (!aspectRatios.includes(draft.aspectRatio)) [draft.aspectRatio] = aspectRatios;
    if (!sizes.some(({ size }) => size === draft.imageSize)) draft.imageSize = sizes[0].size;
    this.#settingsChanged();
  }

  #settingsChanged() {
    this.table.refresh();
    this.#arrange();
    this.#edited();
  }

  #edited(row) {
    this.#revision += 1;
    this.#priced = undefined;
    draft.key = undefined;
    if (row) this.#serverFaults.delete(row.id);
    else this.#serverFaults.clear();
    this.problem.hidden = true;
    clearTimeout(this.#saveTimer);
    this.#saveTimer = setTimeout(() => this.#keep(), SAVE_AFTER);
    this.#recheck();
  }

  #keep() {
    clearTimeout(this.#saveTimer);
    save(draft);
  }

  /** Looks at all rows anew, once a frame at most. */
  #recheck() {
    this.#recheckFrame ??= requestAnimationFrame(() => {
      this.#recheckFrame = undefined;
      this.faults = faultsOf(draft, this.#catalogue);
      draft.rows.forEach((row) => {
        const shown = { ...(this.#checkAll || this.#checked.has(row.id) ? this.faults.get(row.id) : undefined), ...this.#serverFaults.get(row.id) };
        this.table.setFaults(row, Object.keys(shown).length ? shown : undefined);
        const exact = this.#priced?.costs.get(row.id);
        const listed = listedPrice(row, draft, this.#catalogue);
        this.table.setCost(row, exact ?? (listed === undefined ? undefined : listed * (Number(row.variants) || 0)), exact !== undefined);
      });
      this.#showPrice();
    });
  }

  #showPrice() {
    const { pictures, listed } = totals(draft, this.#catalogue);
    const left = this.#shell.meter.remaining;
    const total = this.#priced?.total;
    const faulty = [...(this.faults ?? new Map()).keys()].length + [...this.#serverFaults.keys()].filter((id) => !this.faults?.has(id)).length;
    const facts = [["Rows", draft.rows.length.toLocaleString("en-US")], ["Pictures", pictures.toLocaleString("en-US")]];
    if (total === undefined) facts.push(["By the price list", `about ${money(listed)}`]);
    else facts.push(["At most", h("strong", {}, money(total))]);
    if (left !== undefined) facts.push(["Left today", money(left)]);
    if (total !== undefined && left !== undefined) facts.push([total > left ? "Missing" : "Left after that", money(Math.abs(left - total))]);
    this.facts.replaceChildren(...facts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
    const live = this.#catalogue.runMode === "live";
    const ready = total !== undefined && live;
    const text = this.#busy ? (ready ? "Sending…" : "Checking…") : ready ? `Make ${count(pictures, "picture")}` : "Check the price";
    this.action.textContent = text;
    this.action.disabled = this.#busy || !draft.rows.length || draft.rows.length > this.#catalogue.limits.rows || (total !== undefined && !live);
    this.action.classList.toggle("go", ready);
    const most = this.#catalogue.limits.rows;
    this.actionHelp.replaceChildren(...this.#help({ faulty, ready, live, total, most }));
  }

  #help({ faulty, ready, live, total, most }) {
    if (!draft.rows.length) return ["Nothing is spent before you have seen the price."];
    if (draft.rows.length > most) return [`A batch has at most ${most.toLocaleString("en-US")} rows: take some out and make a second batch of them.`];
    if (faulty && (this.#checkAll || this.#serverFaults.size)) {
      return [h("button", { type: "button", class: "link", onclick: () => this.#firstFault() }, `${count(faulty, "row needs", "rows need")} a look`)];
    }
    if (ready) return ["Reserved now; what the pictures do not use comes back. Rows can still be changed before."];
    if (total !== undefined && !live) return ["This service makes no pictures: it runs with RUN_MODE=dry_run."];
    return ["Asks the service for the exact price. Nothing is spent."];
  }

  #firstFault() {
    const row = draft.rows.find(({ id }) => this.faults.has(id) || this.#serverFaults.has(id));
    if (row) this.table.focus(row, Object.keys(this.#serverFaults.get(row.id) ?? this.faults.get(row.id))[0]);
  }

  #addRow() {
    const [row] = addRows(draft, [{}]);
    this.#arrange();
    if (draft.rows.length === 1) this.table.reset();
    else this.table.append([row]);
    this.table.focus(row);
    this.#edited(row);
  }

  async #clear() {
    if (!(await confirm("Clear this batch?", `${count(draft.rows.length, "row")} will be taken out.`, "Clear"))) return;
    Object.assign(draft, emptyDraft(), { pack: draft.pack });
    draft.pack.length = 0;
    this.#checkAll = false;
    this.pack.show();
    this.table.reset();
    this.#settingsChanged();
    this.empty.querySelector("textarea").focus();
  }

  #remove(row) {
    const at = draft.rows.indexOf(row);
    draft.rows.splice(at, 1);
    this.table.remove(row);
    this.#arrange();
    this.#edited(row);
    const next = draft.rows[Math.min(at, draft.rows.length - 1)];
    if (next) this.table.focus(next, "sceneId");
    announce(`${row.sceneId} is out`);
  }

  /** Takes in what was pasted or read from a file. */
  #take({ rows, ignored }, from) {
    if (!rows.length) return toast(`There are no rows in ${from}.`);
    const replaces = draft.rows.every((row) => !row.prompt && !row.sceneId);
    const added = addRows(draft, rows);
    added.forEach((row) => this.#checked.add(row.id));
    if (replaces) this.table.reset();
    else this.table.append(added);
    this.#arrange();
    this.#edited();
    const unused = ignored.length ? ` Not used: ${ignored.join(", ")}.` : "";
    toast(`${count(added.length, "row")} from ${from}.${unused}`);
  }

  #pasted(event) {
    if (document.querySelector("dialog[open]")) return;
    const text = event.clipboardData?.getData("text/plain") ?? "";
    const files = [...(event.clipboardData?.files ?? [])];
    const field = event.target.closest?.("input, textarea, select");
    if (!text && files.length) {
      event.preventDefault();
      return this.#takeFiles(files, this.table.rowAt(event.target));
    }
    // In a field people paste texts; cells of a spreadsheet are rows wherever they are pasted.
    const rows = field && field.id !== "paste-field" ? text.includes("\t") : text.trim() !== "";
    if (!rows) return;
    event.preventDefault();
    this.#take(readPasted(text), "the clipboard");
  }

  #pasteDialog() {
    const field = h("textarea", { rows: 8, id: "paste-more" });
    const dialog = h("dialog", { class: "ask wide", "aria-label": "Paste rows", onclose: () => (dialog.remove(), dialog.returnValue === "yes" && this.#take(readPasted(field.value), "the clipboard")) },
      h("form", { method: "dialog" }, h("h2", {}, h("label", { for: "paste-more" }, "Paste rows")), field,
        h("div", { class: "actions" }, h("button", { value: "no", formnovalidate: true }, "Go back"), h("button", { value: "yes", class: "primary" }, "Add the rows"))));
    document.body.append(dialog);
    dialog.showModal();
    field.focus();
  }

  #dragged(event) {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    document.body.classList.add("dropping");
  }

  #dropped(event) {
    document.body.classList.remove("dropping");
    if (!event.dataTransfer?.files.length || event.defaultPrevented) return;
    event.preventDefault();
    this.#takeFiles([...event.dataTransfer.files], this.table.rowAt(event.target));
  }

  /** Tables become rows, pictures become references: of `row`, or of all. */
  async #takeFiles(files, row) {
    const pictures = files.filter((file) => file.type.startsWith("image/"));
    for (const file of files.filter((one) => !pictures.includes(one))) {
      if (!/\.(csv|tsv|txt)$/i.test(file.name)) {
        toast(`${file.name} is neither a CSV file nor a picture. Save the sheet as CSV and drop that.`);
        continue;
      }
      this.#take(readFile(new Uint8Array(await file.arrayBuffer())), file.name);
    }
    if (!pictures.length) return;
    if (!row) return this.pack.addFiles(pictures);
    if (await addDropped(pictures, row.references, this.#catalogue.limits)) {
      this.table.refresh(row);
      this.#edited(row);
    }
  }

  async #primary() {
    if (this.action.disabled) return;
    this.#checkAll = true;
    this.#recheck();
    this.faults = faultsOf(draft, this.#catalogue);
    if (this.faults.size) {
      announce(`${count(this.faults.size, "row needs", "rows need")} a look`);
      return this.#firstFault();
    }
    this.#busy = true;
    this.problem.hidden = true;
    this.#showPrice();
    try {
      if (this.#priced) await this.#send();
      else await this.#askPrice();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.#showProblem(error);
    } finally {
      this.#busy = false;
      this.#recheck();
    }
  }

  async #askPrice() {
    const [rows, revision] = [[...draft.rows], this.#revision];
    const [estimate] = await Promise.all([price(toBody(draft, "dry_run")), this.#shell.meter.refresh()]);
    if (revision !== this.#revision) return;
    this.#priced = { total: estimate.estimatedCost, costs: new Map(rows.map((row, index) => [row.id, estimate.items[index].estimatedCost])) };
    draft.key ??= newKey();
    this.#keep();
    announce(`At most ${money(estimate.estimatedCost)}`);
  }

  /** Sends the batch. A try whose answer was lost is sent again with its key, and makes no second batch. */
  async #send() {
    // What is typed meanwhile would be in no batch.
    const focused = document.activeElement;
    this.#main.inert = true;
    const accepted = await submit(toBody(draft, "live"), draft.key).finally(() => {
      this.#main.inert = false;
      focused?.focus();
    });
    draft.rows.length = 0;
    draft.key = undefined;
    this.#keep();
    this.#shell.go(`#/batches/${accepted.batchId}`);
  }

  #showProblem(error) {
    const { rows, others } = placeFaults(error.problem?.errors, draft);
    this.#serverFaults = rows;
    const texts = rows.size ? others : [error.message];
    this.problem.replaceChildren(...texts.map((text) => h("p", {}, icon("warn"), h("span", {}, text))));
    this.problem.hidden = !texts.length;
    if (error.code === "budget_exceeded") this.#priced = undefined;
    this.#recheck();
  }
}

function fromPrice(model) {
  const prices = model.sizes.map(({ price: listed }) => listed);
  const least = Math.min(...prices);
  return prices.every((one) => one === least) ? `${money(least)} a picture` : `from ${money(least)}`;
}
