// Every generation of every read model: where it is, how fast, and what can be done to it.

import { element, setText } from "../../shared/dom.js";
import { actionsOn } from "../state/actions.js";
import { tone } from "../state/advice.js";
import { flowOf, wantedBy } from "../state/flow.js";
import { sized } from "../state/sizes.js";
import { rates } from "../state/trends.js";
import { figure, moment, moved, tableOf, toned } from "./cells.js";
import { builderLines } from "./lines.js";
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
  const newest = element("p", { role: "status" });
  root.append(note, newest, comparison, table.table);
  /** @type {Map<string, {key: string, cell: Element}>} */
  const kept = new Map();
  const lines = builderLines();

  /** @param {any} one @param {any} seen */
  function todo(one, seen) {
    const found = seen.allows_changes ? actionsOn(one, seen.generations, seen.readers) : [];
    const steps = flowOf(one);
    const by = steps.length ? wantedBy(one, seen.operations ?? []) : "";
    const key = JSON.stringify([found, steps, by, one.failure, one.changed]);
    const name = `${one.projection} ${one.generation}`;
    const said = lines(name, seen.build_lines?.[name] ?? [], steps.length > 0);
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
    if (by) cell.append(element("p", { class: "quiet" }, by));
    cell.append(said);
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
    const may = seen.allows_changes
      ? "A generation is one whole copy of a read model. Rebuild makes a new one from the log, beside the live one. Each button first says what it will do; nothing is done before you confirm it."
      : "This desk only shows: OPERATOR_ALLOW_CHANGES=yes, or exchange operator --allow-changes, starts one that may change read models, accounts and keys.";
    setText(note, may);
    setText(comparison, toldComparison(seen.comparison));
    setText(newest, newestOf(seen));
    const all = seen.generations ?? [];
    table.draw(
      all.map((/** @type {any} */ one) => {
        const name = `${one.projection} ${one.generation}`;
        const pace = rates(seen.trends, name);
        const state =
          pace.isStill && one.state !== "paused" && one.state !== "failed" ? "stuck" : one.state;
        const word = one.live && state !== "live" ? `live, ${state}` : state;
        const lag = seen.trends.generations[name]?.lag ?? [];
        const behind = one.state === "building" ? "" : behindOf(one);
        return {
          key: name,
          cells: [
            one.projection,
            String(one.generation),
            toned(word, tone(state)),
            one.lag_events === null ? "?" : summed(one.positions),
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

/** @param {any} one */
function behindOf(one) {
  if (!one.lag_events) return figure(one.lag_events);
  return `${figure(one.lag_events)} events, ${one.lag_seconds.toFixed(1)} s`;
}

/** @param {any} seen */
function newestOf(seen) {
  const one = (seen.operations ?? [])[0];
  if (!one) return "";
  const why = one.reason ? `: ${one.reason}` : "";
  const what = `${one.action} ${one.projection} ${moved(one)}`.trim();
  return `Newest change, ${moment(one.at)}: ${what}, by ${one.operator}${why}.`;
}

/** @param {Record<string, number>} positions */
function summed(positions) {
  return figure(Object.values(positions).reduce((sum, at) => sum + at, 0));
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
