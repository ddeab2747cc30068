// What an answer says of a command: known, or not. Pure.
//
// Known is only what cannot change any more. Whatever else comes (no answer, half an answer, a
// proxy's page, "unknown") leaves the command as it was: it may have taken effect.

/**
 * @typedef {{known: true, done: boolean, body: any, detail: string}} Known
 *   `done`: it took effect, and `body` is the answer; otherwise nothing was done, and `detail` says why.
 * @typedef {{known: false, says: "pending" | "unknown", location: string, detail: string,
 *   pauseMs: number}} NotKnown
 */

/**
 * @param {number} status 0 if no answer came.
 * @param {any} body What was JSON in the answer.
 * @param {{what: string, location: string, inDoubt: boolean}} command
 * @param {string} location Of a 202.
 * @param {number} pauseMs How long the gateway asks to wait.
 * @returns {Known | NotKnown}
 */
export function outcomeOf(status, body, command, location, pauseMs) {
  const asked = command.location; // the answer is of a question, not of a try
  if (status === 202) return waits(location || asked, pauseMs);
  if (body === null || typeof body !== "object") return unknown("No answer came.", asked, pauseMs);
  if (status === 200 && body.status === "pending") return waits(asked, pauseMs);
  if (status === 200 && body.status === "refused") return refused(body.problem);
  if (status === 200 && body.status === "lost") return unknown(detailOf(body.problem), "", 0);
  if (body.order?.status === "rejected") return rejected(body.order);
  if (status === 200 || status === 201) return { known: true, done: true, body, detail: "" };
  const detail = detailOf(body);
  // Whoever logs in again is told what became of it.
  if (status === 401) return unknown(detail, asked, pauseMs);
  // A question about a command or an order that is not there: the key tells more.
  if (status === 404 && body.code === "command.not_found") return unknown(detail, "", pauseMs);
  if (status === 404 && body.code === "order.not_found" && command.what === "place")
    return unknown("It is not in the market so far.", "", pauseMs);
  // This try did nothing. An earlier one may have arrived all the same.
  if (body.outcome === "none" || status === 429)
    return command.inDoubt ? unknown(detail, asked, pauseMs) : refused(body);
  const isFinal = (status >= 400 && status < 500 && status !== 408) || isDecided(body);
  return isFinal && typeof body.code === "string" ? refused(body) : unknown(detail, asked, pauseMs);
}

/** @param {string} location @param {number} pauseMs @returns {NotKnown} */
function waits(location, pauseMs) {
  const detail = "The exchange has it and has not decided it yet.";
  return { known: false, says: "pending", location, detail, pauseMs };
}

/** @param {string} detail @param {string} location @param {number} pauseMs @returns {NotKnown} */
export function unknown(detail, location, pauseMs) {
  return { known: false, says: "unknown", location, detail, pauseMs };
}

/** @param {any} problem @returns {Known} */
function refused(problem) {
  return { known: true, done: false, body: problem, detail: detailOf(problem) };
}

/** @param {any} order @returns {Known} */
function rejected(order) {
  return { known: true, done: false, body: { order }, detail: `Refused: ${order.reason}` };
}

/** @param {any} problem */
function isDecided(problem) {
  return problem.code === "command.unreadable" || problem.code === "command.quarantined";
}

/** @param {any} problem */
function detailOf(problem) {
  const { detail, title } = problem ?? {};
  const text = typeof detail === "string" && detail ? detail : title;
  return typeof text === "string" ? text : "The answer cannot be read.";
}
