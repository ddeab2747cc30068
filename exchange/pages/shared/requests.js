// One request over HTTP: with a bound on its time, and amounts as they were sent.

import { parseExact } from "./amounts.js";

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
  const response = await fetch(url, { ...options, signal: AbortSignal.timeout(timeoutMs) });
  const text = await response.text();
  const isJson = /[/+]json\b/.test(response.headers.get("content-type") ?? "");
  const { status, ok, headers } = response;
  return { status, ok, headers, body: isJson ? parseExact(text) : null };
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
