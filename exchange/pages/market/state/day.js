// The figures of 24 hours, in units: read now and then, and moved on by each trade since.

import { fromUnits, toUnits, trimmed } from "../../shared/amounts.js";

/**
 * @typedef {import("../instrument.js").Instrument} Instrument
 * @typedef {{open: bigint, high: bigint, low: bigint, close: bigint}} Prices
 * @typedef {{prices: Prices | null, quantity: bigint, sequence: number}} Day It has the trades up to
 *   `sequence`; `prices` is null without any.
 */

const PERCENT_PLACES = 4;

/**
 * Return the day that `GET /market/ticker` tells.
 * @param {any} told
 * @param {Instrument} instrument
 * @returns {Day}
 */
export function begin(told, { priceScale, quantityScale }) {
  const price = (/** @type {string | number} */ amount) => toUnits(amount, priceScale);
  const { open, high, low, close } = told;
  const prices =
    open === null
      ? null
      : { open: price(open), high: price(high), low: price(low), close: price(close) };
  return { prices, quantity: toUnits(told.quantity, quantityScale), sequence: told.sequence };
}

/**
 * Return the day after trades, which come oldest first; those that it has count once.
 * @param {Day} day
 * @param {any[]} trades
 * @param {Instrument} instrument
 * @returns {Day}
 */
export function fold(day, trades, { priceScale, quantityScale }) {
  let { prices, quantity, sequence } = day;
  for (const trade of trades) {
    if (trade.sequence <= sequence) continue;
    sequence = trade.sequence;
    quantity += toUnits(trade.quantity, quantityScale);
    const price = toUnits(trade.price, priceScale);
    prices = {
      open: prices?.open ?? price,
      high: prices && prices.high > price ? prices.high : price,
      low: prices && prices.low < price ? prices.low : price,
      close: price,
    };
  }
  return { prices, quantity, sequence };
}

/**
 * Return the change of a day in 10^-4 %, rounded half to even as the exchange does.
 * @param {Prices} prices
 */
export function change({ open, close }) {
  const [above, below] = [(close - open) * 100n * 10n ** BigInt(PERCENT_PLACES), open];
  const [size, sign] = above < 0n ? [-above, -1n] : [above, 1n];
  const [whole, twice] = [size / below, 2n * (size % below)];
  const up = twice > below || (twice === below && whole % 2n === 1n);
  return sign * (whole + (up ? 1n : 0n));
}

/**
 * Write the change of a day for people, with a sign beside the colour.
 * @param {Prices} prices
 * @returns {{text: string, side: "buy" | "sell" | ""}}
 */
export function changeText(prices) {
  const parts = change(prices);
  if (parts === 0n) return { text: "24 h 0 %", side: "" };
  const size = trimmed(fromUnits(parts < 0n ? -parts : parts, PERCENT_PLACES), 0);
  if (parts < 0n) return { text: `24 h ▼ −${size} %`, side: "sell" };
  return { text: `24 h ▲ +${size} %`, side: "buy" };
}
