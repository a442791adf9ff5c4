// What the codes of the service mean to a person, and what that person can do. Pure.

/** Why pictures were not made: a title, what to do, and whether trying the same again can help. */
const FAILURES = {
  safety_blocked: ["The model refused", "Reword the prompt or change its references, and run the rows as a new batch. The same prompt is usually refused again."],
  no_image: ["No picture came back", "The model answered without a picture. Trying again often helps; a clearer prompt helps more."],
  reference_blocked: ["A reference is out of reach", "The service only fetches from public addresses. Drop the file into the console in place of its address."],
  reference_failed: ["A reference could not be read", "Check that the address opens a picture, or drop the file into the console; then try again."],
  reference_too_large: ["A reference is too large", "Make the picture smaller and drop it into the console."],
  quota_exhausted: ["The model's quota is used up", "It comes back with time. Try again later."],
  provider_error: ["The model's service failed", "This is nothing you did. Try again."],
  provider_outcome_unknown: ["No answer came in time", "It may have been made and charged, which counts as spent. Trying again can cost a second time."],
  budget_exhausted: ["The day's money is used up", "Try again after the limit starts anew, or have it raised."],
  storage_error: ["The picture could not be saved", "It was paid for. Trying again looks for it first, and pays only if it is lost."],
};

/** What is told of the failure `code`: `{title, advice}`. */
export function failure(code) {
  const [title, advice] = FAILURES[code] ?? ["Something went wrong", "Try again; if it stays, show the detail to whoever runs the service."];
  return { title, advice };
}

/** What an answer that is an error means to whoever runs the service: whose matter it is, and why it was given. */
const ANSWERS = {
  invalid_request: ["caller", "A request broke a rule; the caller was told which."],
  unauthorized: ["caller", "No key, or one that is not valid or was revoked. Many of them: somebody tries keys, or a client has an old one."],
  forbidden: ["caller", "The key lacks a scope, or a page of another origin asked."],
  live_disabled: ["caller", "Somebody wanted pictures while RUN_MODE=dry_run."],
  not_found: ["caller", "Nothing is there, or it is another user's."],
  not_ready: ["caller", "A picture was asked for before it was made."],
  feature_disabled: ["caller", "The feature is switched off here."],
  method_not_allowed: ["caller", "The address exists, the method does not."],
  budget_exceeded: ["caller", "A batch did not fit what is left of the day's money."],
  idempotency_in_progress: ["caller", "The same request was sent again while the first was being taken in."],
  not_retryable: ["caller", "Nothing of the batch can be tried again."],
  idempotency_key_reused: ["caller", "A key of a request was used again for another one: a fault of the client."],
  payload_too_large: ["caller", "A body was larger than MAX_BODY_BYTES, or had too many rows."],
  headers_too_large: ["caller", "The headers were too large."],
  request_timeout: ["caller", "A body did not arrive in time: a slow connection."],
  rate_limited: ["caller", "Too many changes of one user (RATE_LIMIT_PER_MINUTE), or wrong keys from one address."],
  too_many_streams: ["caller", "More streams than MAX_STREAMS_PER_USER."],
  unsupported_media_type: ["caller", "A body or a file of a type that is not taken."],
  model_unknown: ["caller", "A model without a price here."],
  model_retired: ["caller", "A model that was shut down: clients should ask for its successor."],
  size_unpriced: ["caller", "A size that the model has no price for."],
  aspect_ratio_unsupported: ["caller", "A shape that the model does not make."],
  internal: ["service", "A fault of the service. The log says why."],
  unavailable: ["service", "The database, the place of the pictures or another part was away. The log says which."],
};

/** What an error code means to whoever runs the service: `{whose, text}`; whose is `picture`, `caller`, `service` or `nobody`. */
export function meaning(code) {
  const [title, advice] = FAILURES[code] ?? [];
  if (title) return { whose: "picture", text: `${title}. ${advice}` };
  const [whose, text] = ANSWERS[code] ?? ["nobody", "This page does not know it; the log does."];
  return { whose, text };
}

const PROBLEMS = {
  unauthorized: "The key is missing or not valid. Enter a key that is.",
  live_disabled: "This service only checks prices. Whoever runs it makes pictures possible with RUN_MODE=live.",
  payload_too_large: "That is too much at once. Split the batch, or use smaller files.",
  unsupported_media_type: "Only PNG, JPEG, WebP and GIF pictures can be references.",
  rate_limited: "Too many requests in a short time. Wait a minute and try again.",
  idempotency_in_progress: "The service is still taking in the first try. Wait a moment and try again.",
  internal: "The service has a fault. Nothing was lost; try again in a moment.",
  unavailable: "A part of the service is away. Nothing was lost; try again in a moment.",
  request_timeout: "The connection is too slow for this much at once. Try again, or send less.",
};

/** What a person is told of a problem body. */
export function problemText(problem) {
  if (problem.code === "budget_exceeded") return undefined;
  const faults = (problem.errors ?? []).map((fault) => fault.detail);
  const own = PROBLEMS[problem.code];
  if (problem.code === "forbidden" && /needs submit/.test(problem.detail ?? "")) return "Your key may look, but not make pictures. Ask for one with the scope submit.";
  if (own) return faults.length ? `${own} (${faults.join("; ")})` : own;
  if (faults.length) return sentence(faults.join("; "));
  return sentence(problem.detail ?? problem.title ?? "the service said no without a reason");
}

/** A text with a capital and a full stop. */
export function sentence(text) {
  const start = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?…]$/.test(start) ? start : `${start}.`;
}

const STATES = {
  queued: "Waiting", running: "Running", completed: "Done", partial: "Done, with failures", failed: "Failed", cancelled: "Cancelled",
};

/** The state of a batch in words. */
export function stateText(state) {
  return STATES[state] ?? state;
}
