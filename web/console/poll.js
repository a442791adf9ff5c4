// Reads something again and again, more seldom while that fails. Owns the pace; what is read and shown is its caller's.

/** From an answer to the next question, in milliseconds. */
export const PACE = 5_000;
/** The longest pause after failures, each of which doubles it. */
export const LONGEST = 60_000;

export class Poll {
  #read;
  #told;
  #isFinal;
  #timer;
  /** Grows whenever what is under way is not to be heard of. */
  #turn = 0;
  #running = false;
  #failures = 0;
  #failingSince;

  /**
   * `read` promises an answer. `told` gets `{answer}`, or `{error, since, next}`: since when it fails, and when it is
   * tried again; no `next` after an error for which `isFinal` is true, which ends it until it is started again.
   */
  constructor(read, told, isFinal = () => false) {
    [this.#read, this.#told, this.#isFinal] = [read, told, isFinal];
  }

  /** Reads at once, and from then on. */
  start() {
    if (this.#running) return;
    this.#running = true;
    this.#ask();
  }

  /** Reads no more; what is under way is not told. */
  stop() {
    this.#running = false;
    this.#turn += 1;
    clearTimeout(this.#timer);
  }

  /** Reads at once instead of when it would. */
  now() {
    this.stop();
    this.start();
  }

  async #ask() {
    const turn = ++this.#turn;
    let told;
    try {
      told = { answer: await this.#read() };
    } catch (error) {
      told = { error };
    }
    if (turn !== this.#turn) return;
    if (told.error && this.#isFinal(told.error)) {
      this.#running = false;
      return this.#told(told);
    }
    this.#failures = told.error ? this.#failures + 1 : 0;
    this.#failingSince = told.error ? this.#failingSince ?? Date.now() : undefined;
    const pause = Math.min(LONGEST, PACE * 2 ** Math.max(0, this.#failures - 1));
    this.#timer = setTimeout(() => this.#ask(), pause);
    this.#told(told.error ? { ...told, since: this.#failingSince, next: Date.now() + pause } : told);
  }
}
