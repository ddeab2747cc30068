// The tape: the newest trades, and where a connection was resumed.

import { toUnits } from "../../shared/amounts.js";

export const KEPT = 60; // more than a screen shows
const LARGE_TIMES = 5n; // as much as the mean of those before it

/**
 * @typedef {import("../instrument.js").Instrument} Instrument
 * @typedef {{key: string, price: bigint, quantity: bigint, side: string, time: string,
 *   large: boolean}} Print
 * @typedef {{key: string, resumed: number}} Seam Where a connection went on after a sequence.
 * @typedef {(Print | Seam)[]} Tape Newest first.
 */

/**
 * Return the tape after trades, which come oldest first.
 * @param {Tape} tape
 * @param {any[]} trades
 * @param {Instrument} instrument
 * @returns {Tape}
 */
export function fold(tape, trades, instrument) {
  const after = tape.slice();
  for (const trade of trades.slice(-KEPT)) {
    const quantity = toUnits(trade.quantity, instrument.quantityScale);
    after.unshift({
      key: trade.trade_id,
      price: toUnits(trade.price, instrument.priceScale),
      quantity,
      side: trade.taker_side,
      time: trade.timestamp,
      large: isLarge(quantity, after),
    });
  }
  return after.slice(0, KEPT);
}

/**
 * Return the tape with a line where a connection went on; one that brought nothing has none.
 * @param {Tape} tape
 * @param {number} sequence
 * @returns {Tape}
 */
export function resumed(tape, sequence) {
  const prints = "resumed" in (tape[0] ?? {}) ? tape.slice(1) : tape;
  if (prints.length === 0) return tape;
  /** @type {Seam} */
  const seam = { key: `resumed-${sequence}-${prints[0].key}`, resumed: sequence };
  return [seam, ...prints].slice(0, KEPT);
}

/**
 * @param {bigint} quantity
 * @param {Tape} before
 */
function isLarge(quantity, before) {
  const prints = before.filter((one) => "quantity" in one);
  if (prints.length < 10) return false;
  const sum = prints.reduce((total, one) => total + one.quantity, 0n);
  return quantity * BigInt(prints.length) >= LARGE_TIMES * sum;
}
