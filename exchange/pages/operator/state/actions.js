// What can be done to a generation now, and in words what will be then.

/**
 * @typedef {{label: string, projection: string, action: string, will: string,
 *   body: Record<string, unknown>, needsReason?: boolean, hasCost?: boolean}} Action
 */

/**
 * Return the actions on a generation.
 * @param {any} one A generation as `/state` tells it.
 * @param {any[]} all All generations.
 * @returns {Action[]}
 */
export function actionsOn(one, all) {
  const mine = all.filter((other) => other.projection === one.projection);
  const live = mine.find((other) => other.live) ?? null;
  const isMaking = mine.some(
    (other) => !other.live && ["building", "catching-up"].includes(other.state),
  );
  const expect_live = live === null ? null : live.generation;
  /** @type {Action[]} */
  const found = [];
  /** @type {(label: string, action: string, will: string, more?: object, options?: object) => void} */
  const add = (label, action, will, more = {}, options = {}) =>
    found.push({
      label,
      projection: one.projection,
      action,
      will,
      body: { expect_live, ...more },
      ...options,
    });
  const generation = { generation: one.generation };
  const name = told(one);

  if (one.live && !isMaking)
    add(
      "Rebuild",
      "rebuild",
      `Build a new generation of ${one.projection} beside ${name}, compare it with the log, and let queries read it. ${name} is kept, so that you can go back.`,
      {},
      { hasCost: true },
    );
  if (one.state !== "building" && one.state !== "failed")
    add(
      "Verify",
      "verify",
      `Compare every row of ${name} with the log. Nothing is changed.`,
      generation,
    );
  if (one.state === "catching-up" && live)
    add(
      "Switch",
      "switch",
      `Queries go from ${told(live)} to ${name}, ${verified(one)}. ${told(live)} is kept.`,
      generation,
    );
  if (one.state === "kept" && live)
    add(
      "Roll back",
      "rollback",
      `Queries go back from ${told(live)} to ${name}, which was kept up all the time. Nothing is lost.`,
    );
  if (one.state === "paused") add("Resume", "resume", `${name} is kept up again.`, generation);
  else if (one.state !== "failed")
    add(
      "Pause",
      "pause",
      `${name} is not kept up any more${one.live ? "; queries read it as it stands" : ""}.`,
      generation,
    );
  if (one.state === "failed") {
    add(
      "Retry",
      "retry",
      `${name} is tried again from ${one.failed_at ?? "where it stopped"}.`,
      generation,
    );
    if (one.failed_at)
      add(
        "Skip",
        "skip",
        `The definition of ${name} passes over event ${one.failed_at}, for ever. Its answers say so, for ever.`,
        { at: one.failed_at },
        { needsReason: true },
      );
  }
  if (!one.live)
    add(
      "Retire",
      "retire",
      `${name} is given up and its rows are deleted. There is no way back to it.`,
      generation,
    );
  return found;
}

/** @param {any} one */
function told(one) {
  const at = Object.entries(one.positions).map(([shard, position]) => `${shard}:${position}`);
  return `generation ${one.generation} (at ${at.join(", ") || "nowhere"})`;
}

/** @param {any} one */
function verified(one) {
  return one.verified ? `verified at ${one.verified}` : "which was NOT compared with the log";
}
