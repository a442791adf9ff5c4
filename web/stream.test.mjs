// node --test web/

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { after, test } from "node:test";

import { follow, LONGEST_PAUSE, pause, Refused } from "./stream.js";

/** A server that answers each request as the next step of `script` says; notes what it was asked. */
async function scripted(...script) {
  const asked = [];
  const server = createServer((request, response) => {
    asked.push(request.headers["last-event-id"] ?? null);
    const step = script.shift();
    if (step) step(response, request);
    else request.socket.destroy();
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  after(() => server.closeAllConnections() ?? server.close());
  return { asked, url: `http://127.0.0.1:${server.address().port}/events` };
}

const frame = (id, type = "image_complete") => `id: ${id}\nevent: ${type}\ndata: {"seq":${id}}\n\n`;

/** Answers with a stream of `text`, in pieces, and then ends or breaks it. */
const PIECE = 7;
const stream = (text, { breaks = false } = {}) => async (response) => {
  response.writeHead(200, { "content-type": "text/event-stream" });
  const bytes = Buffer.from(text);
  for (let at = 0; at < bytes.length; at += PIECE) {
    await new Promise((resolve) => response.write(bytes.subarray(at, at + PIECE), resolve));
  }
  if (breaks) response.destroy();
  else response.end();
};

const status = (code, { body = "", headers = {} } = {}) => (response) => response.writeHead(code, headers).end(body);

/** Timers whose pauses are over at once, and noted; an alarm for silence rings when told. */
function quick() {
  const pauses = [];
  const alarms = new Set();
  return {
    pauses,
    ring: () => alarms.forEach((call) => call()),
    setTimeout(call, span) {
      if (span > LONGEST_PAUSE) return alarms.add(call), call;
      pauses.push(span);
      return setImmediate(call);
    },
    clearTimeout(timer) {
      if (!alarms.delete(timer)) clearImmediate(timer);
    },
  };
}

/** A fetch whose bodies come a few bytes at a time, wherever the network has cut them. */
const cut = (size) => async (...request) => {
  const response = await fetch(...request);
  const bytes = new Uint8Array(await response.arrayBuffer());
  const body = new ReadableStream({
    start(stream) {
      for (let at = 0; at < bytes.length; at += size) stream.enqueue(bytes.slice(at, at + size));
      stream.close();
    },
  });
  return new Response(body, response);
};

async function collect(url, options = {}) {
  const timers = options.timers ?? quick();
  const [ids, states] = [[], []];
  const events = follow(url, { timers, random: () => 1, onState: ({ state }) => states.push(state), ...options });
  for await (const event of events) {
    assert.equal(event.data.seq, event.id);
    ids.push(event.id);
  }
  return { ids, states, pauses: timers.pauses };
}

test("every event comes once and in order, wherever the pieces are cut, and it ends after done", async () => {
  const text = `retry: 1000\n\n${frame(1, "started")}: heartbeat\n\n${frame(2)}${frame(3, "done")}`;
  for (const size of [1, 2, 5, 1000]) {
    const server = await scripted(stream(text));
    const { ids, states } = await collect(server.url, { fetch: cut(size) });
    assert.deepEqual(ids, [1, 2, 3]);
    assert.deepEqual(states, ["open"]);
    assert.equal(server.asked.length, 1);
  }
});

test("characters of several bytes survive being cut", async () => {
  const server = await scripted(stream('id: 1\nevent: done\ndata: {"seq":1,"text":"Größe 東京 🍊"}\n\n'));
  for await (const event of follow(server.url, { fetch: cut(1) })) assert.equal(event.data.text, "Größe 東京 🍊");
});

test("a lost connection goes on after the last event, and what comes twice is told once", async () => {
  const server = await scripted(
    stream(frame(1, "started") + frame(2) + frame(3).slice(0, 20), { breaks: true }),
    (response) => response.destroy(),
    stream(frame(2) + frame(3) + frame(4, "done")),
  );
  const { ids, states } = await collect(server.url);
  assert.deepEqual(ids, [1, 2, 3, 4]);
  assert.deepEqual(server.asked, [null, "2", "2"]);
  assert.deepEqual(states, ["open", "reconnecting", "reconnecting", "open"]);
});

test("a stream that the service ends without done is taken up again", async () => {
  const server = await scripted(stream(frame(1)), stream(frame(2, "done")));
  assert.deepEqual((await collect(server.url)).ids, [1, 2]);
});

test("a retry adds to a batch that was done: the stream goes on after the done that was seen", async () => {
  const server = await scripted(stream(frame(4, "started") + frame(5) + frame(6, "done")));
  assert.deepEqual((await collect(server.url, { after: 3 })).ids, [4, 5, 6]);
  assert.deepEqual(server.asked, ["3"]);
});

test("who has seen everything is told so with 204, and asks no more", async () => {
  const server = await scripted(status(204));
  assert.deepEqual((await collect(server.url, { after: 3 })).ids, []);
  assert.equal(server.asked.length, 1);
});

test("a refusal ends it, with the reason", async () => {
  for (const code of [400, 401, 403, 404]) {
    const server = await scripted(status(code, { body: '{"code":"not_found","detail":"there is no such batch"}' }));
    await assert.rejects(collect(server.url), (error) => {
      assert.ok(error instanceof Refused);
      assert.deepEqual([error.status, error.problem.code, error.message], [code, "not_found", "there is no such batch"]);
      return true;
    });
    assert.equal(server.asked.length, 1);
  }
});

test("a service that is away is asked again after pauses that double to 30 s", async () => {
  const away = Array.from({ length: 8 }, () => status(503));
  const server = await scripted(...away, stream(frame(1, "done")));
  const { ids, pauses } = await collect(server.url);
  assert.deepEqual(ids, [1]);
  assert.deepEqual(pauses, [1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
});

test("what comes through starts the pauses anew", async () => {
  const server = await scripted(status(503), status(503), stream(frame(1), { breaks: true }), stream(frame(2, "done")));
  assert.deepEqual((await collect(server.url)).pauses, [1000, 2000, 1000]);
});

test("Retry-After and retry: are heeded", async () => {
  const server = await scripted(status(429, { headers: { "retry-after": "7" } }), stream(`retry: 3000\n\n${frame(1)}`),
    stream(frame(2, "done")));
  assert.deepEqual((await collect(server.url)).pauses, [7000, 3000]);
});

test("jitter takes up to half of a pause", () => {
  assert.equal(pause(1, 1000, () => 0), 500);
  assert.equal(pause(1, 1000, () => 1), 1000);
  assert.equal(pause(1000, 1000, () => 0), LONGEST_PAUSE / 2);
});

test("a connection that falls silent is given up and taken up again", async () => {
  const timers = quick();
  const server = await scripted(
    (response) => {
      response.writeHead(200).write(frame(1));
    },
    stream(frame(2, "done")),
  );
  const ids = [];
  for await (const event of follow(server.url, { timers })) {
    ids.push(event.id);
    if (event.id === 1) setImmediate(() => timers.ring());
  }
  assert.deepEqual(ids, [1, 2]);
  assert.deepEqual(server.asked, [null, "1"]);
});

test("its signal ends it, also in a pause and in a silence", async () => {
  const ended = new AbortController();
  const silent = await scripted((response) => response.writeHead(200).write(frame(1)));
  for await (const event of follow(silent.url, { signal: ended.signal })) {
    assert.equal(event.id, 1);
    setImmediate(() => ended.abort());
  }
  const paused = new AbortController();
  const away = await scripted(status(503));
  const onState = () => setImmediate(() => paused.abort());
  for await (const event of follow(away.url, { signal: paused.signal, onState })) assert.fail(event);
});

test("it is woken from a pause, and headers may be made for each try", async () => {
  const server = await scripted(status(503), stream(frame(1, "done")));
  const tokens = ["a", "b"];
  const timers = { setTimeout: () => 0, clearTimeout: () => {} };
  const headers = () => ({ Authorization: `Bearer ${tokens.shift()}` });
  const ids = [];
  for await (const event of follow(server.url, { headers, timers, wake: (now) => void setImmediate(now) })) ids.push(event.id);
  assert.deepEqual([ids, tokens], [[1], []]);
});
