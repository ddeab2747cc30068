// What can be done to a generation now, in words what will be then, and where it is seen.

/**
 * @typedef {{label: string, projection: string, action: string, will: string,
 *   body: Record<string, unknown>, needsReason?: boolean, hasCost?: boolean, isLong?: boolean}} Action
 *   What is long begins when it is confirmed, and the page tells how far it is.
 */

/** What happens next, and where on this page. */
export const NEXT = {
  switch: "If it was wrong: Roll back, in the row of the generation that is kept.",
  rollback: "To go forward again: Roll back, in the row of the other generation.",
  pause: "To go on: Resume, in its row.",
  resume: "Its lag falls to 0.",
  retry: "If it stops again, that is told under What stopped.",
  skip: "Events that are passed over are listed under What was changed.",
  retire: "Its row is gone; its rows are deleted within a minute.",
};

/**
 * Return the actions on a generation.
 * @param {any} one A generation as `/state` tells it.
 * @param {any[]} all All generations.
 * @param {Record<string, string>} [readers] What readers have of a live one that stands still.
 * @returns {Action[]}
 */
export function actionsOn(one, all, readers = {}) {
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
      `Build a new generation of ${one.projection} beside ${name}, compare it with the log, and, if all its rows are as the log gives them, let queries read it. Meanwhile they read ${name}, which is kept afterwards, so that you can go back. Its steps are told in a row of its own.`,
      {},
      { hasCost: true, isLong: true },
    );
  if (one.state !== "building" && one.state !== "failed")
    add(
      "Verify",
      "verify",
      `Compare every row of ${name} with the log. No row is changed.${one.state === "catching-up" ? " Then queries may be switched to it." : ""} How far it is, and what was found, is told above the table of read models.`,
      generation,
      { isLong: true },
    );
  if (one.state === "catching-up" && live && one.verified)
    add(
      "Switch",
      "switch",
      `Queries go from ${told(live)} to ${name}, verified at ${one.verified}. The former one is kept, so that you can go back.`,
      generation,
    );
  if (one.state === "kept" && live)
    add(
      "Roll back",
      "rollback",
      `Queries go back from ${told(live)} to ${name}, which was kept up all the time. Nothing is lost.`,
    );
  if (one.state === "paused")
    add("Resume", "resume", `${sentence(name)} is kept up again.`, generation);
  else if (one.state !== "failed")
    add(
      "Pause",
      "pause",
      `${sentence(name)} is not kept up any more, until somebody presses Resume. ${one.live ? (readers[one.projection] ?? "") : ""}`.trim(),
      generation,
    );
  if (one.state === "failed") {
    add(
      "Retry",
      "retry",
      `${sentence(name)} is tried again from ${one.failed_at ?? "where it stopped"}, and goes on if it can. Mend the cause first: else it stops there again. Nothing is lost by trying.`,
      generation,
    );
    if (one.failed_at)
      add(
        "Skip",
        "skip",
        `${one.projection} goes on without event ${one.failed_at}, for ever: its figures lack what the event did, and each answer says so. The log keeps the event. Only a later definition of ${one.projection} may count it again.`,
        { at: one.failed_at },
        { needsReason: true },
      );
  }
  if (!one.live)
    add(
      "Retire",
      "retire",
      `${sentence(name)} is given up and its rows are deleted. There is no way back to it.`,
      generation,
    );
  return found;
}

/** @param {string} text */
function sentence(text) {
  return text[0].toUpperCase() + text.slice(1);
}

/** @param {any} one */
function told(one) {
  const at = Object.entries(one.positions).map(([shard, position]) => `${shard}:${position}`);
  const where = at.length ? `position ${at.join(", ")}, shard:event` : "no position yet";
  return `generation ${one.generation} (at ${where})`;
}
