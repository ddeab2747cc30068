// A rebuild as its flow: build, catch up, verify, switch, keep.

/** @typedef {{name: string, is: "done" | "now" | "later", text: string}} Step */

const NAMES = ["build", "catch up", "verify", "switch", "keep the former"];
const AT = {
  reading: 0,
  indexing: 0,
  "catching-up": 1,
  "falling-behind": 1,
  verifying: 2,
  switching: 3,
};

/**
 * Return the steps of a generation that is being made; none if it is not.
 * @param {any} one A generation as `/state` tells it.
 * @returns {Step[]}
 */
export function flowOf(one) {
  const isMade = !one.live && ["building", "catching-up", "failed", "paused"].includes(one.state);
  if (!isMade) return [];
  const at = placeOf(one);
  return NAMES.map((name, index) => ({
    name,
    is: index < at ? "done" : index === at ? "now" : "later",
    text: index === at ? textOf(one) : tookOf(one, index),
  }));
}

/**
 * Tell how long a step took that is over.
 * @param {any} one
 * @param {number} index
 */
function tookOf(one, index) {
  const mine = Object.entries(one.build?.seconds ?? {}).filter(
    ([step]) => AT[/** @type {keyof typeof AT} */ (step)] === index,
  );
  const seconds = mine.reduce((sum, [, took]) => sum + Number(took), 0);
  return seconds > 0 ? `${seconds.toFixed(1)} s` : "";
}

/**
 * Say who wanted a generation that is being made, when and why.
 * @param {any} one
 * @param {any[]} operations Newest first.
 */
export function wantedBy(one, operations) {
  const begun = operations.find(
    (row) =>
      row.projection === one.projection &&
      row.to_generation === one.generation &&
      ["begin", "rebuild"].includes(row.action),
  );
  if (!begun) return one.begun_by ? `Begun by ${one.begun_by}.` : "";
  const why = begun.reason ? `: ${begun.reason}` : "";
  return `Begun by ${begun.operator} at ${begun.at.slice(11, 19)}Z${why}.`;
}

/** @param {any} one */
function placeOf(one) {
  if (one.state === "catching-up" && one.replaces === null) return one.verified ? 3 : 2;
  const step = one.build?.step;
  if (step === "done") return 3;
  return AT[/** @type {keyof typeof AT} */ (step)] ?? (one.state === "building" ? 0 : 1);
}

/** @param {any} one */
function textOf(one) {
  if (one.state === "failed") return `failed: ${one.failure}`;
  if (one.state === "paused") return "paused";
  if (one.state === "catching-up" && one.replaces === null)
    return one.verified ? `verified at ${one.verified}; waits for you` : "waits for you";
  const build = one.build;
  if (!build) return "waits for a builder";
  const parts = [build.step];
  if (build.wanted)
    parts.push(`${Math.floor((100 * Math.min(build.done, build.wanted)) / build.wanted)} %`);
  if (one.rate) parts.push(`${Math.round(one.rate).toLocaleString("en")} events/s`);
  if (one.left_s !== null) parts.push(`${Math.ceil(one.left_s)} s left`);
  if (one.falls_behind) parts.push("falls behind");
  if (build.silent_s > 10) parts.push(`nothing heard of it for ${Math.round(build.silent_s)} s`);
  return parts.join(", ");
}
