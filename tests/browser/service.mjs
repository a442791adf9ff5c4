// The program as a real process on a port and a folder of its own; killed, and started again on both.

import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

export const ROOT = new URL("../../", import.meta.url).pathname;
const PROGRAM = process.env.TEST_PROGRAM ?? join(ROOT, "target/debug/orchestrator");

export class Service {
  #folder = mkdtempSync(join(tmpdir(), "orchestrator-browser-"));
  #settings;
  #child;
  port = 0;

  constructor(settings = {}) {
    this.#settings = settings;
  }

  /** Starts a service; it is stopped and its data removed when the test `t` ends. */
  static async start(t, settings) {
    const service = new Service(settings);
    await service.start();
    t.after(() => service.remove());
    return service;
  }

  /** Makes a key; from then on the service lets nobody in without one. */
  newKey(name) {
    const said = execFileSync(PROGRAM, ["keys", "new", "--name", name], { env: this.#environment(), encoding: "utf8" });
    return /aip_\w+/.exec(said)[0];
  }

  #environment() {
    return {
      DATA_DIR: this.#folder, PORT: String(this.port), PROVIDER: "synthetic", LOG_FORMAT: "json", SYNTHETIC_LATENCY: "50ms",
      DAILY_BUDGET_USD: "1000", ...this.#settings,
    };
  }

  get url() {
    return `http://127.0.0.1:${this.port}`;
  }

  async start() {
    this.#child = spawn(PROGRAM, ["serve"], { env: this.#environment(), stdio: ["ignore", "ignore", "pipe"] });
    const lines = createInterface({ input: this.#child.stderr });
    const seen = [];
    this.port = await new Promise((resolve, reject) => {
      lines.on("line", (line) => {
        seen.push(line);
        if (!line.includes('"listening"')) return;
        resolve(Number(JSON.parse(line).address.split(":").at(-1)));
      });
      this.#child.once("exit", () => reject(new Error(`the service ended before it listened:\n${seen.join("\n")}`)));
      this.#child.once("error", reject);
    });
  }

  /** Ends it as `kill -9` does. */
  async kill() {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = new Promise((resolve) => this.#child.once("exit", resolve));
    this.#child.kill("SIGKILL");
    await ended;
  }

  async remove() {
    await this.kill();
    rmSync(this.#folder, { recursive: true, force: true });
  }

  /** What the service answers to a program. */
  async get(path) {
    const answer = await fetch(this.url + path);
    if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
    return answer.json();
  }

  async post(path, body, headers = {}) {
    const answer = await fetch(this.url + path, { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json", ...headers } });
    if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
    return answer.json();
  }
}
