// Who writes each shard, who stands by, and who took over when.

import { element } from "../../shared/dom.js";
import { tone } from "../state/advice.js";
import { takeOversOf } from "../state/takeovers.js";
import { commandRates, commitTimes } from "../state/trends.js";
import { figure, moment, tableOf, toned } from "./cells.js";
import { link } from "./links.js";
import { spark } from "./spark.js";

const HEADINGS = [
  "shard",
  "matcher",
  "epoch",
  "standbys",
  "head",
  "commands/s",
  "commands/s, 15 minutes",
  "commit ms",
  "commit ms, 15 minutes",
  "offset",
  "commands not decided yet",
  "snapshot at",
  "published",
];

/** @param {{now: number | null, mean: number | null}} pace Now: when it was known last. */
function told({ now, mean }) {
  return now === null ? "?" : `${now.toFixed(1)} now, ${(mean ?? 0).toFixed(1)} mean`;
}

/** @param {Element} root */
export function mount(root) {
  const shards = tableOf("Shards", HEADINGS);
  const takeovers = tableOf("Take-overs: the first batch of each epoch", [
    "shard",
    "epoch",
    "first batch ends at",
    "when",
  ]);
  const crashed = element(
    "p",
    { class: "quiet" },
    "A command that crashed a matcher again and again is put aside: ",
    link("log", { type: "CommandQuarantined" }, "those that were"),
    ". `exchange retry-quarantined SHARD:OFFSET` has it decided once the cause is mended.",
  );
  root.append(shards.table, takeovers.table, crashed);

  /** @param {any} state */
  return function draw({ seen }) {
    shards.draw(
      (seen.logs ?? []).map((/** @type {any} */ one) => {
        const byGateway = (seen.shards ?? []).find(
          (/** @type {any} */ other) => other.shard === one.shard,
        );
        const is = !one.matcher
          ? "none"
          : byGateway?.matcher === "unhealthy"
            ? "unhealthy"
            : "running";
        const pace = commandRates(seen.trends, one.shard);
        const commits = commitTimes(seen.trends, one.shard);
        return {
          key: String(one.shard),
          cells: [
            String(one.shard),
            toned(is, tone(is)),
            figure(one.epoch),
            one.standbys ? figure(one.standbys) : "none",
            figure(one.position),
            told(pace),
            spark(pace.each, `commands a second on shard ${one.shard}: ${told(pace)}`),
            told(commits),
            spark(commits.each, `milliseconds of a commit on shard ${one.shard}: ${told(commits)}`),
            figure(one.next_offset),
            figure(byGateway?.undecided),
            one.snapshot_failure ?? figure(one.snapshot_position),
            one.publishing_failure ?? figure(one.published),
          ],
        };
      }),
    );
    takeovers.draw(
      takeOversOf(seen.logs ?? [], seen.takeovers ?? []).map((one) => ({
        key: `${one.shard} ${one.epoch}`,
        cells: [
          String(one.shard),
          figure(one.epoch),
          one.position === null ? "nothing decided yet" : figure(one.position),
          moment(one.at),
        ],
      })),
    );
  };
}
