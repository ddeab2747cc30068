// What the exchange answered at a moment that is gone: its places, a book, and a client's positions.

import { ask } from "../requests.js";
import { isTime, placesIn, readPlaces, told } from "../state/places.js";

const LEVELS = 100; // the most that one answer has: a comparison needs all of them
const INSTRUMENTS_MAX = 50; // more is no help to who chooses

/**
 * Return where each shard was at a moment; shards that a position does not name are at their ends.
 * @param {string} at Positions or a time; "" is the end.
 * @param {Map<number, number>} ends
 * @returns {Promise<Map<number, number>>}
 */
export async function placesAt(at, ends) {
  if (!at) return ends;
  if (!isTime(at)) return placesIn(at, ends);
  const found = await ask("/events", { up_to_time: at, limit: 1 });
  return readPlaces(found.sequence);
}

/**
 * @param {Map<number, number>} places
 * @param {string} instrument
 * @param {string} client
 * @returns {Promise<{book: any, positions: any[]}>}
 */
export async function answersAt(places, instrument, client) {
  const as_of_sequence = told(places);
  const [book, held] = await Promise.all([
    ask("/market/orderbook", { instrument, levels: LEVELS, as_of_sequence }),
    client ? ask(`/market/positions/${encodeURIComponent(client)}`, { as_of_sequence }) : null,
  ]);
  return { book, positions: held?.positions ?? [] };
}

/**
 * Return instruments to choose from: the first that were registered.
 * @returns {Promise<string[]>} Empty if that could not be asked: another one may be typed.
 */
export async function instrumentsKnown() {
  try {
    const found = await ask("/events", { type: "InstrumentRegistered", limit: INSTRUMENTS_MAX });
    return found.events.map((/** @type {any} */ one) => one.instrument);
  } catch {
    return [];
  }
}

/**
 * Return where a step of a batch leads, and what is known of the batch there.
 * @param {number} shard
 * @param {number} position
 * @returns {Promise<{before: number, after: number | null, ends: number | null,
 *   epoch: number | null, recorded_at: string | null}>}
 */
export function batchesAround(shard, position) {
  return ask("/batches", { shard, position });
}
