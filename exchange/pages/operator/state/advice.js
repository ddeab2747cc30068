// What a state means, and what to do: the short form of "When something is wrong" in
// docs/operations.md, whose headings are named.

const OF_CHECKS = {
  kafka:
    "Kafka does not answer: orders are refused. Bring it back (docs/operations.md, KafkaAway).",
  postgres: "PostgreSQL does not answer: nothing is decided. Bring it back (PostgresAway).",
  redis:
    "Redis does not answer: orders are taken, book and ticker are not shown. Bring it back, empty or not (RedisAway).",
};

const OF_MODELS = {
  lagging:
    "It is behind the log and comes nearer: wait. If it does not: is `exchange projector` running (ProjectionLagging)?",
  stuck:
    "The log grows and it does not move: look at the projector's log and its store (ProjectionStuck).",
  failed: "It stopped at an event: see it below, mend the cause, then Retry (ProjectionFailed).",
  paused: "Somebody paused it: Resume it below (ProjectionPaused).",
  missing: "Nothing is live: is `exchange projector` running (ProjectionMissing)?",
};

/**
 * Return a row for everything that a gateway checks: its name, its state, and what to do.
 * @param {any} state As `/state` tells it.
 * @returns {{key: string, name: string, is: string, todo: string, see: string}[]} `see` is the
 *   part of the page that has more.
 */
export function healthRows(state) {
  if (state.status === undefined)
    return [
      {
        key: "gateway",
        name: "gateway",
        is: "away",
        todo: "No gateway answers the desk, so clients may not be served: is `exchange gateway` running (GatewayDown)? What the stores say is below.",
        see: "",
      },
    ];
  const rows = Object.entries(state.checks ?? {}).map(([name, is]) => ({
    key: `check ${name}`,
    name,
    is: String(is),
    todo:
      is === "healthy"
        ? ""
        : (OF_CHECKS[/** @type {"kafka"} */ (name)] ??
          "docs/operations.md, When something is wrong"),
    see: "",
  }));
  for (const one of state.projections ?? [])
    rows.push({
      key: `model ${one.projection}`,
      name: `read model ${one.projection}`,
      is: one.state,
      todo: one.state === "healthy" ? "" : (OF_MODELS[/** @type {"stuck"} */ (one.state)] ?? ""),
      see: one.state === "healthy" ? "" : one.state === "failed" ? "failures" : "models",
    });
  for (const one of state.shards ?? []) {
    rows.push({
      key: `matcher ${one.shard}`,
      name: `matcher of shard ${one.shard}`,
      is: one.matcher,
      todo: ofMatcher(one),
      see: one.matcher === "unhealthy" ? "shards" : "",
    });
    if (one.publishing !== "unknown")
      rows.push({
        key: `publishing ${one.shard}`,
        name: `publishing of shard ${one.shard}`,
        is: one.publishing,
        todo:
          one.publishing === "healthy"
            ? ""
            : "Readers of the topic of events wait: is `exchange publisher` running (PublishingStopped)?",
        see: one.publishing === "healthy" ? "" : "shards",
      });
  }
  return rows;
}

/** @param {any} one */
function ofMatcher(one) {
  if (one.matcher !== "unhealthy") return "";
  if ((one.undecided ?? 0) < 0)
    return "Kafka ends before what was decided: adopt the topic, or bring the old one back (KafkaLostCommands).";
  return "Commands wait and none is decided: look at the matcher's log (MatcherStalled).";
}

/**
 * Return how a state is coloured; its word stands beside it.
 * @param {string} is
 */
export function tone(is) {
  if (["healthy", "live", "running"].includes(is)) return "well";
  if (["degraded", "lagging", "paused", "unknown"].includes(is)) return "careful";
  if (["unhealthy", "stuck", "failed", "missing", "stopped", "none", "away"].includes(is))
    return "bad";
  return "quiet";
}
