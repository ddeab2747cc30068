// How far each channel was heard, and whether a message is news, a repetition, or after a gap.

/**
 * @typedef {Readonly<Record<string, number>>} Seen The last sequence of each channel that has begun.
 * @typedef {"news" | "repeated" | "gap"} Verdict
 */

const RESUMED = ["trades", "orders"]; // book and ticker begin anew

/**
 * Tell what a message of a channel is to somebody who has seen so much.
 * @param {Seen} seen
 * @param {{type: string, kind?: string, sequence: number, prev_sequence?: number}} message
 * @returns {Verdict}
 */
export function verdict(seen, message) {
  const before = seen[message.type];
  if (before === undefined || message.kind === "snapshot") return "news"; // the channel begins
  if ((message.prev_sequence ?? 0) > before) return "gap";
  return message.sequence <= before ? "repeated" : "news";
}

/**
 * @param {Seen} seen
 * @param {{type: string, sequence: number}} message
 * @returns {Seen}
 */
export function after(seen, message) {
  return { ...seen, [message.type]: message.sequence };
}

/**
 * Return how far the channels were heard after a heartbeat: everything up to it was sent.
 * @param {Seen} seen
 * @param {number} sequence
 * @returns {Seen}
 */
export function beaten(seen, sequence) {
  const entries = Object.entries(seen);
  return Object.fromEntries(entries.map(([name, last]) => [name, Math.max(last, sequence)]));
}

/**
 * Return what of it is still worth something on another connection.
 * @param {Seen} seen
 * @returns {Seen}
 */
export function kept(seen) {
  return Object.fromEntries(Object.entries(seen).filter(([name]) => isResumed(name)));
}

/** @param {string} channel */
export function isResumed(channel) {
  return RESUMED.includes(channel);
}
