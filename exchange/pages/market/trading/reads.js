// A question that is asked again and again: one at a time, not too often, and until it is answered.

import { request } from "../../shared/requests.js";

const PAUSE_MS = 300; // between two answers: a program may trade for the client that is looked at
const RETRY_MS = 2_000; // a gateway that does not say when to come again
const RETRY_MS_MAX = 10_000;
const ANSWER_MS_MAX = 10_000;

/**
 * @param {object} given
 * @param {() => string} given.question What to ask now; "" if there is nothing to ask.
 * @param {() => string} given.after The positions that the answer must have seen; "" for any.
 * @param {(body: any) => void} given.take
 * @param {() => void} given.changed
 */
export function reader({ question, after, take, changed }) {
  let isAsking = false;
  let isWanted = false;
  let why = "";

  async function ask() {
    isWanted = true;
    if (isAsking) return;
    isAsking = true;
    while (isWanted && question()) {
      isWanted = false;
      const pauseMs = await once();
      changed();
      await new Promise((resolve) => setTimeout(resolve, pauseMs));
    }
    isAsking = false;
  }

  /** @returns {Promise<number>} How long to wait until the next question. */
  async function once() {
    const asked = question();
    const least = after();
    const path = least ? `${asked}&min_sequence=${encodeURIComponent(least)}` : asked;
    try {
      const answer = await request(path, { cache: "no-store" }, ANSWER_MS_MAX);
      const { body } = answer;
      if (asked !== question()) {
        isWanted = true; // somebody looks at something else by now
        return 0;
      }
      if (answer.ok) {
        why = "";
        take(body);
        return PAUSE_MS;
      }
      why = String(body.detail ?? body.title);
      isWanted = answer.status === 429 || answer.status >= 500; // it may be told another time
      const seconds = Number(answer.headers.get("retry-after")) || RETRY_MS / 1000;
      return Math.min(seconds * 1000, RETRY_MS_MAX);
    } catch {
      why = "The exchange does not answer.";
      isWanted = true;
      return RETRY_MS;
    }
  }

  return {
    ask: () => void ask(),
    /** Say why there is no newer answer; "" if there is one. */
    why: () => why,
  };
}
