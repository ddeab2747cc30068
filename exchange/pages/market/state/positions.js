// A client's positions, marked at the last price. Pure, in exact units.

import { fromUnits, toUnits } from "../../shared/amounts.js";

/** @typedef {import("../instrument.js").Instrument} Instrument */

/**
 * @typedef {object} Position As `GET /market/positions/{client_id}` tells it.
 * @property {string} instrument
 * @property {string | number} net_quantity
 * @property {string | number} total_cost
 * @property {string | number | null} avg_price
 * @property {string | number} realised_pnl
 * @property {string | number | null} mark_price
 * @property {string | number | null} unrealised_pnl
 */

/**
 * @typedef {object} Positions
 * @property {readonly Position[]} rows By instrument.
 * @property {boolean} isKnown
 */

/** @type {Positions} */
export const NONE = { rows: [], isKnown: false };

/**
 * @param {Positions} positions
 * @param {{type: "page", positions: Position[]}
 *   | {type: "marked", instrument: Instrument, price: string | number | null}} message
 * @returns {Positions}
 */
export function fold(positions, message) {
  switch (message.type) {
    case "page":
      return { rows: message.positions, isKnown: true };
    case "marked": {
      const { instrument, price } = message;
      if (price === null) return positions;
      const rows = positions.rows.map((row) =>
        row.instrument === instrument.name ? marked(row, instrument, price) : row,
      );
      return { ...positions, rows };
    }
    default:
      return positions;
  }
}

/**
 * @param {Position} position
 * @param {Instrument} instrument
 * @param {string | number} price
 * @returns {Position} With the profit or loss at that price, as the exchange reckons it.
 */
function marked(position, { priceScale, quantityScale }, price) {
  const scale = priceScale + quantityScale;
  const worth = toUnits(position.net_quantity, quantityScale) * toUnits(price, priceScale);
  const unrealised = worth - toUnits(position.total_cost, scale);
  return { ...position, mark_price: price, unrealised_pnl: fromUnits(unrealised, scale) };
}
