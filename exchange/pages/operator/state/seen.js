// What is known of the exchange, since when, and whether that is the present.

const STALE_MS = 6_000; // a look takes a second or two while a model is behind

// What the stores say. It stays on the page when they are away, and is called stale.
const OF_STORES = [
  "logs",
  "generations",
  "skips",
  "holding",
  "disk",
  "memory",
  "operations",
  "takeovers",
];

/**
 * @typedef {{state: any, hasStores: boolean, heardMs: number, storesMs: number, why: string}} Seen
 *   `why` is why nothing came, "" if something did.
 */

/** @type {Seen} */
export const NOTHING = {
  state: null,
  hasStores: false,
  heardMs: 0,
  storesMs: 0,
  why: "it was not asked yet",
};

/**
 * @param {Seen} seen
 * @param {any} told A state; undefined if it is the same as before, null if none came.
 * @param {string} why
 * @param {number} nowMs
 * @returns {Seen}
 */
export function fold(seen, told, why, nowMs) {
  if (told === null) return { ...seen, why };
  const hasStores = told === undefined ? seen.hasStores : told.generations !== undefined;
  const times = { heardMs: nowMs, storesMs: hasStores ? nowMs : seen.storesMs };
  if (told === undefined || hasStores)
    return { state: told ?? seen.state, hasStores, why: "", ...times };
  const kept = OF_STORES.filter((name) => seen.state?.[name] !== undefined).map((name) => [
    name,
    seen.state[name],
  ]);
  return { state: { ...Object.fromEntries(kept), ...told }, hasStores, why: "", ...times };
}

/**
 * Tell whether the page shows the present, in words.
 * @param {Seen} seen
 * @param {number} nowMs
 * @returns {{isLive: boolean, text: string}}
 */
export function lineOf(seen, nowMs) {
  if (seen.state === null) return { isLive: false, text: `Nothing is known yet: ${seen.why}.` };
  const silentMs = nowMs - seen.heardMs;
  const silent = silentMs > STALE_MS ? "nothing was heard since" : "";
  const why = seen.why || silent || (seen.hasStores ? "" : seen.state.problems.join(" "));
  if (why) {
    const known = seen.storesMs
      ? `figures are of ${Math.round((nowMs - seen.storesMs) / 1000)} s ago`
      : "the stores were not seen yet";
    return { isLive: false, text: `STALE: ${known}. Why: ${why}` };
  }
  const { status } = seen.state;
  if (status === undefined)
    return { isLive: true, text: "live, but no gateway answers: what clients see is not known" };
  return { isLive: true, text: `live; the exchange is ${status}` };
}
