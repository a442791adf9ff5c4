// Shows /openapi.json and sends requests by it. No library, nothing from elsewhere: it works offline.

const METHODS = ["get", "head", "post", "delete"];

/** An element with attributes and children; texts stay texts. */
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== false) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== undefined));
  return element;
}

/** A sentence; what is between backquotes is code. */
function prose(text = "") {
  return text.split("`").map((part, index) => (index % 2 ? make("code", {}, part) : part));
}

/** Follows a reference within the description. */
function resolve(description, part) {
  if (!part?.$ref) return part;
  return part.$ref.slice(2).split("/").reduce((at, name) => at[name], description);
}

/** The type of a schema in a few words. */
function typeOf(description, schema) {
  schema = resolve(description, schema) ?? {};
  const either = schema.oneOf ?? schema.anyOf;
  if (either) return either.map((one) => typeOf(description, one)).join(" or ");
  const type = Array.isArray(schema.type) ? schema.type.join(" or ") : schema.type ?? "any";
  const rules = [];
  if (schema.enum) rules.push(schema.enum.join(", "));
  if (schema.minimum !== undefined) rules.push(`from ${schema.minimum}`);
  if (schema.maximum !== undefined) rules.push(`to ${schema.maximum}`);
  if (schema.maxLength !== undefined) rules.push(`at most ${schema.maxLength} characters`);
  if (schema.maxItems !== undefined) rules.push(`at most ${schema.maxItems}`);
  return rules.length ? `${type} (${rules.join("; ")})` : type;
}

/** The members of a schema as a list, as deep as anybody reads. */
function members(description, schema, depth = 0) {
  schema = resolve(description, schema) ?? {};
  const either = (schema.oneOf ?? schema.anyOf ?? schema.allOf ?? []).map((one) => resolve(description, one));
  const inner = either.find((one) => one?.properties || one?.items);
  if (inner) return members(description, inner, depth);
  if (schema.items) return members(description, schema.items, depth);
  if (!schema.properties || depth > 4) return undefined;
  const rows = Object.entries(schema.properties).map(([name, member]) => {
    const about = member.description ?? resolve(description, member)?.description ?? "";
    const needed = schema.required?.includes(name) ? " *" : "";
    const line = [make("code", {}, name + needed), ` ${typeOf(description, member)} `, make("span", { class: "soft" }, ...prose(about))];
    return make("li", {}, ...line, members(description, member, depth + 1));
  });
  return make("ul", { class: "schema" }, ...rows);
}

/** A parameter with the field to fill in. */
function parameterRow(description, operationId, parameter) {
  const id = `${operationId}-${parameter.in}-${parameter.name}`;
  const field = make("input", { id, "data-in": parameter.in, "data-name": parameter.name, required: parameter.required });
  const name = make("label", { for: id }, make("code", {}, parameter.name), parameter.required ? " *" : "");
  const says = `${parameter.description ?? ""} ${typeOf(description, parameter.schema)}`;
  return make("tr", {}, make("td", {}, name, make("br"), make("span", { class: "soft" }, parameter.in)),
    make("td", {}, field), make("td", {}, ...prose(says)));
}

/** What the fields of a form say of the request. */
function request(form, method, path) {
  const [headers, query] = [new Headers(), new URLSearchParams()];
  const key = document.getElementById("key").value.trim();
  if (key) headers.set("Authorization", `Bearer ${key}`);
  for (const field of form.querySelectorAll("input[data-in]")) {
    const { in: place, name } = field.dataset;
    if (place === "path") path = path.replace(`{${name}}`, encodeURIComponent(field.value).replaceAll("%2F", "/"));
    else if (field.value && place === "query") query.set(name, field.value);
    else if (field.value && place === "header") headers.set(name, field.value);
  }
  let body;
  const [text, files] = [form.querySelector("textarea"), form.querySelector("input[type=file]")];
  if (files) {
    body = new FormData();
    for (const file of files.files) body.append("images", file);
  } else if (text?.value.trim()) {
    body = text.value;
    headers.set("Content-Type", "application/json");
  }
  const address = query.size ? `${path}?${query}` : path;
  return [address, { method: method.toUpperCase(), headers, body }];
}

/** Sends what the form says and shows the answer as it comes. */
async function send(event, method, path) {
  event.preventDefault();
  const form = event.target;
  const shown = form.querySelector("pre");
  form.abort?.abort();
  form.abort = new AbortController();
  const [address, options] = request(form, method, path);
  shown.hidden = false;
  shown.textContent = `${options.method} ${address}\n…`;
  try {
    const answer = await fetch(address, { ...options, signal: form.abort.signal, redirect: "manual" });
    const head = [...answer.headers].map(([name, value]) => `${name}: ${value}`).join("\n");
    const status = answer.type === "opaqueredirect" ? "302 (open the address in a tab to follow it)" : answer.status;
    shown.textContent = `${options.method} ${address}\n\n${status}\n${head}\n\n`;
    const type = answer.headers.get("content-type") ?? "";
    if (type.startsWith("image/")) {
      shown.textContent += `${(await answer.blob()).size} bytes`;
    } else if (type.includes("json")) {
      shown.textContent += JSON.stringify(await answer.json(), null, 2);
    } else if (answer.body) {
      for await (const piece of answer.body.pipeThrough(new TextDecoderStream())) shown.textContent += piece;
    }
  } catch (error) {
    if (error.name !== "AbortError") shown.textContent += `\n${error}`;
  }
}

/** The form of one operation. */
function form(description, id, method, path, operation) {
  const parameters = (operation.parameters ?? []).map((parameter) => resolve(description, parameter));
  const parts = [];
  if (parameters.length) {
    parts.push(make("table", {}, ...parameters.map((parameter) => parameterRow(description, id, parameter))));
  }
  const content = operation.requestBody?.content ?? {};
  const json = content["application/json"];
  if (json) {
    const example = json.example ?? resolve(description, json.schema)?.example
      ?? (json.schema?.oneOf ?? []).map((one) => resolve(description, one)?.example).find(Boolean);
    const text = example ? JSON.stringify(example, null, 2) : "";
    parts.push(make("h3", {}, "Body"), make("textarea", { "aria-label": "Body", spellcheck: "false" }, text));
    parts.push(members(description, json.schema));
  }
  if (content["multipart/form-data"]) {
    parts.push(make("h3", {}, "Files"), make("input", { type: "file", multiple: "", "aria-label": "Files" }));
  }
  parts.push(make("p", {}, make("button", {}, "Send")), make("pre", { hidden: "", tabindex: "0", "aria-label": "Answer" }));
  return make("form", { onsubmit: (event) => send(event, method, path) }, ...parts);
}

/** What an operation answers. */
function answers(description, operation) {
  const rows = Object.entries(operation.responses ?? {}).map(([status, answer]) => {
    answer = resolve(description, answer);
    const schema = Object.values(answer.content ?? {})[0]?.schema;
    const inner = schema?.$ref?.endsWith("/Problem") ? undefined : members(description, schema);
    return make("tr", {}, make("td", {}, make("code", {}, status)), make("td", {}, ...prose(answer.description), inner));
  });
  return make("table", {}, ...rows);
}

function operationOf(description, method, path, operation) {
  const id = `${method}${path.replaceAll(/[^a-zA-Z]+/g, "-")}`;
  const title = make("summary", {}, make("span", { class: `method ${method}` }, method.toUpperCase()),
    make("code", {}, path), make("span", { class: "soft" }, ...prose(operation.summary ?? operation.description)));
  const detail = operation.description && operation.summary ? make("p", {}, ...prose(operation.description)) : undefined;
  const inside = make("div", {}, detail, form(description, id, method, path, operation), make("h3", {}, "Answers"),
    answers(description, operation));
  return make("details", { "data-find": `${method} ${path} ${operation.summary ?? ""}`.toLowerCase() }, title, inside);
}

/** Hides what does not hold the word that is looked for. */
function find(word) {
  for (const operation of document.querySelectorAll("details")) {
    operation.hidden = !operation.dataset.find.includes(word.trim().toLowerCase());
  }
}

async function show() {
  const description = await (await fetch("/openapi.json")).json();
  document.getElementById("about").replaceChildren(...prose(description.info.description));
  const main = document.getElementById("operations");
  main.replaceChildren();
  for (const tag of description.tags) {
    const operations = Object.entries(description.paths).flatMap(([path, item]) =>
      METHODS.filter((method) => item[method]?.tags?.includes(tag.name))
        .map((method) => operationOf(description, method, path, item[method])));
    if (operations.length) main.append(make("h2", {}, tag.name), make("p", {}, tag.description ?? ""), ...operations);
  }
}

document.getElementById("access").addEventListener("submit", (event) => event.preventDefault());
document.getElementById("search").addEventListener("input", (event) => find(event.target.value));
show().catch((error) => {
  document.getElementById("operations").replaceChildren(make("p", {}, `The description cannot be read: ${error}`));
});
