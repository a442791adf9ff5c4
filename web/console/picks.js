// Which pictures of a batch somebody picked. Kept in this browser.

const stored = (batch) => `orchestrator.picks.${batch}`;

export class Picks {
  #batch;
  #keys;

  constructor(batch) {
    this.#batch = batch;
    try {
      this.#keys = new Set(JSON.parse(localStorage.getItem(stored(batch)) ?? "[]"));
    } catch {
      this.#keys = new Set();
    }
  }

  has(key) {
    return this.#keys.has(key);
  }

  get size() {
    return this.#keys.size;
  }

  /** Picks a picture, or takes that back. Returns whether it is picked now. */
  toggle(key) {
    if (!this.#keys.delete(key)) this.#keys.add(key);
    try {
      if (this.#keys.size) localStorage.setItem(stored(this.#batch), JSON.stringify([...this.#keys]));
      else localStorage.removeItem(stored(this.#batch));
    } catch {
      // The storage is full or switched off: picks live as long as the page.
    }
    return this.#keys.has(key);
  }
}
