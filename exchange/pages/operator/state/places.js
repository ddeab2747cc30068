// Where one is in the logs: a position by shard, as "0:123,1:45".

/**
 * Read positions by shard; a bare number is of shard 0.
 * @param {string} text
 * @returns {Map<number, number>}
 * @throws {RangeError} It is none.
 */
export function readPlaces(text) {
  const found = new Map();
  for (const part of text.trim().split(",")) {
    const match = /^(?:(\d{1,4}):)?(\d{1,15})$/.exec(part.trim());
    if (!match) throw new RangeError(`${part || "nothing"} is no position such as 0:123`);
    found.set(Number(match[1] ?? 0), Number(match[2]));
  }
  return found;
}

/** @param {Map<number, number>} places */
export function told(places) {
  return [...places]
    .sort((one, other) => one[0] - other[0])
    .map(([shard, position]) => `${shard}:${position}`)
    .join(",");
}

/**
 * Return the places with that of one shard moved, within its log.
 * @param {Map<number, number>} places
 * @param {number} shard
 * @param {number} position
 * @param {number} head
 */
export function moved(places, shard, position, head) {
  return new Map(places).set(shard, Math.max(0, Math.min(head, position)));
}

/**
 * Return the shard that steps and the slider move in: the one asked for, else the first that the
 * text names, else the first there is.
 * @param {string} asked
 * @param {string} at Positions or a time.
 * @param {Map<number, number>} ends
 */
export function shardOf(asked, at, ends) {
  if (/^\d+$/.test(asked) && ends.has(Number(asked))) return Number(asked);
  const named = at && !isTime(at) ? Math.min(...readPlaces(at).keys()) : Number.NaN;
  return ends.has(named) ? named : Math.min(...ends.keys());
}

/**
 * Tell whether a text is a time rather than positions.
 * @param {string} text
 */
export function isTime(text) {
  return /^\d{4}-\d{2}-\d{2}/.test(text.trim());
}
