// Questions over HTTP, asked again while the exchange says that it cannot answer yet.

import { Refused, request, withQuery } from "../shared/requests.js";

const AGAIN_FIRST_MS = 300;
const AGAIN_MAX_MS = 5_000;
const TIMEOUT_MS = 10_000;

/**
 * Return the answer to a GET. A 429, a 503 and a broken connection are asked again, for ever and
 * ever more slowly: the page has nothing to show without it, and its line says why.
 * @param {string} path
 * @param {Record<string, string | number>} [parameters]
 * @returns {Promise<any>}
 * @throws {Refused} Asking again would not help.
 */
export async function ask(path, parameters = {}) {
  for (let waitMs = AGAIN_FIRST_MS; ; waitMs = Math.min(AGAIN_MAX_MS, 2 * waitMs)) {
    const answer = await once(withQuery(path, parameters));
    if (answer !== null) return answer;
    await new Promise((done) => setTimeout(done, waitMs * (0.5 + Math.random() / 2)));
  }
}

/**
 * @param {string} url
 * @returns {Promise<any>} The answer, null if it may be another one later.
 */
async function once(url) {
  let answer;
  try {
    answer = await request(url, {}, TIMEOUT_MS);
  } catch {
    return null;
  }
  if (answer.body === null || answer.status === 503 || answer.status === 429) return null;
  if (answer.ok) return answer.body;
  throw new Refused(answer.body, answer.status);
}
