// Rows of what was answered at a moment, and of what differs between two.

import { comparable, differences } from "../state/books.js";
import { moment } from "./cells.js";

const SHOWN = 10; // levels that people read

/**
 * Return the rows of a side of a book.
 * @param {any[]} levels
 */
export function levels(levels) {
  return levels.slice(0, SHOWN).map(level);
}

/** @param {any} one */
function level(one) {
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
      ...comparable(side, first.book[side], second.book[side]),
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

/**
 * Tell what a position is in the log of its shard.
 * @param {number} shard
 * @param {number} position
 * @param {{before: number, ends: number | null, epoch: number | null, recorded_at: string | null}}
 *   around The batch there.
 */
export function whereOf(shard, position, around) {
  if (position === 0) return `Shard ${shard} before its first event.`;
  const batch = `batch ${around.before + 1} to ${around.ends}, of epoch ${around.epoch}`;
  const isEnd = around.ends === position;
  const seen = isEnd
    ? "its end"
    : "in the midst of it: a batch is written as a whole, so nobody was ever shown this moment";
  return `Shard ${shard} after event ${position}: ${batch}, written ${moment(around.recorded_at)}; ${seen}.`;
}
