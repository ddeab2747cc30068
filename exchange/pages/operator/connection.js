// The state of the exchange: asked once a second while the page is seen, and not at all otherwise.

const EVERY_MS = 1_000;
const TIMEOUT_MS = 15_000; // the first look connects to the stores

/**
 * Watch, and tell each state that differs from the last one; `null` and why when none comes.
 * @param {(state: any, why: string) => void} tell
 */
export function watch(tell) {
  let tag = "";
  let isAsking = false;

  async function look() {
    if (isAsking || document.visibilityState === "hidden") return;
    isAsking = true;
    try {
      const headers = tag ? { "If-None-Match": tag } : undefined;
      const signal = AbortSignal.timeout(TIMEOUT_MS);
      const response = await fetch("./state", { headers, signal, cache: "no-store" });
      if (response.status === 304) tell(undefined, "");
      else if (response.ok) {
        tag = response.headers.get("ETag") ?? "";
        tell(await response.json(), "");
      } else tell(null, (await response.json()).detail);
    } catch (error) {
      tell(null, `the desk does not answer (${error})`);
    } finally {
      isAsking = false;
    }
  }

  setInterval(look, EVERY_MS);
  document.addEventListener("visibilitychange", look);
  look();
}
