// Rows of what was answered at a moment, and of what differs between two.

import { differences } from "../state/books.js";

/** @param {any} one */
export function level(one) {
  return {
    key: String(one.price),
    cells: [String(one.price), String(one.quantity), String(one.cumulative)],
  };
}

/** @param {any} one */
export function position(one) {
  const cells = [
    one.instrument,
    one.net_quantity,
    one.avg_price,
    one.realised_pnl,
    one.unrealised_pnl,
  ];
  return { key: one.instrument, cells: cells.map((cell) => String(cell ?? "")) };
}

/**
 * @param {{book: any, positions: any[]}} first
 * @param {{book: any, positions: any[]}} second
 */
export function between(first, second) {
  const parts = ["bids", "asks"].flatMap((side) =>
    differences(
      first.book[side],
      second.book[side],
      (row) => `${side.slice(0, -1)} ${row.price}`,
      (row) => String(row.quantity),
    ),
  );
  parts.push(
    ...differences(
      first.positions,
      second.positions,
      (row) => `position ${row.instrument}`,
      (row) => String(row.net_quantity),
    ),
  );
  return parts.map((row) => ({ key: row.key, cells: [row.key, row.before, row.after] }));
}
