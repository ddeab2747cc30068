// Questions and changes over HTTP. What was refused says why, in the server's words.

import { Refused, request, withQuery } from "../shared/requests.js";

const TIMEOUT_MS = 30_000; // a change waits for another one of the model

/**
 * Return the answer to a question; amounts are the digits as they were sent.
 * @param {string} path
 * @param {Record<string, string | number | undefined>} [parameters] Empty ones are left out.
 * @returns {Promise<any>}
 */
export function ask(path, parameters = {}) {
  return answered(withQuery(`.${path}`, parameters), {});
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
  let answer;
  try {
    answer = await request(url, options, TIMEOUT_MS);
  } catch (error) {
    const again = options.method === "POST" ? " Look what was done before you do it again." : "";
    throw new Error(`The desk does not answer (${/** @type {Error} */ (error).message}).${again}`);
  }
  if (!answer.ok || answer.body === null) throw new Refused(answer.body, answer.status);
  return answer.body;
}
