// Questions and changes over HTTP. What was refused says why, in the server's words.

import { parseExact } from "../shared/amounts.js";

const TIMEOUT_MS = 30_000; // a change waits for another one of the model

/** The server's refusal, or that there was no answer. */
export class Refused extends Error {}

/**
 * Return the answer to a question; amounts are the digits as they were sent.
 * @param {string} path
 * @param {Record<string, string | number | undefined>} [parameters] Empty ones are left out.
 * @returns {Promise<any>}
 */
export function ask(path, parameters = {}) {
  const given = Object.entries(parameters).filter(
    ([, value]) => value !== undefined && value !== "",
  );
  const query = new URLSearchParams(given.map(([name, value]) => [name, String(value)]));
  return answered(given.length ? `.${path}?${query}` : `.${path}`, {});
}

/**
 * Make a change, and return what was done.
 * @param {string} path
 * @param {Record<string, unknown>} body
 * @returns {Promise<any>}
 */
export function change(path, body) {
  return answered(`.${path}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
}

/**
 * @param {string} url
 * @param {RequestInit} options
 */
async function answered(url, options) {
  let response;
  let text;
  try {
    response = await fetch(url, { ...options, signal: AbortSignal.timeout(TIMEOUT_MS) });
    text = await response.text();
  } catch (error) {
    throw new Refused(`The desk does not answer (${error}). Look what was done before again.`);
  }
  let told;
  try {
    told = parseExact(text);
  } catch {
    throw new Refused(`The desk answered ${response.status} with what is no JSON.`);
  }
  if (!response.ok) throw new Refused(told.detail ?? told.title ?? String(response.status));
  return told;
}
