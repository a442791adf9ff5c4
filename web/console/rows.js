// Reads rows out of what people paste and drop: cells of a spreadsheet, CSV files, lists of prompts.
//
// Pure. Owns how cells are told apart and which column is which; whether a row is any good is for draft.js to say.

/** What a row has, and the names under which people write it, without spaces and signs. */
const COLUMNS = {
  sceneId: ["sceneid", "scene", "id", "name", "sku", "key", "row", "file", "filename"],
  prompt: ["prompt", "prompts", "text", "description", "imageprompt"],
  variants: ["variants", "variant", "pictures", "images", "count", "n"],
  references: ["references", "reference", "referenceurls", "refs", "refpackpublicurls", "urls", "url"],
  referenceMode: ["referencemode", "refmode", "mode"],
  aspectRatio: ["aspectratio", "ratio", "aspect", "shape", "format"],
  imageSize: ["imagesize", "size", "resolution"],
};

/** Bytes of a file as text: UTF-8 or UTF-16 by their mark, UTF-8 without one, else what old Excels write. */
export function decode(bytes) {
  const [first, second] = bytes;
  if (first === 0xff && second === 0xfe) return new TextDecoder("utf-16le").decode(bytes);
  if (first === 0xfe && second === 0xff) return new TextDecoder("utf-16be").decode(bytes);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return new TextDecoder("windows-1252").decode(bytes);
  }
}

/** What stands in a pasted text: `{rows, ignored}`, ignored being the columns that nothing was made of. */
export function readPasted(text) {
  const plain = clean(text);
  if (plain.includes("\t")) return recognise(split(plain, "\t"));
  const delimiter = likeliest(plain, [",", ";"]);
  const header = split(firstLine(plain), delimiter)[0] ?? [];
  // A prompt may have commas: only a header says that they part columns.
  if (header.length > 1 && isHeader(header)) return recognise(split(plain, delimiter));
  return recognise(split(plain, "\t"));
}

/** What stands in a CSV or TSV file. */
export function readFile(bytes) {
  let text = clean(decode(bytes));
  const told = /^sep=(.)\n/.exec(text);
  if (told) text = text.slice(told[0].length);
  return recognise(split(text, told?.[1] ?? likeliest(text, ["\t", ";", ","])));
}

function clean(text) {
  return text.replace(/^\uFEFF/, "").replace(/\r\n?/g, "\n");
}

function firstLine(text) {
  return text.slice(0, (text + "\n").indexOf("\n"));
}

/** The delimiter that parts the first record into the most cells. */
function likeliest(text, delimiters) {
  const cells = (delimiter) => split(text, delimiter, 1)[0]?.length ?? 0;
  return delimiters.reduce((best, one) => (cells(one) > cells(best) ? one : best), delimiters.at(-1));
}

/** The records of a text, at most `most`, each a list of cells. */
export function split(text, delimiter, most = Infinity) {
  const records = [];
  let [at, record] = [0, []];
  while (at < text.length && records.length < most) {
    const cell = quoted(text, at, delimiter) ?? bare(text, at, delimiter);
    record.push(cell.value);
    at = cell.end;
    if (text[at] === delimiter) {
      at += 1;
      if (at < text.length) continue;
      record.push("");
    }
    at += 1;
    records.push(record);
    record = [];
  }
  return records;
}

function bare(text, at, delimiter) {
  let end = at;
  while (end < text.length && text[end] !== delimiter && text[end] !== "\n") end += 1;
  return { value: text.slice(at, end), end };
}

/** A cell in quotes. Spreadsheets copy a cell that only begins or ends with a quote as it is: that is none. */
function quoted(text, at, delimiter) {
  if (text[at] !== '"') return undefined;
  let end = at + 1;
  for (;;) {
    end = text.indexOf('"', end);
    if (end < 0) return undefined;
    if (text[end + 1] !== '"') break;
    end += 2;
  }
  const after = text[end + 1];
  if (after !== undefined && after !== delimiter && after !== "\n") return undefined;
  const inside = text.slice(at + 1, end);
  if (delimiter === "\t" && !/["\n\t]/.test(inside)) return undefined;
  return { value: inside.replaceAll('""', '"'), end: end + 1 };
}

function columnOf(name) {
  const bare = name.toLowerCase().replace(/[^a-z0-9]/g, "");
  // A sheet may have a column for each reference.
  if (/^(reference|ref)(url)?\d$/.test(bare)) return "references";
  return Object.keys(COLUMNS).find((column) => COLUMNS[column].includes(bare));
}

function isHeader(cells) {
  const known = cells.filter((cell) => cell.length < 30).map(columnOf).filter(Boolean);
  const single = known.filter((column) => column !== "references");
  return new Set(single).size === single.length && (known.includes("prompt") || known.length > 1);
}

function recognise(records) {
  const filled = records.filter((cells) => cells.some((cell) => cell.trim() !== ""));
  if (!filled.length) return { rows: [], ignored: [] };
  const header = isHeader(filled[0]) ? filled[0] : undefined;
  const columns = header ? header.map(columnOf) : guess(filled);
  const ignored = columns.flatMap((column, index) => {
    const used = column || filled.every((cells) => !(cells[index] ?? "").trim());
    return used ? [] : [header ? header[index].trim() || `column ${index + 1}` : `column ${index + 1}`];
  });
  const rows = filled.slice(header ? 1 : 0).map((cells) => {
    const row = {};
    columns.forEach((column, index) => {
      const cell = cells[index] ?? "";
      if (column === "references") (row.references ??= []).push(...cell.split(/\s+/).filter(Boolean));
      // A prompt arrives as it was typed; around the others spaces mean nothing.
      else if (column) row[column] ||= column === "prompt" ? cell : cell.trim();
    });
    return row;
  });
  return { rows, ignored };
}

const SHAPES = [
  ["aspectRatio", /^\d{1,2}:\d{1,2}$/],
  ["imageSize", /^(512|[124]K)$/i],
  ["variants", /^[1-9]$/],
  ["references", /^(https?:\/\/|\/assets\/|gs:\/\/)\S+(\s+\S+)*$/i],
  ["referenceMode", /^style_(only|and_composition)$/],
];

/** Which column is which, by what stands in it; the longest text is the prompt, what stands before it the name. */
function guess(records) {
  const width = Math.max(...records.map((cells) => cells.length));
  const columns = [];
  const lengths = [];
  for (let index = 0; index < width; index += 1) {
    const cells = records.map((cells) => (cells[index] ?? "").trim()).filter(Boolean);
    const is = ([column, shape]) => !columns.includes(column) && cells.every((cell) => shape.test(cell));
    columns.push(cells.length ? SHAPES.find(is)?.[0] : undefined);
    lengths.push(columns[index] ? 0 : cells.reduce((sum, cell) => sum + cell.length, 0));
  }
  const prompt = lengths.indexOf(Math.max(...lengths));
  if (lengths[prompt] > 0) columns[prompt] = "prompt";
  const name = lengths.findIndex((length, index) => length > 0 && index < prompt);
  if (name >= 0) columns[name] = "sceneId";
  return columns;
}
