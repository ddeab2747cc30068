// What the samples of the last quarter of an hour say: rates, and whether somebody stands still.

const STILL_SAMPLES = 6; // half a minute: the follower looks ten times a second

/**
 * Return how fast a generation goes: events a second now and on the average, null if not known.
 * @param {any} trends As `/state` tells them.
 * @param {string} name Such as `book 3`.
 * @returns {{now: number | null, mean: number | null, isStill: boolean}}
 */
export function rates(trends, name) {
  const line = trends.generations[name];
  if (!line) return { now: null, mean: null, isStill: false };
  /** @type {[number, number][]} */
  const known = [];
  line.position.forEach((/** @type {number | null} */ position, /** @type {number} */ index) => {
    if (position !== null) known.push([trends.at_ms[index], position]);
  });
  const last = known.at(-1);
  return {
    now: rate(known.at(-2), last),
    mean: rate(known[0], last),
    isStill: isStill(line, trends.head),
  };
}

/**
 * Return how many commands a second a shard's matcher decides, now and on the average.
 * @param {any} trends
 * @param {number} shard
 * @returns {{now: number | null, mean: number | null, each: (number | null)[]}}
 */
export function commandRates(trends, shard) {
  /** @type {(number | null)[]} */
  const line = trends.offsets[shard] ?? [];
  /** @type {([number, number] | undefined)[]} */
  const known = line.map((offset, index) =>
    offset === null ? undefined : [trends.at_ms[index], offset],
  );
  const each = known.slice(1).map((to, index) => rate(known[index], to));
  return { now: each.at(-1) ?? null, mean: rate(known.find(Boolean), known.at(-1)), each };
}

/**
 * Return how many milliseconds a shard's matcher took to append a batch, lately and on the average.
 * @param {any} trends
 * @param {number} shard
 * @returns {{now: number | null, mean: number | null, each: (number | null)[]}}
 */
export function commitTimes(trends, shard) {
  /** @type {(number | null)[]} */
  const each = trends.commit_ms?.[shard] ?? [];
  const known = each.filter((one) => one !== null);
  const sum = known.reduce((total, one) => total + one, 0);
  return { now: known.at(-1) ?? null, mean: known.length ? sum / known.length : null, each };
}

/**
 * Tell whether the log has grown and the generation has not moved: stuck, whatever it says itself.
 * @param {{position: (number | null)[], lag: (number | null)[]}} line
 * @param {number[]} heads
 */
function isStill(line, heads) {
  const places = line.position.slice(-STILL_SAMPLES);
  const first = heads.at(-STILL_SAMPLES);
  if (places.length < STILL_SAMPLES || first === undefined) return false;
  const moved = places.some((place) => place !== places[0]);
  return !moved && heads[heads.length - 1] > first && (line.lag.at(-1) ?? 0) > 0;
}

/**
 * @param {[number, number] | undefined} from
 * @param {[number, number] | undefined} to
 */
function rate(from, to) {
  if (!from || !to || to[0] <= from[0]) return null;
  return Math.max(0, ((to[1] - from[1]) * 1000) / (to[0] - from[0]));
}
