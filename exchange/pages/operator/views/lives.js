// What the log knows of an order that the order's own events do not tell: its shard, and with whom
// it traded.

import { ask } from "../requests.js";
import { isOf } from "../state/life.js";

const TRADES_MAX = 20; // each is a question; the log browser has all

/** @param {number} shard @param {number} position */
async function eventAt(shard, position) {
  const found = await ask("/events", { shard, after: `${shard}:${position - 1}`, limit: 1 });
  return found.events[0];
}

/**
 * Return the shard of an order: where the log has its first event.
 * @param {any[]} events
 * @param {string} order
 * @param {Map<number, number>} ends
 * @returns {Promise<number>}
 */
export async function shardOfOrder(events, order, ends) {
  const shards = [...ends].filter(([, end]) => end >= events[0].sequence).map(([shard]) => shard);
  if (shards.length === 1) return shards[0];
  const firsts = await Promise.all(shards.map((shard) => eventAt(shard, events[0].sequence)));
  return shards[firsts.findIndex((event) => isOf(event, order))];
}

/**
 * Return the newest trades of an order as the log has them, with both sides, by position.
 * @param {any[]} events
 * @param {number} shard
 * @returns {Promise<Map<number, any>>}
 */
export async function tradesOf(events, shard) {
  const trades = events.filter((one) => one.type === "TradeExecuted").slice(-TRADES_MAX);
  const found = new Map();
  for (const { sequence } of trades) found.set(sequence, await eventAt(shard, sequence));
  return found;
}
