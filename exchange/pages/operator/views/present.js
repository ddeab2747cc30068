// The present, where no moment is named: what is shown goes on as the log does.

import { told } from "../state/places.js";

const EVERY_MS = 2_000; // a book is folded anew for each look, which takes up to a second

/**
 * Tell where the logs end, each time that they have grown, until something else is shown.
 * @param {object} given
 * @param {Map<number, number>} given.ends Where they ended when it was drawn last.
 * @param {() => Promise<Map<number, number>>} given.endsNow
 * @param {() => boolean} given.isShown
 * @param {(ends: Map<number, number>) => Promise<void>} given.grown
 * @param {(error: Error) => void} given.failed It is tried again.
 */
export async function follow({ ends, endsNow, isShown, grown, failed }) {
  let drawn = told(ends);
  for (;;) {
    await new Promise((done) => setTimeout(done, EVERY_MS));
    if (!isShown()) return;
    if (document.visibilityState === "hidden") continue;
    try {
      const now = await endsNow();
      if (!isShown()) return;
      if (told(now) === drawn) continue;
      await grown(now);
      drawn = told(now);
    } catch (error) {
      if (isShown()) failed(/** @type {Error} */ (error));
      drawn = "";
    }
  }
}

/**
 * Tell whether a key is Escape, pressed elsewhere than in a field that is typed in.
 * @param {KeyboardEvent} event
 */
export function isAway({ key, target }) {
  const isTyping = target instanceof Element && target.matches("input:not([type=range]), select");
  return key === "Escape" && !isTyping;
}
