// What the line at the foot says: whether what is shown is the present, and how that is known.

export const STALE_MS = 2_500; // two heartbeats and a half
const LATENCIES_KEPT = 1_000;
const AWAY_ATTEMPTS = 4; // in a row that failed, which take some two seconds

/**
 * @typedef {"connecting" | "resuming" | "live" | "stale" | "away"} Word
 * @typedef {object} Line
 * @property {Word} word
 * @property {string} why Of a state that is not live.
 * @property {number} sequence Of the last message.
 * @property {number | null} heardMs When the last message came, by this machine's clock.
 * @property {number | null} beatMs When the gateway last said that everything had been sent.
 * @property {number | null} pingMs
 * @property {number} reconnects How often the connection was lost, however many attempts it took.
 * @property {number} resumed Messages that a former connection would have brought.
 * @property {number} gaps Messages that came after one that did not; it must be 0.
 * @property {number[]} latencies Milliseconds from sending an order to its answer, newest last.
 */

/** @type {Record<number, string>} */
const REASONS = {
  1006: "the connection broke",
  1008: "the gateway refused what this page sent",
  1009: "a message was too long",
  1011: "the gateway made a mistake",
  1012: "the gateway restarts",
  1013: "this page read too slowly, or a store is away",
};

/** @type {Line} */
export const BEGIN = {
  word: "connecting",
  why: "connecting",
  sequence: 0,
  heardMs: null,
  beatMs: null,
  pingMs: null,
  reconnects: 0,
  resumed: 0,
  gaps: 0,
  latencies: [],
};

/**
 * Return the line at a time: what is live is stale when nothing says any more that all was sent.
 * @param {Line} line
 * @param {number} nowMs
 * @returns {Line}
 */
export function at(line, nowMs) {
  if (line.word !== "live" || line.heardMs === null || line.beatMs === null) return line;
  if (nowMs - line.beatMs <= STALE_MS) return line;
  const seconds = (/** @type {number} */ ms) => ((nowMs - ms) / 1000).toFixed(1);
  const why =
    nowMs - line.heardMs > STALE_MS
      ? `nothing was heard for ${seconds(line.heardMs)} s`
      : `what comes is not all there is, for ${seconds(line.beatMs)} s`;
  return { ...line, word: "stale", why };
}

/**
 * Return the line after a connection ended, or could not be made.
 * @param {Line} line
 * @param {number} code Of the WebSocket, 0 if this page ended it.
 * @param {string} reason
 * @param {number} attempts That failed in a row.
 * @param {boolean} isOnline Whether this machine has a network.
 * @returns {Line}
 */
export function ended(line, code, reason, attempts, isOnline) {
  const reconnects = line.reconnects + (attempts === 1 ? 1 : 0); // attempts in a row are one
  if (!isOnline) return { ...line, word: "away", why: "this machine has no network", reconnects };
  const word = attempts > AWAY_ATTEMPTS ? "away" : "resuming";
  return { ...line, word, why: whyEnded(code, reason), reconnects };
}

/**
 * Return the line after an order was answered.
 * @param {Line} line
 * @param {number} latencyMs
 * @returns {Line}
 */
export function answered(line, latencyMs) {
  return { ...line, latencies: [...line.latencies, latencyMs].slice(-LATENCIES_KEPT) };
}

/**
 * Return a percentile of numbers, null if there are none.
 * @param {number[]} numbers
 * @param {number} share
 */
export function percentile(numbers, share) {
  if (numbers.length === 0) return null;
  const sorted = numbers.toSorted((one, other) => one - other);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
}

/**
 * Return in words why a connection ended.
 * @param {number} code Of the WebSocket, 0 if this page ended it.
 * @param {string} reason
 */
export function whyEnded(code, reason) {
  return REASONS[code] ?? (reason || `the connection ended (${code})`);
}
