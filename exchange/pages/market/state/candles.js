// Candles: what trades did in each interval, in units; intervals without trades are empty.

import { toUnits } from "../../shared/amounts.js";

export const INTERVALS = [1, 5, 15, 60, 240, 1440]; // minutes
export const SHOWN = 180; // intervals that a chart begins with
const MINUTE_MS = 60_000;
const KEPT = 2 * SHOWN;

/**
 * @typedef {import("../instrument.js").Instrument} Instrument
 * @typedef {{time: number, open: bigint, high: bigint, low: bigint, close: bigint,
 *   quantity: bigint}} Candle `time` in seconds since 1970, when the interval begins.
 * @typedef {{minutes: number, sequence: number, candles: Candle[]}} Candles Oldest first. They
 *   have the trades up to `sequence`.
 */

/**
 * Return the candles that `GET /market/analytics` tells.
 * @param {any} told
 * @param {Instrument} instrument
 * @returns {Candles}
 */
export function begin(told, instrument) {
  const { priceScale, quantityScale } = instrument;
  return {
    minutes: told.interval_minutes,
    sequence: told.sequence,
    candles: told.aggregates.map((/** @type {any} */ one) => ({
      time: Date.parse(one.time_bucket) / 1000,
      open: toUnits(one.open_price, priceScale),
      high: toUnits(one.max_price, priceScale),
      low: toUnits(one.min_price, priceScale),
      close: toUnits(one.close_price, priceScale),
      quantity: toUnits(one.total_quantity, quantityScale),
    })),
  };
}

/**
 * Return the candles after trades, which come oldest first; those that they have count once.
 * @param {Candles} state
 * @param {any[]} trades
 * @param {Instrument} instrument
 * @returns {Candles}
 */
export function fold(state, trades, instrument) {
  const candles = state.candles.slice();
  let { sequence } = state;
  for (const trade of trades) {
    if (trade.sequence <= sequence) continue;
    sequence = trade.sequence;
    const price = toUnits(trade.price, instrument.priceScale);
    const quantity = toUnits(trade.quantity, instrument.quantityScale);
    const time = bucket(Date.parse(trade.timestamp), state.minutes);
    const last = candles.at(-1);
    if (last?.time === time) candles[candles.length - 1] = grown(last, price, quantity);
    else candles.push({ time, open: price, high: price, low: price, close: price, quantity });
  }
  return { ...state, sequence, candles: candles.slice(-KEPT) };
}

/**
 * Return all intervals up to now, those without a trade with a time alone. Of a market where days
 * pass between trades, as many as are kept.
 * @param {Candles} state
 * @param {number} nowMs
 * @returns {(Candle | {time: number})[]}
 */
export function filled({ candles, minutes }, nowMs) {
  if (candles.length === 0) return [];
  const step = minutes * 60;
  const last = Math.max(bucket(nowMs, minutes), candles[candles.length - 1].time);
  const found = new Map(candles.map((candle) => [candle.time, candle]));
  const whole = [];
  for (let time = Math.max(candles[0].time, last - (KEPT - 1) * step); time <= last; time += step)
    whole.push(found.get(time) ?? { time });
  return whole;
}

/**
 * Return the candles that are not drawn yet; null if all must be drawn again: others changed, there
 * is a hole between, or an empty interval is drawn after the last one.
 * @param {Candles | null} drawn
 * @param {Candles} state
 * @param {number} until The last interval that is drawn.
 * @returns {Candle[] | null}
 */
export function news(drawn, state, until) {
  const last = drawn?.candles.at(-1);
  if (!drawn || !last || drawn.minutes !== state.minutes || last.time < until) return null;
  const fresh = state.candles.slice(drawn.candles.length - 1);
  const isNext = fresh.every(({ time }, place) => time === last.time + place * state.minutes * 60);
  return fresh.length > 0 && isNext ? fresh : null;
}

/**
 * Return when the interval of a time begins, in seconds since 1970.
 * @param {number} timeMs
 * @param {number} minutes
 */
export function bucket(timeMs, minutes) {
  const lengthMs = minutes * MINUTE_MS;
  return Math.floor(timeMs / lengthMs) * (lengthMs / 1000);
}

/**
 * @param {Candle} candle
 * @param {bigint} price
 * @param {bigint} quantity
 * @returns {Candle}
 */
function grown(candle, price, quantity) {
  return {
    ...candle,
    high: price > candle.high ? price : candle.high,
    low: price < candle.low ? price : candle.low,
    close: price,
    quantity: candle.quantity + quantity,
  };
}
