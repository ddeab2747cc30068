// Who changed what, when and why; and the events that are passed over, for ever.

import { moment, moved, tableOf } from "./cells.js";

/** @param {Element} root */
export function mount(root) {
  const skips = tableOf("Events that definitions pass over", [
    "read model",
    "event",
    "who",
    "when",
    "why",
  ]);
  const rows = tableOf("The newest changes", [
    "when",
    "who",
    "what",
    "read model",
    "generation",
    "why",
  ]);
  root.append(skips.table, rows.table);

  /** @param {any} state */
  return function draw({ seen }) {
    const passed = seen.skips ?? [];
    skips.draw(
      passed.map((/** @type {any} */ one) => ({
        key: `${one.projection} ${one.fingerprint} ${one.shard}:${one.position}`,
        cells: [
          one.projection,
          `${one.shard}:${one.position}`,
          one.skipped_by,
          moment(one.skipped_at),
          one.reason,
        ],
      })),
    );
    if (!passed.length) skips.clear();
    rows.draw(
      (seen.operations ?? []).map((/** @type {any} */ one) => ({
        key: String(one.id),
        cells: [
          moment(one.at),
          one.operator,
          one.action,
          one.projection,
          moved(one),
          one.reason ?? "",
        ],
      })),
    );
  };
}
