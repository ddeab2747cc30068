// How far from the best price an order would trade, as the book is now. Pure, in exact units.

import { sweep } from "./book.js";

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
  const { taken: filled, cost, best } = sweep(book, side, quantity, limit);
  const missing = quantity - filled;
  if (filled === 0n || best === null) return { filled, missing, cost, average: 0n, slippage: 0n };
  const atBest = best * filled;
  const worse = side === "buy" ? cost - atBest : atBest - cost;
  const parts = atBest > 0n ? (worse * 10_000n) / atBest : 0n;
  return { filled, missing, cost, average: (cost * 100n) / filled, slippage: parts };
}

/** @param {bigint} parts In 1/100 %. */
export function isWarning(parts) {
  return parts > WARNING;
}

/** @param {bigint} parts In 1/100 %. */
export function isGrave(parts) {
  return parts > GRAVE;
}
