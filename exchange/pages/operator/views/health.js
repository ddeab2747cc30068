// Health, row by row, each with what to do.

import { element, setText } from "../../shared/dom.js";
import { healthRows, tone } from "../state/advice.js";
import { sized } from "../state/sizes.js";
import { tableOf, toned } from "./cells.js";

const SEEN = { failures: "What stopped", models: "Read models", shards: "Matchers" };

/** @param {{todo: string, see: string}} row */
function linked({ todo, see }) {
  const name = SEEN[/** @type {"models"} */ (see)];
  return element("span", {}, `${todo} `, element("a", { href: `#${see}` }, name));
}

/** @param {Element} root */
export function mount(root) {
  const rows = tableOf("What needs somebody", ["what", "state", "what to do"]);
  const problems = element("p", { class: "bad", role: "alert" });
  const stores = element("p", { class: "quiet" });
  const well = element("p");
  root.append(problems, rows.table, well, stores);

  /** @param {any} state */
  return function draw({ seen }) {
    setText(problems, seen.problems.join(" "));
    const all = healthRows(seen);
    const wrong = all.filter((row) => row.is !== "healthy");
    const names = all.filter((row) => row.is === "healthy").map((row) => row.name);
    setText(well, names.length ? `Healthy: ${names.join(", ")}.` : "");
    rows.draw(
      wrong.map((row) => ({
        key: row.key,
        cells: [row.name, toned(row.is, tone(row.is)), row.see ? linked(row) : row.todo],
      })),
    );
    if (!wrong.length) rows.clear();
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
