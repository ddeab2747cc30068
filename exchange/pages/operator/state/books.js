// Two books or two lists of positions, and what differs between them. Amounts are compared as text.

/**
 * Return how the columns of a comparison are called: either moment may be the earlier one.
 * @param {string} first
 * @param {string} second
 */
export function columnsOf(first, second) {
  return ["what", `at ${first}`, `at ${second}`];
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
