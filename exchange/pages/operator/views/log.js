// The log, page by page, or followed: its address is the query, and the chain is verified for what
// is shown.

import { element, setAttribute, setText } from "../../shared/dom.js";
import { ask } from "../requests.js";
import { momentOf, newestOf, told } from "../state/places.js";
import { mayComeLater } from "../state/refusals.js";
import { tableOf } from "./cells.js";
import { chain, tracesOf } from "./chain.js";
import { HEADINGS, rowOf } from "./events.js";
import { fieldsOf } from "./fields.js";
import { instrumentsFor } from "./offers.js";

const PAGE_EVENTS = 64; // there are at most so many shards, and the newest page has some of each
const FOLLOWED_EVENTS = 200; // of which the oldest go
const FOLLOW_S = 8; // the desk waits 12 s for the analysts' process
const AGAIN_MS = 2_000;

/**
 * @param {Element} root
 * @param {() => Promise<Map<number, number>>} endsNow Where the logs end, by shard.
 * @param {() => any} seen What `/state` tells.
 */
export function mount(root, endsNow, seen) {
  const fields = fieldsOf(
    [
      ["after", "After positions, such as 0:123"],
      ["after_time", "After a time, such as 2026-01-31T12:00:00Z or 08:05 (UTC)"],
      ["type", "Type of event"],
      ["order_id", "Order"],
      ["client_id", "Client (Anna is not anna)"],
      ["command_id", "Command"],
      ["instrument", "Instrument"],
    ],
    go,
    "Show",
  );
  const instruments = instrumentsFor(fields);
  const said = element("p", { role: "status" });
  const verified = chain();
  const table = tableOf("Events", HEADINGS);
  const next = /** @type {HTMLButtonElement} */ (
    element("button", { type: "button", click: onward }, "Next page")
  );
  const follow = /** @type {HTMLInputElement} */ (
    element("input", { type: "checkbox", change: () => void show() })
  );
  const buttons = element(
    "div",
    { class: "buttons" },
    element("button", { type: "button", click: newest }, "Newest events"),
    next,
    element("label", { class: "tick" }, follow, "Follow what comes"),
  );
  root.append(
    element(
      "section",
      { "aria-label": "The log" },
      fields.form,
      buttons,
      ...verified.elements,
      said,
      table.table,
    ),
  );
  /** @type {any} */
  let page = null;
  let values = fields.values();
  /** @type {any[]} */
  let shown = [];
  let asked = 0;

  /** @param {Record<string, string>} values */
  function go(values) {
    const given = Object.entries(values).filter(([, value]) => value);
    const hash = `#log?${new URLSearchParams(given)}`;
    if (location.hash === hash) void show();
    else location.hash = hash;
  }

  function onward() {
    if (page) go({ ...values, after: page.next, after_time: "" });
  }

  async function newest() {
    try {
      go({ ...fields.values(), after: await newestPage(), after_time: "" });
    } catch (error) {
      tell(fields.told(error), true);
    }
  }

  /** Return after which positions the newest page begins. */
  async function newestPage() {
    return told(newestOf(await endsNow(), PAGE_EVENTS));
  }

  /** @param {string} text @param {boolean} [isBad] */
  function tell(text, isBad = false) {
    setText(said, text);
    setAttribute(said, "class", isBad ? "bad" : "");
  }

  /** Return what the address asks for: where it says nothing, the newest events. */
  async function wanted() {
    if (!Object.values(values).some(Boolean)) return { ...values, after: await newestPage() };
    const after = /^\d+$/.test(values.after) ? `0:${values.after}` : values.after;
    return { ...values, after, after_time: momentOf(values.after_time, new Map(), Date.now()) };
  }

  /** @param {any[]} events @param {() => boolean} isShown */
  async function draw(events, isShown) {
    table.draw(events.map((one) => rowOf(one, false)));
    const broken = await verified.verify(events, isShown);
    const traces = await tracesOf(events);
    if (!isShown() || !(broken.size || traces.size)) return;
    const at = (/** @type {any} */ one) => `${one.shard}:${one.position}`;
    table.draw(events.map((one) => rowOf(one, broken.has(at(one)), traces.get(at(one)))));
  }

  /** Show what the fields say, and tell whether that could be done. */
  async function show() {
    const mine = ++asked;
    const isShown = () => mine === asked && !root.hasAttribute("hidden");
    tell("Asked …");
    try {
      page = await search(await wanted(), isShown);
      if (!isShown()) return true;
      const isEnd = page.next === page.sequence;
      next.disabled = isEnd;
      shown = page.events;
      tell(toldOf(shown.length, page.next, isEnd));
      await draw(page.events, isShown);
      if (follow.checked && isShown()) void followed(page.events, page.next, isShown);
      return true;
    } catch (error) {
      if (!isShown()) return true;
      next.disabled = true;
      const why = fields.told(error).replace(/\.?$/, ".");
      tell(shown.length ? `${why} Below is what was shown before.` : why, true);
      await verified.verify(shown, isShown);
      return !mayComeLater(error);
    }
  }

  /**
   * Return the first page with an event: a page of the server ends where it has looked at many.
   * @param {Record<string, string>} values
   * @param {() => boolean} isShown
   */
  async function search(values, isShown) {
    let found = await ask("/events", { limit: PAGE_EVENTS, ...values });
    while (!found.events.length && found.next !== found.sequence && isShown()) {
      tell(`Nothing up to ${found.next} of ${found.sequence}; searching on …`);
      const after = { after: found.next, after_time: "" };
      found = await ask("/events", { limit: PAGE_EVENTS, ...values, ...after });
    }
    return found;
  }

  /**
   * Add what comes, until something else is shown.
   * @param {any[]} events
   * @param {string} after
   * @param {() => boolean} isShown
   */
  async function followed(events, after, isShown) {
    shown = events;
    let from = after;
    while (isShown() && follow.checked) {
      const asked = { limit: PAGE_EVENTS, ...values, after: from, after_time: "" };
      try {
        const found = await ask("/events", { ...asked, wait_s: FOLLOW_S });
        if (!isShown() || !follow.checked) return;
        from = found.next;
        shown = [...shown, ...found.events].slice(-FOLLOWED_EVENTS);
        tell(`Following: ${shown.length} events, up to ${from}`);
        if (found.events.length) await draw(shown, isShown);
      } catch (error) {
        if (!isShown()) return;
        tell(`NOT following since ${from}, trying again: ${fields.told(error)}`, true);
        await new Promise((done) => setTimeout(done, AGAIN_MS));
      }
    }
  }

  /** @param {URLSearchParams} query */
  return (query) => {
    values = fields.fill(query);
    fields.offer("type", seen()?.event_types ?? []);
    instruments.once();
    return show();
  };
}

/** @param {number} events @param {string} next @param {boolean} isEnd */
function toldOf(events, next, isEnd) {
  return `${events} events, up to ${next}${isEnd ? ", the end of the log" : "; more on the next page"}`;
}
