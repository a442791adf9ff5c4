// A batch as it is known so far: a snapshot, and the events after it. Pure.
//
// Events set states and add nothing up, so that one that comes again changes nothing.

export const keyOf = (sceneId, variant) => `${sceneId.toLowerCase()}/${variant}`;

export class Board {
  /** The batch without its items. */
  batch;
  /** The rows in their order, each with its tiles. */
  rows = [];
  /** The pictures by `keyOf`. */
  tiles = new Map();
  /** What the service said beside that. */
  notices = [];

  constructor(batch) {
    this.batch = batch;
  }

  /** Takes in a page of items; those that are known are replaced. Returns the rows that are new. */
  addItems(items) {
    const fresh = [];
    for (const item of items) {
      const known = this.tiles.get(keyOf(item.sceneId, 1))?.row;
      const row = known ?? { ...item, tiles: [] };
      for (const image of item.images) {
        const key = keyOf(item.sceneId, image.variant);
        const tile = this.tiles.get(key) ?? { key, row, sceneId: item.sceneId, variant: image.variant };
        Object.assign(tile, image);
        if (!this.tiles.has(key)) {
          this.tiles.set(key, tile);
          row.tiles.push(tile);
        }
      }
      if (known) continue;
      this.rows.push(row);
      fresh.push(row);
    }
    return fresh;
  }

  /** Takes in an event. Returns the tiles that it changed. */
  apply({ type, data }) {
    const tile = data.sceneId && data.variant ? this.tiles.get(keyOf(data.sceneId, data.variant)) : undefined;
    switch (type) {
      case "image_complete":
        if (!tile) return [];
        Object.assign(tile, {
          state: "completed", error: null, cost: data.cost, billing: data.billing, url: data.url, thumbnailUrl: data.thumbnailUrl,
          permalink: data.permalink, width: data.width, height: data.height, bytes: data.bytes, mimeType: data.mimeType,
        });
        return [tile];
      case "image_failed":
        if (!tile) return [];
        Object.assign(tile, { state: "failed", error: data.error, cost: data.cost, billing: data.billing });
        return [tile];
      case "cancelled":
        return this.#settle("cancelled");
      case "notice":
        this.notices.push(data.detail);
        return [];
      case "done":
        Object.assign(this.batch, { state: data.state, counts: data.counts, actualCost: data.cost, unknownCost: data.unknownCost });
        return [];
      default:
        return [];
    }
  }

  /** Those that wait will not be made. One that is under way tells its own end after this. */
  #settle(state) {
    const waiting = [...this.tiles.values()].filter((tile) => tile.state === "queued");
    for (const tile of waiting) tile.state = state;
    return waiting;
  }

  /** The pictures by state, and what they cost. */
  counts() {
    const counts = { total: 0, queued: 0, running: 0, completed: 0, failed: 0, cancelled: 0, retryable: 0, cost: 0 };
    for (const tile of this.tiles.values()) {
      counts.total += 1;
      counts[tile.state] += 1;
      if (tile.state === "failed" && tile.error?.retryable) counts.retryable += 1;
      counts.cost += Math.round((tile.cost ?? 0) * 1e6);
    }
    counts.cost /= 1e6;
    counts.open = counts.queued + counts.running;
    return counts;
  }

  /** The failures by code, most frequent first: `[code, tiles]`. */
  failures() {
    const byCode = new Map();
    for (const tile of this.tiles.values()) {
      if (tile.state !== "failed") continue;
      const code = tile.error?.code ?? "unknown";
      if (!byCode.has(code)) byCode.set(code, []);
      byCode.get(code).push(tile);
    }
    return [...byCode].sort((one, other) => other[1].length - one[1].length);
  }
}
