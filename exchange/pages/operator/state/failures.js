// Generations that stopped: at which event, what readers have meanwhile, and what was tried.

import { actionsOn } from "./actions.js";

/**
 * @typedef {{key: string, name: string, at: string | null, failure: string, since: string,
 *   readers: string, tried: string, actions: import("./actions.js").Action[]}} Failed
 */

/**
 * Return the generations that failed.
 * @param {any} seen As `/state` tells it.
 * @returns {Failed[]}
 */
export function failuresOf(seen) {
  const all = seen.generations ?? [];
  return all
    .filter((/** @type {any} */ one) => one.state === "failed")
    .map((/** @type {any} */ one) => {
      const history = (seen.operations ?? []).filter(
        (/** @type {any} */ row) =>
          row.projection === one.projection && row.to_generation === one.generation,
      );
      const last = history.find((/** @type {any} */ row) => row.action === "failed");
      return {
        key: `${one.projection} ${one.generation}`,
        name: `Generation ${one.generation} of ${one.projection}`,
        at: one.failed_at,
        failure: one.failure ?? "",
        since: last?.at ?? "",
        readers: readersOf(one, all, seen.readers ?? {}),
        tried: triedOf(history),
        actions: seen.allows_changes
          ? actionsOn(one, all, seen.readers).filter((action) =>
              ["retry", "skip"].includes(action.action),
            )
          : [],
      };
    });
}

/**
 * @param {any} one
 * @param {any[]} all
 * @param {Record<string, string>} readers
 */
function readersOf(one, all, readers) {
  if (one.live)
    return `It is the live one and stands still. ${readers[one.projection] ?? ""}`.trim();
  const live = all.find((other) => other.projection === one.projection && other.live);
  return live
    ? `No query reads it: generation ${live.generation} is live, ${live.state === "failed" ? "which failed too" : "and goes on"}.`
    : "No query reads it.";
}

/**
 * Tell of tries that ended where it stands now: the retries between the two newest failures.
 * @param {any[]} history Newest first.
 */
function triedOf(history) {
  if (history[0]?.action !== "failed") return "";
  const retry = history.slice(1).find((row) => row.action !== "failed");
  return retry?.action === "retry"
    ? `${retry.operator} tried it again at ${retry.at.slice(11, 19)}Z, and it stopped once more.`
    : "";
}
