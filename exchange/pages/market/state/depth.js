// The depth: how much rests up to each price, in even steps of price around the middle.

const STEPS = 50; // of each side
const LEVELS = 60; // it reaches as far as so many levels do

/** @typedef {import("./book.js").Level} Level */

/**
 * Return the step of the price axis: a whole number of ticks, so many that the last level of the
 * longer side is within `STEPS` of them.
 * @param {import("./book.js").Book} book
 * @param {bigint} tick
 */
export function stepOf(book, tick) {
  const reach = [book.bids, book.asks].map((side) => {
    const [first, last] = [side[0], side[Math.min(side.length, LEVELS) - 1]];
    if (!first) return 0n;
    return first.price > last.price ? first.price - last.price : last.price - first.price;
  });
  const far = reach[0] > reach[1] ? reach[0] : reach[1];
  return (far / BigInt(STEPS) / tick + 1n) * tick;
}

/**
 * Return price and sum from the best at each step of a side, the best price first.
 * @param {Level[]} side
 * @param {bigint} step
 * @param {bigint} away 1n where prices grow with the distance, else -1n.
 * @returns {[bigint, bigint][]}
 */
export function totals(side, step, away) {
  if (side.length === 0) return [];
  /** @type {[bigint, bigint][]} */
  const found = [];
  let [total, number] = [0n, 0];
  const first = side[0].price;
  for (let place = 0; place <= STEPS; place += 1) {
    const edge = first + away * step * BigInt(place);
    while (number < side.length && (edge - side[number].price) * away >= 0n) {
      total += side[number].quantity;
      number += 1;
    }
    found.push([edge, total]);
  }
  return found;
}

/**
 * Return the step that counts a price first, where its mark stands; null if the chart ends before.
 * @param {Level[]} side
 * @param {bigint} step
 * @param {bigint} away
 * @param {bigint} price
 */
export function stepAt(side, step, away, price) {
  if (side.length === 0) return null;
  const first = side[0].price;
  const distance = (price - first) * away;
  if (distance <= 0n) return first;
  const place = (distance + step - 1n) / step;
  return place <= BigInt(STEPS) ? first + away * step * place : null;
}
