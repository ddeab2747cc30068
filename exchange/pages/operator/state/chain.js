// Which parts of the log a page of events is compared with its chain in, and what was found.

const SPAN_EVENTS_MAX = 1_000; // of one question to the desk

/**
 * @typedef {{shard: number, after: number, upTo: number, chain: string, places: string[]}} Span
 *   Events that were shown, and the chain that was told with the last of them.
 */

/**
 * Return spans that have all these events, as few as may be.
 * @param {any[]} events Of each shard in the order of its log.
 * @returns {Span[]}
 */
export function spansOf(events) {
  /** @type {Map<number, Span>} */
  const open = new Map();
  /** @type {Span[]} */
  const spans = [];
  for (const one of events) {
    let span = open.get(one.shard);
    if (!span || one.position > span.after + SPAN_EVENTS_MAX) {
      span = { shard: one.shard, after: one.position - 1, upTo: 0, chain: "", places: [] };
      open.set(one.shard, span);
      spans.push(span);
    }
    span.upTo = one.position;
    span.chain = one.chain;
    span.places.push(`${one.shard}:${one.position}`);
  }
  return spans;
}

/**
 * Return what is wrong with a span, "" if nothing is.
 * @param {Span} span
 * @param {{chain: string | null, failure: string | null}} found What the desk says of it.
 */
export function wrongOf(span, found) {
  if (found.failure) return found.failure;
  if (found.chain === span.chain) return "";
  return `What was shown up to ${span.shard}:${span.upTo} is not what the log has now.`;
}

/**
 * Tell what was compared.
 * @param {Span[]} spans
 */
export function toldOf(spans) {
  const parts = spans.map(
    (span) => `${span.shard}:${span.after + 1} to ${span.shard}:${span.upTo}`,
  );
  return `Chain verified: as the matcher wrote it, ${parts.join(", ")}.`;
}
