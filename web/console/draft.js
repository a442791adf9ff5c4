// The batch that is being written: its rows and settings, what is wrong with them, and what is sent of them.
//
// Pure, but for the browser's storage in `load` and `save`. Faults are those that can be told before the service is asked.

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,49}$/;
const STORED = "orchestrator.draft";
export const MODES = [["style_only", "Style only"], ["style_and_composition", "Style and composition"]];

let counter = 0;

/** An empty draft. */
export function emptyDraft() {
  return { rows: [], model: "", aspectRatio: "1:1", imageSize: "1K", pack: [], packMode: MODES[0][0] };
}

/** A row with what is known of it. An empty shape or size is the batch's. */
export function newRow(known = {}) {
  counter += 1;
  return {
    id: counter, sceneId: known.sceneId ?? "", prompt: known.prompt ?? "", variants: String(known.variants || "1"),
    aspectRatio: known.aspectRatio ?? "", imageSize: (known.imageSize ?? "").toUpperCase(),
    referenceMode: known.referenceMode || "style_only",
    references: (known.references ?? []).map((one) => (typeof one === "string" ? { url: one } : { ...one })),
  };
}

/** Adds rows behind those that are there; those without a name get one. */
export function addRows(draft, known) {
  const rows = known.map(newRow);
  if (draft.rows.every((row) => !row.prompt && !row.sceneId)) draft.rows.length = 0;
  const taken = new Set([...draft.rows, ...rows].map((row) => row.sceneId.toLowerCase()));
  let number = draft.rows.length;
  for (const row of rows) {
    number += 1;
    if (row.sceneId) continue;
    let name = nameOf(number);
    for (let next = number + 1; taken.has(name); next += 1) name = nameOf(next);
    taken.add(name);
    row.sceneId = name;
  }
  draft.rows.push(...rows);
  return rows;
}

const nameOf = (number) => `s-${String(number).padStart(3, "0")}`;

/** A name as near to `text` as is allowed. */
export function mendName(text) {
  const plain = text.normalize("NFKD").replace(/\p{M}/gu, "").replace(/[^A-Za-z0-9._-]+/g, "-");
  return plain.replace(/^[^A-Za-z0-9]+/, "").slice(0, 50).replace(/-+$/, "");
}

/** The model that the draft is for. */
export function modelOf(draft, catalogue) {
  return catalogue.models.find((model) => model.id === draft.model) ?? catalogue.models.find((model) => model.default) ?? catalogue.models[0];
}

/** The shape and the size of a row. */
export const ratioOf = (row, draft) => row.aspectRatio || draft.aspectRatio;
export const sizeOf = (row, draft) => row.imageSize || draft.imageSize;

/** What one picture of a row is listed at; nothing if it has no price. */
export function listedPrice(row, draft, catalogue) {
  return modelOf(draft, catalogue)?.sizes.find((size) => size.size === sizeOf(row, draft))?.price;
}

/** What the batch is listed at, and how many pictures it has; rows with faults count as far as they can. */
export function totals(draft, catalogue) {
  const sum = { pictures: 0, listed: 0 };
  for (const row of draft.rows) {
    const variants = Number(row.variants) || 0;
    sum.pictures += variants;
    sum.listed += variants * (listedPrice(row, draft, catalogue) ?? 0);
  }
  return sum;
}

/** What is wrong with the rows: a map from a row's id to `{field: text}`. */
export function faultsOf(draft, catalogue) {
  const { limits } = catalogue;
  const model = modelOf(draft, catalogue);
  const faults = new Map();
  const first = new Map();
  draft.rows.forEach((row, index) => {
    const found = {};
    const key = row.sceneId.toLowerCase();
    if (!row.sceneId) found.sceneId = "Give it a name: pictures are saved under it";
    else if (!NAME.test(row.sceneId)) found.sceneId = "Use letters, digits, dots, dashes and underscores, at most 50, beginning with a letter or digit";
    else if (first.has(key)) found.sceneId = `Row ${first.get(key) + 1} has this name already`;
    if (!first.has(key)) first.set(key, index);
    const characters = [...row.prompt].length;
    if (!row.prompt.trim()) found.prompt = "Write what the picture should show";
    else if (characters > limits.promptChars) found.prompt = `${characters.toLocaleString("en-US")} characters; at most ${limits.promptChars.toLocaleString("en-US")} are taken`;
    const variants = Number(row.variants);
    if (!Number.isInteger(variants) || variants < 1 || variants > limits.variants) found.variants = `Choose 1 to ${limits.variants} pictures`;
    if (model && !model.aspectRatios.includes(ratioOf(row, draft))) found.aspectRatio = `${model.id} makes ${model.aspectRatios.join(", ")}`;
    if (model && !model.sizes.some((size) => size.size === sizeOf(row, draft))) found.imageSize = `${model.id} makes ${model.sizes.map((size) => size.size).join(", ")}`;
    const odd = row.references.find((reference) => !isAddress(reference.url));
    const all = new Set([...row.references, ...draft.pack].map((reference) => reference.url)).size;
    if (odd) found.references = `Not an address: ${odd.url}`;
    else if (all > limits.references) found.references = `At most ${limits.references} references with those for all rows, not ${all}`;
    if (Object.keys(found).length) faults.set(row.id, found);
  });
  return faults;
}

/** Whether a text can be the address of a reference. */
export function isAddress(text) {
  if (/\s/.test(text)) return false;
  if (/^(\/assets\/|gs:\/\/|local:)/.test(text)) return true;
  try {
    return ["http:", "https:"].includes(new URL(text).protocol);
  } catch {
    return false;
  }
}

/** What is sent of the draft. */
export function toBody(draft, runMode) {
  const items = draft.rows.map((row) => ({
    sceneId: row.sceneId,
    prompt: row.prompt,
    variants: Number(row.variants),
    aspectRatio: ratioOf(row, draft),
    imageSize: sizeOf(row, draft),
    referenceMode: row.referenceMode,
    ...(row.references.length ? { references: row.references.map(({ url }) => ({ url })) } : {}),
  }));
  return {
    runMode,
    ...(draft.model ? { model: draft.model } : {}),
    ...(draft.pack.length ? { referencePack: draft.pack.map(({ url }) => ({ url, mode: draft.packMode })) } : {}),
    items,
  };
}

/** The faults of a problem body by row, and those that are of no row. */
export function placeFaults(errors, draft) {
  const rows = new Map();
  const others = [];
  for (const { pointer, detail } of errors ?? []) {
    const [, list, index, member] = (pointer ?? "").split("/");
    const row = list === "items" ? draft.rows[Number(index)] : undefined;
    if (!row) {
      others.push(list === "referencePack" ? `References for all rows: ${detail}` : detail);
      continue;
    }
    const found = rows.get(row.id) ?? {};
    found[member ?? "prompt"] ??= detail;
    rows.set(row.id, found);
  }
  return { rows, others };
}

/** What a batch was made of, as a draft again. */
export function fromItems(batch, items) {
  const draft = { ...emptyDraft(), model: batch.model };
  addRows(draft, items.map((item) => ({
    sceneId: item.sceneId, prompt: item.prompt, variants: item.images.length, aspectRatio: item.aspectRatio,
    imageSize: item.imageSize, references: item.references.map(({ url }) => ({ url })),
    referenceMode: item.references[0]?.mode,
  })));
  return draft;
}

/** The draft that was kept in this browser. */
export function load() {
  try {
    const kept = JSON.parse(localStorage.getItem(STORED));
    return kept ? { ...emptyDraft(), ...kept, rows: kept.rows.map(newRow) } : emptyDraft();
  } catch {
    return emptyDraft();
  }
}

/** Keeps the draft in this browser; one that is too large for it is not kept. */
export function save(draft) {
  try {
    if (draft.rows.length || draft.pack.length) localStorage.setItem(STORED, JSON.stringify(draft));
    else localStorage.removeItem(STORED);
  } catch {
    // The storage is full or switched off: the draft lives as long as the page.
  }
}
