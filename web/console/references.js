// References: pictures for the model to go by. Shown small, given by address, or dropped as files.
//
// Only pictures that this service keeps are shown: an address elsewhere is told in words, and nobody is asked for it.

import { ApiError, upload } from "./api.js";
import { button, choices, h, icon, iconButton, toast } from "./dom.js";
import { isAddress, MODES } from "./draft.js";
import { bytes } from "./format.js";

/** Files that the service takes in one request. */
const FILES_AT_ONCE = 6;

/** A small picture of a reference; for one elsewhere, a sign. */
export function thumbnail(url, className = "thumb") {
  if (!url.startsWith("/assets/")) return h("span", { class: `${className} elsewhere`, title: url }, icon("out"));
  const image = h("img", { class: className, src: url, alt: "", loading: "lazy", decoding: "async" });
  image.addEventListener("error", () => image.replaceWith(h("span", { class: `${className} elsewhere`, title: "uploaded" }, icon("picture"))), { once: true });
  return image;
}

/** A few words by which people tell references apart. */
export function nameOf(reference) {
  if (reference.name) return reference.name;
  if (reference.url.startsWith("/assets/")) return "Uploaded picture";
  try {
    const url = new URL(reference.url);
    return `${url.host}${url.pathname.length > 1 ? ` …/${decodeURIComponent(url.pathname.split("/").filter(Boolean).at(-1))}` : ""}`;
  } catch {
    return reference.url;
  }
}

/** Keeps files as references in the service. Throws what is wrong with them. */
export async function keep(files, limits) {
  const large = files.find((file) => file.size > limits.referenceBytes);
  if (large) throw new ApiError(`${large.name} has ${bytes(large.size)}; at most ${bytes(limits.referenceBytes)} are taken. Make it smaller and try again.`);
  const kept = [];
  for (let at = 0; at < files.length; at += FILES_AT_ONCE) {
    const some = files.slice(at, at + FILES_AT_ONCE);
    const { references } = await upload(some);
    kept.push(...references.map(({ url }, index) => ({ url, name: some[index].name })));
  }
  return kept;
}

/** A list of references that can be added to; `changed` is told of each change. */
export function referenceList({ references, limits, changed, label }) {
  const list = h("ul", { class: "references", "aria-label": label });
  const says = h("p", { class: "fault", role: "alert" });
  const field = h("input", { type: "url", placeholder: "https://…", "aria-label": `${label}: address`, autocomplete: "off" });
  const chooser = h("input", { type: "file", multiple: true, accept: "image/*", hidden: true, onchange: () => (addFiles([...chooser.files]), (chooser.value = "")) });

  function show() {
    list.replaceChildren(...references.map((reference, index) => h("li", {}, thumbnail(reference.url), h("span", { class: "name", title: reference.url }, nameOf(reference)),
      iconButton("remove", `Remove ${nameOf(reference)}`, () => (references.splice(index, 1), told())))));
    list.hidden = !references.length;
  }
  function told() {
    show();
    changed();
  }
  function add(more) {
    for (const one of more) if (!references.some(({ url }) => url === one.url)) references.push(one);
    says.textContent = "";
    told();
  }
  function addAddress() {
    const addresses = field.value.split(/\s+/).filter(Boolean);
    const odd = addresses.find((address) => !isAddress(address));
    if (odd) {
      says.textContent = `${odd} is not an address. One begins with https://`;
      return field.focus();
    }
    field.value = "";
    add(addresses.map((url) => ({ url })));
  }
  async function addFiles(files) {
    if (!files.length) return;
    element.setAttribute("aria-busy", "true");
    says.textContent = "";
    try {
      add(await keep(files, limits));
    } catch (error) {
      says.textContent = error.message;
    } finally {
      element.removeAttribute("aria-busy");
    }
  }

  show();
  const element = h("div", { class: "reference-list" }, list,
    h("form", { class: "inline", onsubmit: (event) => (event.preventDefault(), addAddress()) }, field, h("button", {}, "Add")),
    button("Choose pictures…", () => chooser.click(), { icon: "picture", kind: "quiet" }), chooser, says);
  return { element, addFiles, show };
}

/** The references of one row, in a dialog. Resolves when it is closed. */
export function editReferences(row, pack, limits, changed) {
  return new Promise((resolve) => {
    const list = referenceList({ references: row.references, limits, changed, label: `References of ${row.sceneId}` });
    const mode = h("select", { id: "reference-mode", onchange: () => ((row.referenceMode = mode.value), changed()) });
    choices(mode, MODES, row.referenceMode);
    const dialog = h("dialog", {
      class: "ask wide", "aria-label": `References of ${row.sceneId}`,
      onclose: () => (dialog.remove(), resolve()),
      ondragover: (event) => event.preventDefault(),
      ondrop: (event) => (event.preventDefault(), event.stopPropagation(), list.addFiles([...event.dataTransfer.files])),
    }, h("h2", {}, `References of ${row.sceneId}`),
    h("p", { class: "soft" }, `Pictures for the model to go by, at most ${limits.references}${pack.length ? `; ${pack.length} of them for all rows` : ""}. Give addresses, or drop files here.`),
    list.element,
    h("div", { class: "field" }, h("label", { for: "reference-mode" }, "What to take over"), mode),
    h("div", { class: "actions" }, button("Done", () => dialog.close(), { kind: "primary" })));
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Adds dropped files to `references`, which no list shows just now. */
export async function addDropped(files, references, limits) {
  try {
    references.push(...(await keep(files, limits)));
    return true;
  } catch (error) {
    toast(error.message);
    return false;
  }
}
