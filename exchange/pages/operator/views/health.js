// Health, row by row, each with what to do.

import { element, setText } from "../../shared/dom.js";
import { healthRows, tone } from "../state/advice.js";
import { sized, tableOf, toned } from "./cells.js";

/** @param {Element} root */
export function mount(root) {
  const rows = tableOf("As a gateway sees it", ["what", "state", "what to do"]);
  const problems = element("p", { class: "bad", role: "alert" });
  const stores = element("p", { class: "quiet" });
  root.append(problems, rows.table, stores);

  /** @param {any} state */
  return function draw({ seen }) {
    setText(problems, seen.problems.join(" "));
    rows.draw(
      healthRows(seen).map((row) => ({
        key: row.key,
        cells: [row.name, toned(row.is, tone(row.is)), row.todo],
      })),
    );
    const parts = [];
    if (seen.disk)
      parts.push(
        `PostgreSQL ${sized(seen.disk.database_bytes)}, of it the log ${sized(seen.disk.log_bytes)}`,
      );
    if (seen.memory) parts.push(`Redis ${sized(seen.memory.used_bytes)}`);
    else if (seen.disk) parts.push("Redis does not answer");
    setText(stores, parts.join("; "));
  };
}
