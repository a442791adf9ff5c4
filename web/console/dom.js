// Elements, icons and small pieces of page. Texts stay texts: nothing here reads HTML.

/** An element with properties and children. `class`, `aria-*`, `data-*` and `on…` are what they are in HTML. */
export function h(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== undefined && child !== null && child !== false));
  return element;
}

const PATHS = {
  add: "M8 3v10M3 8h10",
  remove: "M4 4l8 8M12 4l-8 8",
  check: "M3 8.5l3.2 3.2L13 5",
  warn: "M8 2.2l6.3 11.3H1.7zM8 6.5v3M8 11.4v.4",
  wait: "M8 1.8a6.2 6.2 0 1 1 0 12.4A6.2 6.2 0 0 1 8 1.8zM8 4.8V8l2.2 1.6",
  stop: "M4 4h8v8H4z",
  save: "M8 2v8M4.8 7L8 10.2 11.2 7M2.5 13.5h11",
  pick: "M8 13.6S2 10 2 5.9A3.1 3.1 0 0 1 8 4.7a3.1 3.1 0 0 1 6 1.2C14 10 8 13.6 8 13.6z",
  picture: "M2 3h12v10H2zM2 11l3.5-3.5 3 3L10.5 8.5 14 12",
  left: "M10 3L5 8l5 5",
  right: "M6 3l5 5-5 5",
  again: "M13 8a5 5 0 1 1-1.6-3.7M13 2v3.2H9.8",
  sheet: "M2 3h12v10H2zM2 6.3h12M2 9.7h12M6.5 3v10",
  out: "M9.5 2.5h4v4M13.5 2.5L7.5 8.5M11.5 9.5v4h-9v-9h4",
};

/** A part of a drawing (SVG), as `h` makes one of a page. */
export function drawn(name, properties = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(properties)) element.setAttribute(key, value);
  element.append(...children.flat().filter((child) => child !== false));
  return element;
}

/** A drawing beside a text; says nothing to who cannot see it. */
export function icon(name) {
  return drawn("svg", { viewBox: "0 0 16 16", class: "icon", "aria-hidden": "true" }, drawn("path", { d: PATHS[name] }));
}

/** A button with a text. */
export function button(text, onclick, { icon: drawing, kind = "", ...properties } = {}) {
  return h("button", { type: "button", class: kind, onclick, ...properties }, drawing && icon(drawing), h("span", {}, text));
}

/** A button that is a drawing alone; `label` is its name and its tip. */
export function iconButton(drawing, label, onclick, properties = {}) {
  return h("button", { type: "button", class: "bare", title: label, "aria-label": label, onclick, ...properties }, icon(drawing));
}

/** A list to choose from: `options` are texts, or pairs of a value and a text. */
export function select(options, value, onchange, properties = {}) {
  const element = h("select", { onchange: () => onchange(element.value), ...properties });
  choices(element, options, value);
  return element;
}

/** Puts other options into a list to choose from. A value that is not among them is kept, as it was typed. */
export function choices(element, options, value) {
  const pairs = options.map((one) => (Array.isArray(one) ? one : [one, one]));
  if (!pairs.some(([one]) => one === value)) pairs.push([value, value]);
  element.replaceChildren(...pairs.map(([one, text]) => h("option", { value: one, selected: one === value }, text)));
  element.value = value;
}

/** Says something to those who cannot see it change. */
export function announce(text) {
  document.getElementById("announcer").textContent = text;
}

/** How long something is said, in milliseconds. */
const TOAST = 5_000;
let toastTimer;

/** Says something for a while, to everyone. */
export function toast(text) {
  const element = document.getElementById("toast");
  element.textContent = text;
  element.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => (element.hidden = true), TOAST);
}

/** What was said is of another page. */
export function endToast() {
  document.getElementById("toast").hidden = true;
}

/** Asks before something that cannot be undone. Resolves to whether the answer is yes. */
export function confirm(title, text, yes) {
  return new Promise((resolve) => {
    const dialog = h("dialog", { class: "ask", "aria-label": title, onclose: () => (resolve(dialog.returnValue === "yes"), dialog.remove()) },
      h("form", { method: "dialog" }, h("h2", {}, title), h("p", {}, text),
        h("div", { class: "actions" }, h("button", { value: "no" }, "Go back"), h("button", { value: "yes", class: "primary" }, yes))));
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Lets the browser save a text as a file. */
export function saveText(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
