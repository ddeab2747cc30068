// How far from the best price an order would trade, as the book is now. Pure, in exact units.

import { taken } from "./book.js";

const WARNING = 200n; // 2 %, in 1/100 %
const GRAVE = 500n; // 5 %

/**
 * @typedef {object} Expected
 * @property {bigint} filled What would trade at once.
 * @property {bigint} missing What the book does not have; of a limit order it would rest.
 * @property {bigint} cost In units of both scales together.
 * @property {bigint} average In 1/100 units of a price, rounded down.
 * @property {bigint} slippage How much worse than the best price the average is, in 1/100 %.
 */

/**
 * Fill an order from the other side of the book.
 * @param {import("./book.js").Book} book
 * @param {"buy" | "sell"} side
 * @param {bigint} quantity
 * @param {bigint | null} limit The worst price; null for a market order.
 * @returns {Expected}
 */
export function slippage(book, side, quantity, limit) {
  const levels = taken(book, side, quantity, limit);
  const filled = levels.reduce((total, level) => total + level.quantity, 0n);
  const cost = levels.reduce((total, level) => total + level.price * level.quantity, 0n);
  const missing = quantity - filled;
  if (filled === 0n) return { filled, missing, cost, average: 0n, slippage: 0n };
  const atBest = levels[0].price * filled;
  const worse = side === "buy" ? cost - atBest : atBest - cost;
  const parts = atBest > 0n ? (worse * 10_000n) / atBest : 0n;
  return { filled, missing, cost, average: (cost * 100n) / filled, slippage: parts };
}

/**
 * Return how much of what would trade at once may be with own orders. Who is first at a price is not
 * in the book, so that it is the most that it can be.
 * @param {import("./book.js").Book} book
 * @param {readonly {side: "buy" | "sell", price: bigint, remaining: bigint}[]} own
 * @param {"buy" | "sell"} side
 * @param {bigint} quantity
 * @param {bigint | null} limit
 */
export function ownIn(book, own, side, quantity, limit) {
  return taken(book, side, quantity, limit).reduce((total, level) => {
    const here = own.filter((order) => order.side !== side && order.price === level.price);
    const mine = here.reduce((sum, { remaining }) => sum + remaining, 0n);
    return total + (mine < level.quantity ? mine : level.quantity);
  }, 0n);
}

/** @param {bigint} parts In 1/100 %. */
export function isWarning(parts) {
  return parts > WARNING;
}

/** @param {bigint} parts In 1/100 %. */
export function isGrave(parts) {
  return parts > GRAVE;
}
