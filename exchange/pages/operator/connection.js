// The state of the exchange: asked once a second while the page is seen, and not at all otherwise.

import { proofOf } from "../shared/door.js";

const EVERY_MS = 1_000;
const TIMEOUT_MS = 15_000; // the first look connects to the stores

/**
 * Watch, and tell each state that differs from the last one; `null` and why when none comes.
 * @param {(state: any, why: string) => void} tell
 * @param {() => void} refused The desk asks who is looking.
 * @returns {() => void} Looks at once.
 */
export function watch(tell, refused) {
  let tag = "";
  let isAsking = false;

  async function look() {
    if (isAsking || document.visibilityState === "hidden") return;
    isAsking = true;
    try {
      const url = new URL("./state", document.baseURI);
      const headers = { ...(tag && { "If-None-Match": tag }), ...(await proofOf(url, {})) };
      const signal = AbortSignal.timeout(TIMEOUT_MS);
      const response = await fetch(url, { headers, signal, cache: "no-store" });
      if (response.status === 304) tell(undefined, "");
      else if (response.ok) {
        tag = response.headers.get("ETag") ?? "";
        tell(await response.json(), "");
      } else {
        if (response.status === 401) refused();
        tell(null, (await response.json()).detail);
      }
    } catch (error) {
      tell(null, `the desk does not answer (${error})`);
    } finally {
      isAsking = false;
    }
  }

  setInterval(look, EVERY_MS);
  document.addEventListener("visibilitychange", look);
  look();
  return look;
}
