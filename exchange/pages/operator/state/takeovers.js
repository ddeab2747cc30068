// Who took a shard over, and when: also who has decided nothing since.

/**
 * @typedef {{shard: number, epoch: number, position: number | null, at: string | null}} TakeOver
 *   Where the first batch of the epoch ends, and when it was written; null if there is none yet.
 */

/**
 * Return the take-overs of all shards, newest first of each. One that wrote no batch yet left no
 * trace in the log, but the shard has its epoch.
 * @param {any[]} logs
 * @param {TakeOver[]} found As `/state` tells them.
 * @returns {TakeOver[]}
 */
export function takeOversOf(logs, found) {
  return logs.flatMap(({ shard, epoch }) => {
    const mine = found.filter((one) => one.shard === shard);
    const isSilent = epoch > (mine[0]?.epoch ?? 0);
    return isSilent ? [{ shard, epoch, position: null, at: null }, ...mine] : mine;
  });
}
