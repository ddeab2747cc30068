// An instrument as the page needs it: its scales, and its steps in units.

import { fromUnits, grouped, toUnits, trimmed } from "../shared/amounts.js";

/**
 * @typedef {object} Instrument
 * @property {string} name
 * @property {string} base
 * @property {string} quote
 * @property {number} priceScale Decimal places of a price.
 * @property {number} quantityScale Decimal places of a quantity.
 * @property {bigint} tick The price step in units of 10^-priceScale.
 * @property {bigint} lot The quantity step in units of 10^-quantityScale.
 * @property {number} shard Whose log has its events.
 */

/**
 * @param {any} told As `GET /instruments` tells it.
 * @returns {Instrument}
 */
export function instrumentOf(told) {
  return {
    name: told.instrument,
    base: told.base,
    quote: told.quote,
    priceScale: told.price_scale,
    quantityScale: told.quantity_scale,
    tick: toUnits(told.tick_size, told.price_scale),
    lot: toUnits(told.lot_size, told.quantity_scale),
    shard: told.shard,
  };
}

const PLACES = 3; // of a quantity, which may have a dozen that are zeros

/**
 * Write a price for people.
 * @param {bigint} units
 * @param {Instrument} instrument
 */
export function priceText(units, instrument) {
  return grouped(fromUnits(units, instrument.priceScale));
}

/**
 * Write a quantity for people: exactly, without most of the zeros at its end.
 * @param {bigint} units
 * @param {Instrument} instrument
 */
export function quantityText(units, instrument) {
  return grouped(trimmed(fromUnits(units, instrument.quantityScale), PLACES));
}

/**
 * Write a quantity within a sentence: exactly, without the zeros at its end.
 * @param {bigint} units
 * @param {Instrument} instrument
 */
export function amountText(units, instrument) {
  return grouped(trimmed(fromUnits(units, instrument.quantityScale), 0));
}
