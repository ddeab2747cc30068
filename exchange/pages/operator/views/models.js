// Every generation of every read model: where it is, how fast, and what can be done to it.

import { element } from "../../shared/dom.js";
import { actionsOn } from "../state/actions.js";
import { tone } from "../state/advice.js";
import { flowOf } from "../state/flow.js";
import { rates } from "../state/trends.js";
import { figure, sized, tableOf, toned } from "./cells.js";
import { spark } from "./spark.js";

const HEADINGS = [
  "read model",
  "generation",
  "state",
  "position",
  "lag",
  "rate",
  "lag, 15 minutes",
  "size",
  "what to do",
];

/**
 * @param {Element} root
 * @param {{act: (action: import("../state/actions.js").Action) => void}} actions
 */
export function mount(root, actions) {
  const table = tableOf("Generations; queries read the live ones", HEADINGS);
  const note = element("p", { class: "quiet" });
  const comparison = element("p", { role: "status" });
  root.append(note, comparison, table.table);
  /** @type {Map<string, {key: string, cell: Element}>} */
  const kept = new Map();

  /** @param {any} one @param {any} seen */
  function todo(one, seen) {
    const found = seen.allows_changes ? actionsOn(one, seen.generations, seen.readers) : [];
    const steps = flowOf(one);
    const key = JSON.stringify([found, steps, one.failure, one.changed]);
    const name = `${one.projection} ${one.generation}`;
    const former = kept.get(name);
    if (former?.key === key) return former.cell;
    const cell = element("div", {});
    if (steps.length)
      cell.append(
        element(
          "ol",
          { class: "flow" },
          ...steps.map((step) =>
            element(
              "li",
              { "aria-current": step.is === "now" ? "step" : false },
              `${{ done: "✓", now: "▶", later: "·" }[step.is]} ${step.name}${step.text ? `: ${step.text}` : ""}`,
            ),
          ),
        ),
      );
    if (one.failure && !steps.length) cell.append(element("p", { class: "bad" }, one.failure));
    if (one.changed && one.live)
      cell.append(element("p", { class: "careful" }, "the code has changed since: rebuild"));
    cell.append(
      element(
        "div",
        { class: "buttons" },
        ...found.map((action) =>
          element(
            "button",
            {
              type: "button",
              "aria-label": `${action.label} ${name}`,
              click: () => actions.act(action),
            },
            action.label,
          ),
        ),
      ),
    );
    kept.set(name, { key, cell });
    return cell;
  }

  /** @param {any} state */
  return function draw({ seen }) {
    note.textContent = seen.allows_changes
      ? "Each button says what it will do before it does it."
      : "This desk only shows. `exchange operator --allow-changes` starts one that may change read models.";
    comparison.textContent = toldComparison(seen.comparison);
    const all = seen.generations ?? [];
    table.draw(
      all.map((/** @type {any} */ one) => {
        const name = `${one.projection} ${one.generation}`;
        const pace = rates(seen.trends, name);
        const state =
          pace.isStill && one.state !== "paused" && one.state !== "failed" ? "stuck" : one.state;
        const word = one.live && state !== "live" ? `live, ${state}` : state;
        const lag = seen.trends.generations[name]?.lag ?? [];
        const behind = one.lag_events
          ? `${figure(one.lag_events)} events, ${one.lag_seconds.toFixed(1)} s`
          : figure(one.lag_events);
        return {
          key: name,
          cells: [
            one.projection,
            String(one.generation),
            toned(word, tone(state)),
            figure(
              /** @type {number[]} */ (Object.values(one.positions)).reduce(
                (sum, at) => sum + at,
                0,
              ),
            ),
            behind,
            told(pace),
            spark(lag, `lag of ${name}: now ${behind}`),
            sized(one.size_bytes),
            todo(one, seen),
          ],
        };
      }),
    );
  };
}

/** @param {{now: number | null, mean: number | null}} pace */
function told(pace) {
  if (pace.now === null) return "";
  return `${figure(Math.round(pace.now))}/s now, ${figure(Math.round(pace.mean ?? 0))}/s mean`;
}

/** @param {any} one */
function toldComparison(one) {
  if (!one) return "";
  const name = `${one.projection} ${one.generation}`;
  if (!one.ended) return `Comparing ${name} with the log: ${one.lines.at(-1) ?? "it begins"}`;
  return `${name} was compared. ${one.ended.message}`;
}
