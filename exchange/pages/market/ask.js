// Questions over HTTP, asked again while the exchange says that it cannot answer yet.

import { parseExact } from "../shared/amounts.js";

const AGAIN_FIRST_MS = 300;
const AGAIN_MAX_MS = 5_000;
const TIMEOUT_MS = 10_000;

/** A question that has no answer, with the exchange's reason. */
export class Refused extends Error {
  /** @param {any} problem */
  constructor(problem) {
    super(problem.detail || problem.title);
    this.problem = problem;
  }
}

/**
 * Return the answer to a GET. A 429, a 503 and a broken connection are asked again, for ever and
 * ever more slowly: the page has nothing to show without it, and its line says why.
 * @param {string} path
 * @param {Record<string, string | number>} [parameters]
 * @returns {Promise<any>}
 * @throws {Refused} Asking again would not help.
 */
export async function ask(path, parameters = {}) {
  const query = new URLSearchParams(
    Object.entries(parameters).map(([name, value]) => [name, String(value)]),
  );
  for (let waitMs = AGAIN_FIRST_MS; ; waitMs = Math.min(AGAIN_MAX_MS, 2 * waitMs)) {
    const answer = await once(`${path}?${query}`);
    if (answer !== null) return answer;
    await new Promise((done) => setTimeout(done, waitMs * (0.5 + Math.random() / 2)));
  }
}

/**
 * @param {string} url
 * @returns {Promise<any>} The answer, null if it may be another one later.
 */
async function once(url) {
  try {
    const response = await fetch(url, { signal: AbortSignal.timeout(TIMEOUT_MS) });
    const told = parseExact(await response.text());
    if (response.ok) return told;
    if (response.status === 503 || response.status === 429) return null;
    throw new Refused(told);
  } catch (error) {
    if (error instanceof Refused) throw error;
    return null;
  }
}
