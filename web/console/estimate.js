// How long a batch will still take, as honestly as can be said: from the pictures that ended so far, by the service's
// own clock. Pure.

/** Pictures that have to have ended before anything is said. */
const LEAST = 5;
/** The pace is that of the last so many. */
const WINDOW = 40;
/** A pause of so many times the usual one, and of at least so many milliseconds, is told as such. */
const STALL = { times: 6, least: 15_000 };

/** Takes down when pictures ended. */
export class Pace {
  #ends = [];
  #heardAt = 0;

  /** A picture ended at `ts`, by the service's clock; told at `now`, by ours. */
  note(ts, now) {
    this.#ends.push(ts);
    if (this.#ends.length > WINDOW) this.#ends.shift();
    this.#heardAt = now;
  }

  /** Forgets all of it: another run begins. */
  clear() {
    this.#ends = [];
  }

  /** Milliseconds until `left` pictures have ended: `{state: "measuring" | "stalled"}` or `{state: "known", left}`. */
  estimate(left, now) {
    const count = this.#ends.length;
    if (count < LEAST) return { state: "measuring" };
    const gap = (this.#ends.at(-1) - this.#ends[0]) / (count - 1);
    const silence = Math.max(0, now - this.#heardAt);
    if (silence > Math.max(STALL.least, gap * STALL.times)) return { state: "stalled" };
    return { state: "known", left: Math.max(0, left * gap - silence) };
  }
}

/** A span in words that claim no more than is known. */
export function inWords(milliseconds) {
  const seconds = milliseconds / 1000;
  if (seconds < 10) return "a few seconds";
  if (seconds < 50) return `about ${Math.ceil(seconds / 10) * 10} seconds`;
  const minutes = Math.max(1, Math.round(seconds / 60));
  if (minutes < 60) return `about ${minutes} ${minutes === 1 ? "minute" : "minutes"}`;
  const hours = Math.round(minutes / 30) / 2;
  return `about ${hours} ${hours === 1 ? "hour" : "hours"}`;
}
