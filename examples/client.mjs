#!/usr/bin/env node
// Makes the rows of a CSV file and saves the pictures. Node 20 with its own fetch, nothing else.
//
//   examples/client.mjs ROWS.csv DIR      ORCHESTRATOR_URL says where the service is, ORCHESTRATOR_KEY is the key
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';

const { ORCHESTRATOR_URL: base = 'http://127.0.0.1:9090', ORCHESTRATOR_KEY: key } = process.env;

async function ask(path, options = {}) {
  const answer = await fetch(base + path, { ...options, headers: { ...(key && { Authorization: `Bearer ${key}` }), ...options.headers } });
  if (answer.ok) return answer;
  console.error(await answer.text()); // says what is wrong, each fault with its line
  process.exit(1);
}

const [rows, folder] = [readFileSync(process.argv[2]), process.argv[3]];
// The same rows under the same name are the same batch: asked for until it is done, it is paid once (within 24 hours).
const headers = { 'Content-Type': 'text/csv', 'Idempotency-Key': createHash('sha256').update(rows).digest('hex'), Prefer: 'wait=30' };
let batch;
while (!batch?.finishedAt) {
  try {
    batch = await (await ask('/images?runMode=live', { method: 'POST', headers, body: rows })).json();
    console.error(batch.counts.completed, 'of', batch.counts.total);
  } catch (error) {
    if (!error.cause) throw error; // no matter of the network, whose errors have a cause
    await new Promise((wake) => setTimeout(wake, 1000)); // nobody is there, or the connection broke
  }
}
mkdirSync(folder, { recursive: true });
const lines = (await (await ask(`/images/${batch.batchId}/results?format=jsonl`)).text()).trim().split('\n');
for (const row of lines.map((line) => JSON.parse(line))) {
  if (row.file) {
    // The key does not go along to where the address redirects, if that is another host.
    writeFileSync(`${folder}/${row.file}`, Buffer.from(await (await ask(row.permalink)).arrayBuffer()));
    console.log(row.file);
  } else console.error(row.sceneId, row.variant, row.error?.detail ?? row.state);
}
process.exitCode = batch.counts.completed < batch.counts.total ? 1 : 0;
