// Where one is in the logs: a position by shard, as "0:123,1:45".

const TIMES = "time such as 08:05 (UTC, today) or 2026-01-31T08:05Z";

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
    if (!match)
      throw new RangeError(`${part || "nothing"} is no position such as 0:123, and no ${TIMES}`);
    found.set(Number(match[1] ?? 0), Number(match[2]));
  }
  return found;
}

/**
 * Read positions of shards that there are; those that are not named are at their ends.
 * @param {string} text
 * @param {Map<number, number>} ends
 * @throws {RangeError} There is none.
 */
export function placesIn(text, ends) {
  const named = readPlaces(text);
  for (const shard of named.keys())
    if (!ends.has(shard))
      throw new RangeError(
        `there is no shard ${shard}: give a position (shard:event) such as 0:123, or a ${TIMES}`,
      );
  return new Map([...ends, ...named]);
}

/** @param {Map<number, number>} places */
export function told(places) {
  return [...places]
    .sort((one, other) => one[0] - other[0])
    .map(([shard, position]) => `${shard}:${position}`)
    .join(",");
}

/**
 * Return after which places the newest events begin: so many of all shards together.
 * @param {Map<number, number>} ends
 * @param {number} events
 */
export function newestOf(ends, events) {
  const share = Math.floor(events / ends.size);
  return new Map([...ends].map(([shard, end]) => [shard, Math.max(0, end - share)]));
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

/**
 * Return positions or a time as they were typed, but for a clock time: that is one of today, in
 * UTC. Where there is a shard 10, "10:45" is a position.
 * @param {string} text
 * @param {Map<number, number>} ends
 * @param {number} nowMs
 */
export function momentOf(text, ends, nowMs) {
  const match = /^([01]\d|2[0-3]):([0-5]\d)(:[0-5]\d)?Z?$/i.exec(text.trim());
  const isPosition = match && !match[3] && /^[1-9]\d:\d\d$/.test(text.trim());
  if (!match || (isPosition && ends.has(Number(match[1])))) return text;
  const today = new Date(nowMs).toISOString().slice(0, 10);
  return `${today}T${match[1]}:${match[2]}${match[3] ?? ":00"}Z`;
}
