// The order book: levels of both sides, best first, in units.

import { toUnits } from "../../shared/amounts.js";

/**
 * @typedef {import("../instrument.js").Instrument} Instrument
 * @typedef {{price: bigint, quantity: bigint}} Level
 * @typedef {{bids: Level[], asks: Level[], sequence: number, whole: boolean}} Book
 *   `whole` is false until every part of a snapshot has come.
 */

/** @type {Book} */
export const EMPTY = { bids: [], asks: [], sequence: 0, whole: false };

/**
 * Return the book after a message of the channel `orderbook`.
 * @param {Book} book
 * @param {any} message
 * @param {Instrument} instrument
 * @returns {Book}
 */
export function fold(book, message, instrument) {
  const told = { bids: levels(message.bids, instrument), asks: levels(message.asks, instrument) };
  const { sequence } = message;
  if (message.kind === "delta") {
    if (!book.whole) return book;
    return {
      bids: changed(book.bids, told.bids, -1n),
      asks: changed(book.asks, told.asks, 1n),
      sequence,
      whole: true,
    };
  }
  const first = (message.part ?? 1) === 1;
  return {
    bids: first ? told.bids : book.bids.concat(told.bids),
    asks: first ? told.asks : book.asks.concat(told.asks),
    sequence,
    whole: (message.part ?? 1) === (message.parts ?? 1),
  };
}

/**
 * @param {any[]} told
 * @param {Instrument} instrument
 * @returns {Level[]}
 */
function levels(told, instrument) {
  return told.map((level) => ({
    price: toUnits(level.price, instrument.priceScale),
    quantity: toUnits(level.quantity, instrument.quantityScale),
  }));
}

/**
 * Return a side after a delta; a level with no quantity is gone.
 * @param {Level[]} side
 * @param {Level[]} changes
 * @param {bigint} direction 1n if the best price is the lowest, else -1n.
 */
function changed(side, changes, direction) {
  const after = side.slice();
  for (const level of changes) {
    const at = place(after, level.price * direction, direction);
    const there = at < after.length && after[at].price === level.price;
    if (level.quantity === 0n) {
      if (there) after.splice(at, 1);
    } else after.splice(at, there ? 1 : 0, level);
  }
  return after;
}

/**
 * Return the index of the first level that is not better than a price.
 * @param {Level[]} side
 * @param {bigint} key
 * @param {bigint} direction
 */
function place(side, key, direction) {
  let [low, high] = [0, side.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (side[middle].price * direction < key) low = middle + 1;
    else high = middle;
  }
  return low;
}

/**
 * Return the best rows of a side with levels joined to steps of a price, and sums from the best.
 * A step has the worse end's price, so that nobody sees a better price than there is.
 * @param {Level[]} side
 * @param {"bids" | "asks"} name
 * @param {bigint} step
 * @param {number} rows
 * @returns {{price: bigint, quantity: bigint, total: bigint}[]}
 */
export function grouped(side, name, step, rows) {
  /** @type {{price: bigint, quantity: bigint, total: bigint}[]} */
  const found = [];
  let total = 0n;
  for (const { price, quantity } of side) {
    const down = price - (price % step);
    const at = name === "bids" || down === price ? down : down + step;
    const last = found.at(-1);
    if (last?.price !== at && found.length === rows) break;
    total += quantity;
    if (last?.price === at) {
      last.quantity += quantity;
      last.total = total;
    } else found.push({ price: at, quantity, total });
  }
  return found;
}

/**
 * Return the levels that an order would take from the other side now, best first, with what it takes.
 * @param {Book} book
 * @param {"buy" | "sell"} side
 * @param {bigint} quantity
 * @param {bigint | null} limit The worst price, null at the market.
 * @returns {Level[]}
 */
export function taken(book, side, quantity, limit) {
  /** @type {Level[]} */
  const found = [];
  let left = quantity;
  for (const level of side === "buy" ? book.asks : book.bids) {
    if (left === 0n) break;
    if (limit !== null && (side === "buy" ? level.price > limit : level.price < limit)) break;
    const part = level.quantity < left ? level.quantity : left;
    left -= part;
    found.push({ price: level.price, quantity: part });
  }
  return found;
}
