// What the lists of a client ask, and how far the answers must have come.

import { reader } from "./reads.js";

const ROWS = 50; // on a page
const POSITIONS_MAX = 1_000; // the most that one answer has; nobody trades more instruments

/**
 * @param {object} given
 * @param {() => string} given.client
 * @param {import("../instrument.js").Instrument} given.instrument
 * @param {() => void} given.changed
 * @param {(body: any, isFirst: boolean) => void} given.orders
 * @param {(body: any, isFirst: boolean) => void} given.fills
 * @param {(body: any) => void} given.positions
 */
export function questions({ client, instrument, changed, orders, fills, positions }) {
  const cursors = { orders: "", fills: "" };
  /** @type {Map<number, number>} By shard, how far own commands and trades have come. */
  const seen = new Map();
  const seenOf = (/** @type {[number, number][]} */ shards) =>
    shards.map(([shard, sequence]) => `${shard}:${sequence}`).join(",");
  const everywhere = () => seenOf([...seen]);
  const here = () => seenOf([...seen].filter(([shard]) => shard === instrument.shard));
  const shared = { changed };

  const asked = {
    orders: reader({
      ...shared,
      after: everywhere,
      question: () => of("./orders", { status: "working", ...page("orders") }),
      take: (body) => orders(body, !cursors.orders),
    }),
    fills: reader({
      ...shared,
      after: here,
      question: () => of("./market/fills", { instrument: instrument.name, ...page("fills") }),
      take: (body) => fills(body, !cursors.fills),
    }),
    positions: reader({
      ...shared,
      after: everywhere,
      question() {
        const path = `./market/positions/${encodeURIComponent(client())}`;
        return client() && `${path}?limit=${POSITIONS_MAX}`;
      },
      take: positions,
    }),
  };

  /**
   * @param {string} path
   * @param {Record<string, string>} parameters
   */
  function of(path, parameters) {
    return client() && `${path}?${new URLSearchParams({ client_id: client(), ...parameters })}`;
  }

  /**
   * @param {"orders" | "fills"} list
   * @returns {Record<string, string>}
   */
  function page(list) {
    const cursor = cursors[list];
    return { limit: String(ROWS), ...(cursor ? { cursor } : {}) };
  }

  return {
    ...asked,

    /** Ask for everything from its beginning. */
    begin() {
      Object.assign(cursors, { orders: "", fills: "" });
      for (const one of Object.values(asked)) one.ask();
    },

    /**
     * Answers from now on must have seen this.
     * @param {number} shard
     * @param {number} sequence
     */
    saw(shard, sequence) {
      if (sequence > (seen.get(shard) ?? 0)) seen.set(shard, sequence);
    },

    /**
     * @param {"orders" | "fills"} list
     * @param {string | null} next
     */
    more(list, next) {
      cursors[list] = next ?? "";
      asked[list].ask();
    },

    /** @param {"orders" | "fills"} list */
    newest(list) {
      cursors[list] = "";
      asked[list].ask();
    },

    /** Why lists may be old. */
    why: () => ({
      orders: asked.orders.why(),
      fills: asked.fills.why(),
      positions: asked.positions.why(),
    }),
  };
}
