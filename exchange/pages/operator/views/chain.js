// Whether the events of a page are as they were written: quietly if so, loudly if not.

import { element, setAttribute, setText } from "../../shared/dom.js";
import { ask } from "../requests.js";
import { spansOf, toldOf, wrongOf } from "../state/chain.js";

const BROKEN =
  "THE CHAIN IS BROKEN. Somebody or something has changed the log. Trust no figure that comes from here; type `exchange verify`, and restore what a backup has (docs/operations.md, Looking into the log).";

export function chain() {
  const well = element("p", { class: "quiet", "data-part": "chain" });
  const broken = element("p", { class: "broken", role: "alert", hidden: true });

  /** @param {string} text @param {boolean} isBroken */
  function tell(text, isBroken) {
    setText(isBroken ? broken : well, text);
    setText(isBroken ? well : broken, "");
    setAttribute(broken, "hidden", !isBroken);
  }

  return {
    elements: [broken, well],

    /**
     * Compare events with the chain, and return the places that are not as they were written.
     * @param {any[]} events
     * @param {() => boolean} isShown Whether these events are still the ones that are shown.
     * @returns {Promise<Set<string>>}
     */
    async verify(events, isShown) {
      const spans = spansOf(events);
      const wrong = [];
      const places = new Set();
      tell(spans.length ? "The chain is being compared …" : "", false);
      try {
        for (const span of spans) {
          const { shard, after, upTo } = span;
          const found = await ask("/chain", { shard, after, up_to: upTo });
          if (!isShown()) return places;
          const why = wrongOf(span, found);
          if (!why) continue;
          wrong.push(why);
          for (const place of span.places) places.add(place);
        }
        if (wrong.length) tell(`${BROKEN} ${[...new Set(wrong)].join(" ")}`, true);
        else if (spans.length) tell(toldOf(spans), false);
      } catch (error) {
        if (isShown())
          tell(`The chain could NOT be compared: ${/** @type {Error} */ (error).message}`, false);
      }
      return places;
    },
  };
}

/**
 * Return the traces of events' commands, by the places of their first events.
 * @param {any[]} events
 * @returns {Promise<Map<string, {trace_id: string, url: string | null}>>} Empty if that could not be asked: nothing depends on it.
 */
export async function tracesOf(events) {
  const found = new Map();
  try {
    for (const { shard, after, upTo } of spansOf(events)) {
      const told = await ask("/traces", { shard, after, up_to: upTo });
      for (const [position, trace] of Object.entries(told.traces))
        found.set(`${shard}:${position}`, trace);
    }
  } catch {
    found.clear();
  }
  return found;
}
