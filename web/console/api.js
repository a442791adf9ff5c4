// Asks the service. Owns how problems become errors that people can read, and the login when a key is needed.

import { money, when } from "./format.js";
import { problemText } from "./words.js";

/** The service said no, or could not be reached. Its message is for people; `problem` is what was answered. */
export class ApiError extends Error {
  constructor(message, status, problem) {
    super(message);
    this.status = status;
    this.problem = problem;
  }

  get code() {
    return this.problem?.code;
  }
}

let askForKey = async () => false;
/** How often somebody has logged in. */
let logins = 0;

/** `ask` shows the login and resolves when somebody is logged in. */
export function onLoginNeeded(ask) {
  let asked;
  askForKey = () => (asked ??= ask().finally(() => {
    asked = undefined;
    logins += 1;
  }));
}

function toError(status, problem) {
  const told = problem.code === "budget_exceeded"
    ? `This would reserve up to ${money(problem.estimatedCost)}, and ${money(problem.remaining)} of today's ${money(problem.dailyLimit)} is left. `
      + `Take out rows, or wait until ${when(problem.resetsAt)}.`
    : problemText(problem);
  return new ApiError(told, status, problem);
}

/** An answer as JSON, within `patience` milliseconds. Shows the login and asks again if nobody is logged in. */
export async function ask(path, options = {}) {
  let answer;
  const before = logins;
  const { patience, signal = patience && AbortSignal.timeout(patience) } = options;
  try {
    answer = await fetch(path, { ...options, signal, headers: { Accept: "application/json", ...options.headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The service cannot be reached. Check that it runs, and try again.", 0);
  }
  if (answer.ok) return answer.status === 204 ? undefined : answer.json();
  const problem = await answer.json().catch(() => ({}));
  if (answer.status === 401 && path !== "/session") {
    // One that was under way while somebody logged in is asked again without another login.
    if (before === logins) await askForKey();
    return ask(path, options);
  }
  throw toError(answer.status, problem);
}

const json = (body, headers = {}) => ({
  method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json", ...headers },
});

/** What can be made, and within which limits. */
export const models = () => ask("/models");
/** The day's money. */
export const budget = () => ask("/budget");
/** How the service is, now and in the last hour. */
export const overview = () => ask("/overview", { patience: 15_000 });
/** Whether the service can work: `reasons` if not. Nobody needs a login for that. */
export const readiness = () => ask("/ready", { patience: 15_000 }).catch(({ problem }) => problem ?? {});
/** What a batch would cost. */
export const price = (body) => ask("/images", json(body));
/** Makes the pictures. The same `key` never makes them twice. */
export const submit = (body, key) => ask("/images", json(body, { "Idempotency-Key": key }));
/** A page of batches. */
export const batches = (cursor) => ask(`/images?limit=50${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`);
/** A page of a batch. */
export const batch = (id, cursor, signal) => ask(`/images/${id}?limit=200${cursor ? `&cursor=${cursor}` : ""}`, { signal });
/** Stops what has not started. */
export const cancel = (id) => ask(`/images/${id}/cancel`, { method: "POST" });
/** Tries again what failed, or of that what failed with one of `codes`. */
export const retry = (id, codes) => ask(`/images/${id}/retry`, json(codes ? { codes } : {}));

/** Keeps pictures as references. */
export function upload(files) {
  const form = new FormData();
  for (const file of files) form.append("images", file);
  return ask("/references", { method: "POST", body: form });
}

/** Logs in; the browser keeps the session, this page does not see it. */
export const logIn = (key) => ask("/session", { method: "POST", headers: { Authorization: `Bearer ${key}` } });
/** Logs out. */
export const logOut = () => ask("/session", { method: "DELETE" });
