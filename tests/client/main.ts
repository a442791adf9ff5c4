// The main job through the client that is generated from openapi.json: a batch is priced, made, read and paid for.
// Prints what it saw as JSON, for the test that runs it beside the service's own books.

import { createHash } from "node:crypto";

import createClient from "openapi-fetch";

import type { components, paths } from "./schema.js";

type Batch = components["schemas"]["BatchView"];
type Item = components["schemas"]["ItemView"];
type Problem = components["schemas"]["Problem"];

const baseUrl = process.env["ORCHESTRATOR_URL"] ?? "http://127.0.0.1:9090";
const key = process.env["ORCHESTRATOR_KEY"];
const headers: Record<string, string> = key ? { Authorization: `Bearer ${key}` } : {};
const client = createClient<paths>({ baseUrl, headers });

/** The answer, or an end of it all that says what the service said. */
function expect<T>(answer: { data?: T; error?: Problem }): T {
  if (answer.data === undefined) {
    throw new Error(`${answer.error?.code}: ${answer.error?.detail}`);
  }
  return answer.data;
}

/** A batch; an estimate has no state. */
function isBatch(answer: components["schemas"]["SubmitAnswer"]): answer is Batch {
  return "state" in answer;
}

const items: components["schemas"]["ItemBody"][] = [
  { sceneId: "s-001", prompt: "a cup", variants: 2 },
  { sceneId: "s-002", prompt: "a mug", aspectRatio: "16:9" },
  { sceneId: "s-003", prompt: "[refuse-unpaid]" },
];

const estimate = expect(await client.POST("/images", { body: { items } }));
if (isBatch(estimate)) throw new Error("a dry run is no batch");

const params = { header: { "Idempotency-Key": "order-7", Prefer: "wait=60" } };
const submitted = await client.POST("/images", { params, body: { runMode: "live", items } });
let batch = expect(submitted);
if (!isBatch(batch)) throw new Error("a live batch is no estimate");
const replayed = await client.POST("/images", { params, body: { runMode: "live", items } });
const path = { batchId: batch.batchId };
while (batch.finishedAt === null) {
  await new Promise((later) => setTimeout(later, 50));
  batch = expect(await client.GET("/images/{batchId}", { params: { path } }));
}

const rows: Item[] = [];
let cursor: string | null | undefined = "";
do {
  const page: Batch = expect(await client.GET("/images/{batchId}", { params: { path, query: { limit: 2, cursor } } }));
  rows.push(...(page.items ?? []));
  cursor = page.nextCursor;
} while (cursor);

const pictures: { permalink: string; isWhole: boolean }[] = [];
for (const image of rows.flatMap((row) => row.images)) {
  if (image.state !== "completed") continue;
  const answer = await fetch(new URL(image.permalink, baseUrl), { headers });
  const bytes = new Uint8Array(await answer.arrayBuffer());
  const isWhole = createHash("sha256").update(bytes).digest("hex") === image.sha256;
  pictures.push({ permalink: image.permalink, isWhole });
}

const budget = expect(await client.GET("/budget"));
const listed = expect(await client.GET("/images", { params: { query: { state: "partial" } } }));
const refusal = await client.POST("/images", { body: { items: [{ sceneId: "s-001", prompt: "" }] } });

console.log(JSON.stringify({
  estimatedCost: estimate.estimatedCost,
  batchId: batch.batchId,
  state: batch.state,
  actualCost: batch.actualCost,
  location: submitted.response.headers.get("Location"),
  replayed: replayed.response.headers.get("Idempotent-Replayed"),
  errors: rows.map((row) => row.error?.code ?? null),
  pictures,
  spent: budget.everyone.spent,
  listed: listed.batches.map((one) => one.batchId),
  refusal: refusal.error?.errors?.map((fault) => fault.pointer ?? null),
}));
