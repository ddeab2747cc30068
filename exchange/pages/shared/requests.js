// One request over HTTP: signed if somebody is logged in, with a bound on its time, and amounts as
// they were sent.

import { parseExact } from "./amounts.js";
import { proofOf, setClock } from "./door.js";

const WRONG_CLOCK = "signature.clock";

/** What was refused, in the server's words. */
export class Refused extends Error {
  /** @param {any} problem @param {number} status */
  constructor(problem, status) {
    super(problem?.detail || problem?.title || `The answer was ${status}, and told nothing.`);
    this.problem = problem;
  }
}

/**
 * @typedef {{status: number, ok: boolean, headers: Headers, body: any}} Answer
 *   The body is null if it is no JSON.
 */

/**
 * Return a whole answer, whatever its status.
 * @param {string} url
 * @param {RequestInit} options
 * @param {number} timeoutMs
 * @returns {Promise<Answer>}
 * @throws {Error} There was none: no connection, no end within the time, or JSON that is cut off.
 */
export async function request(url, options, timeoutMs) {
  const answer = await once(url, options, timeoutMs);
  if (answer.status !== 401 || answer.body?.code !== WRONG_CLOCK) return answer;
  setClock(answer.body.unix_ms); // this machine's clock is wrong: it is told the right time
  return once(url, options, timeoutMs);
}

/**
 * @param {string} url
 * @param {RequestInit} options
 * @param {number} timeoutMs
 * @returns {Promise<Answer>}
 */
async function once(url, options, timeoutMs) {
  const whole = new URL(url, document.baseURI);
  const headers = new Headers(options.headers);
  for (const [name, value] of Object.entries(await proofOf(whole, options)))
    headers.set(name, value);
  const signal = AbortSignal.timeout(timeoutMs);
  const response = await fetch(whole, { ...options, headers, signal });
  const text = await response.text();
  const isJson = /[/+]json\b/.test(response.headers.get("content-type") ?? "");
  const { status, ok } = response;
  return { status, ok, headers: response.headers, body: isJson ? parseExact(text) : null };
}

/**
 * Return an address with a query; what is undefined or empty is left out.
 * @param {string} path
 * @param {Record<string, string | number | undefined>} parameters
 */
export function withQuery(path, parameters) {
  const given = Object.entries(parameters).filter(
    ([, value]) => value !== undefined && value !== "",
  );
  const query = new URLSearchParams(given.map(([name, value]) => [name, String(value)]));
  return given.length ? `${path}?${query}` : path;
}
