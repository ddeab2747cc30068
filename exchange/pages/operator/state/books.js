// Two books or two lists of positions, and what differs between them. Amounts are compared as text.

/**
 * Return how the columns of a comparison are called: either moment may be the earlier one.
 * @param {string} first
 * @param {string} second
 */
export function columnsOf(first, second) {
  return ["what", `at ${first}`, `at ${second}`];
}

const LEVELS_MAX = 100; // of a side of an answer

/**
 * Leave out of two lists of levels, best first, what one of them is too short to have.
 * @param {string} side
 * @param {any[]} first
 * @param {any[]} second
 * @returns {[any[], any[]]}
 */
export function comparable(side, first, second) {
  const ends = [first, second]
    .filter((levels) => levels.length >= LEVELS_MAX)
    .map((levels) => Number(levels[levels.length - 1].price));
  const [low, high] = [Math.max(...ends), Math.min(...ends)]; // without an end, all are in
  const isIn = (/** @type {any} */ { price }) =>
    side === "bids" ? Number(price) >= low : Number(price) <= high;
  return [first.filter(isIn), second.filter(isIn)];
}

/**
 * Return the rows of both, each with what it was and what it is; only those that differ.
 * @param {any[]} before
 * @param {any[]} after
 * @param {(row: any) => string} keyOf
 * @param {(row: any) => string} told
 * @returns {{key: string, before: string, after: string}[]}
 */
export function differences(before, after, keyOf, told) {
  const was = new Map(before.map((row) => [keyOf(row), told(row)]));
  const is = new Map(after.map((row) => [keyOf(row), told(row)]));
  const keys = [...new Set([...was.keys(), ...is.keys()])];
  return keys
    .map((key) => ({ key, before: was.get(key) ?? "–", after: is.get(key) ?? "–" }))
    .filter((row) => row.before !== row.after);
}
