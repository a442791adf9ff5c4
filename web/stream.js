// Follows the progress of one batch. One file, no dependency: copy it.
//
//   import { follow } from "./stream.js";
//   for await (const event of follow("/images/bat_…/events")) console.log(event.id, event.type, event.data);
//
// Each event comes once and in order, over lost connections and restarts of the service: the stream is asked to go on
// after the last number that was seen. It ends after `done`. It is read with fetch, as an EventSource is not told why it
// was refused and would ask for ever. Works in browsers and in Node.

/** The longest pause between two tries, in milliseconds. */
export const LONGEST_PAUSE = 30_000;
/** The first pause, unless the service names another with `retry:`. */
const FIRST_PAUSE = 1_000;
/** A stream that is silent for longer is taken for lost: the service sends a comment every 15 s. */
const LONGEST_SILENCE = 45_000;

/** The service refuses, and asking again would not help. `problem` is its answer, if it could be read. */
export class Refused extends Error {
  constructor(status, problem) {
    super(problem?.detail ?? `the stream was refused with ${status}`);
    this.name = "Refused";
    this.status = status;
    this.problem = problem;
  }
}

/** The pause before try number `failures` since something last came: exponential to 30 s, with jitter. */
export function pause(failures, first, random) {
  const longest = Math.min(LONGEST_PAUSE, first * 2 ** Math.min(failures - 1, 16));
  return longest / 2 + (longest / 2) * random();
}

/**
 * The events of a batch after number `after`, as `{id, type, data}`.
 *
 * `onState` is told `{state: "open"}` and `{state: "reconnecting", pause, failures}`. `headers` go with each request, and
 * may be a function: `() => ({Authorization: …})`. `signal` ends it. `wake` may be a function that calls its argument
 * when trying at once is worth it, such as when the network is back. The rest is for tests.
 */
export async function* follow(url, { after = 0, headers = {}, signal, onState = () => {}, wake, ...tools } = {}) {
  const { fetch = globalThis.fetch, random = Math.random, timers = globalThis } = tools;
  let [last, first, failures] = [after, FIRST_PAUSE, 0];
  while (!signal?.aborted) {
    let least = 0;
    const attempt = new AbortController();
    const stop = () => attempt.abort();
    signal?.addEventListener("abort", stop);
    try {
      const own = typeof headers === "function" ? await headers() : headers;
      const known = last > 0 ? { "Last-Event-ID": String(last) } : {};
      const response = await watched(timers, attempt, fetch(url, {
        headers: { Accept: "text/event-stream", ...own, ...known }, signal: attempt.signal, cache: "no-store",
      }));
      if (response.status === 204) return;
      if (response.ok) {
        onState({ state: "open" });
        const reader = response.body.getReader();
        const parser = new Parser();
        for (let piece; !(piece = await watched(timers, attempt, reader.read())).done;) {
          for (const event of parser.read(piece.value)) {
            if (event.retry) first = Math.min(event.retry, LONGEST_PAUSE);
            if (event.id === undefined || event.id <= last) continue;
            [last, failures] = [event.id, 0];
            yield event;
            if (event.type === "done") return;
          }
        }
      } else if (response.status >= 500 || response.status === 429 || response.status === 408) {
        least = Math.min(Number(response.headers.get("Retry-After")) * 1000 || 0, LONGEST_PAUSE);
      } else {
        throw new Refused(response.status, await response.json().catch(() => undefined));
      }
    } catch (error) {
      if (error instanceof Refused) throw error;
    } finally {
      signal?.removeEventListener("abort", stop);
      attempt.abort();
    }
    if (signal?.aborted) return;
    failures += 1;
    const span = Math.max(pause(failures, first, random), least);
    onState({ state: "reconnecting", pause: span, failures });
    await sleep(timers, span, signal, wake);
  }
}

/** `work`, unless it is silent for too long: then its attempt is given up. */
async function watched(timers, attempt, work) {
  const timer = timers.setTimeout(() => attempt.abort(), LONGEST_SILENCE);
  try {
    return await work;
  } finally {
    timers.clearTimeout(timer);
  }
}

function sleep(timers, span, signal, wake) {
  return new Promise((resolve) => {
    const timer = timers.setTimeout(end, span);
    const forget = wake?.(end);
    function end() {
      timers.clearTimeout(timer);
      signal?.removeEventListener("abort", end);
      forget?.();
      resolve();
    }
    signal?.addEventListener("abort", end);
  });
}

/** Reads server-sent events from pieces of bytes, wherever they are cut. */
class Parser {
  #decoder = new TextDecoder();
  #rest = "";

  /** The events that `bytes` completes. */
  *read(bytes) {
    this.#rest += this.#decoder.decode(bytes, { stream: true });
    const blocks = this.#rest.split("\n\n");
    this.#rest = blocks.pop();
    for (const block of blocks) yield parse(block);
  }
}

function parse(block) {
  const event = { type: "message" };
  const data = [];
  for (const line of block.split("\n")) {
    const at = line.indexOf(":");
    const [name, value] = at < 0 ? [line, ""] : [line.slice(0, at), line.slice(at + 1).replace(/^ /, "")];
    if (name === "id" && /^\d+$/.test(value)) event.id = Number(value);
    else if (name === "event") event.type = value;
    else if (name === "data") data.push(value);
    else if (name === "retry" && /^\d+$/.test(value)) event.retry = Number(value);
  }
  if (data.length) event.data = JSON.parse(data.join("\n"));
  return event;
}
