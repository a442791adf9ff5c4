#!/usr/bin/env node
// Makes the rows of a CSV file and saves the pictures as they come. Node 20 with its own fetch, nothing else.
//
//   examples/client.mjs ROWS.csv DIR      ORCHESTRATOR_URL says where the service is, ORCHESTRATOR_KEY is the key
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';

const { ORCHESTRATOR_URL: base = 'http://127.0.0.1:9090', ORCHESTRATOR_KEY: key } = process.env;

async function good(answer) {
  if (!answer.ok) {
    console.error(await answer.text()); // says what is wrong, each fault with its line
    process.exit(1);
  }
  return answer;
}

async function ask(path, options = {}) {
  const headers = { ...(key && { Authorization: `Bearer ${key}` }), ...options.headers };
  return good(await fetch(base + path, { ...options, headers }));
}

// Every event once, in order; opened again where the connection breaks, from the last event that was seen.
async function* events(batch, last = 0) {
  for (;;) {
    try {
      const { body } = await ask(`/images/${batch}/events`, { headers: { 'Last-Event-ID': `${last}` } });
      let text = '';
      for await (const piece of body.pipeThrough(new TextDecoderStream())) {
        const blocks = (text + piece).split('\n\n');
        text = blocks.pop();
        for (const data of blocks.flatMap((block) => block.match(/^data: (.*)$/m)?.[1] ?? [])) {
          const event = JSON.parse(data);
          last = event.seq;
          yield event;
          if (event.type === 'done') return;
        }
      }
    } catch (error) {
      if (!error.cause) throw error; // no matter of the network, whose errors have a cause
    }
    await new Promise((wake) => setTimeout(wake, 1000));
  }
}

const [rows, folder] = [readFileSync(process.argv[2]), process.argv[3]];
mkdirSync(folder, { recursive: true });
// The same rows under the same name are the same batch, so that a repeated command pays once (within 24 hours).
const headers = { 'Content-Type': 'text/csv', 'Idempotency-Key': createHash('sha256').update(rows).digest('hex') };
const { batchId } = await (await ask('/images?runMode=live', { method: 'POST', headers, body: rows })).json();
for await (const event of events(batchId)) {
  if (event.type === 'image_complete') {
    const name = `${event.sceneId}_v${event.variant}.${event.mimeType.split('/')[1].replace('jpeg', 'jpg')}`;
    // The link carries its own right; the key goes to the service alone.
    const picture = await good(await fetch(new URL(event.url, base)));
    writeFileSync(`${folder}/${name}`, Buffer.from(await picture.arrayBuffer()));
    console.log(name);
  } else if (event.type === 'image_failed') {
    console.error(event.sceneId, event.variant, event.error.detail);
  } else if (event.type === 'done') {
    process.exitCode = event.counts.completed < event.counts.total ? 1 : 0;
  }
}
