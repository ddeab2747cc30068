// Time travel: the book and a client's positions at a moment that is gone, and between two of them.

import { element, setAttribute, setText } from "../../shared/dom.js";
import { ask } from "../requests.js";
import { isTime, moved, readPlaces, told } from "../state/places.js";
import { tableOf } from "./cells.js";
import { fieldsOf } from "./fields.js";
import { between, position as held, level } from "./moments.js";

const LEVELS = 10;
const SETTLE_MS = 150; // a slider tells of every step that it passes
const STEPS = [-100, -1, 1, 100];

/**
 * @param {Element} root
 * @param {() => Promise<Map<number, number>>} endsNow Where the logs end, by shard.
 */
export function mount(root, endsNow) {
  const fields = fieldsOf(
    [
      ["at", "Position such as 0:123, or time"],
      ["instrument", "Instrument"],
      ["client_id", "Client, for positions"],
      ["and", "Compare with (position or time)"],
    ],
    go,
    "Go",
  );
  const band = element("p", { class: "band", role: "status" });
  const slider = /** @type {HTMLInputElement} */ (
    element("input", {
      type: "range",
      min: "0",
      step: "1",
      "aria-label": "Position in the shard's log",
      input: slid,
    })
  );
  const steps = STEPS.map((by) =>
    element(
      "button",
      { type: "button", click: () => step(by) },
      `${by > 0 ? "+" : "−"}${Math.abs(by)} event${Math.abs(by) === 1 ? "" : "s"}`,
    ),
  );
  const tables = {
    bids: tableOf("Bids", ["price", "quantity", "up to here"]),
    asks: tableOf("Asks", ["price", "quantity", "up to here"]),
    positions: tableOf("Positions", [
      "instrument",
      "net quantity",
      "average price",
      "realised",
      "unrealised",
    ]),
    different: tableOf("What differs at the second moment", ["what", "then", "later"]),
  };
  root.append(
    element(
      "section",
      { "aria-label": "Time travel" },
      band,
      fields.form,
      element(
        "div",
        { class: "buttons" },
        ...steps,
        element("label", { class: "slider" }, "Position", slider),
      ),
      element(
        "div",
        { class: "sides" },
        tables.bids.table,
        tables.asks.table,
        tables.positions.table,
        tables.different.table,
      ),
    ),
  );
  root.addEventListener("keydown", (event) => {
    if (/** @type {KeyboardEvent} */ (event).key === "Escape") location.hash = "status";
  });
  let settling = 0;
  let asked = 0;
  /** @type {Map<number, number>} */
  let ends = new Map();

  /** @param {Record<string, string>} values */
  function go(values) {
    const given = Object.entries(values).filter(([, value]) => value);
    location.hash = `time?${new URLSearchParams(given)}`;
  }

  function place() {
    const { at } = fields.values();
    const places = at && !isTime(at) ? readPlaces(at) : new Map(ends);
    const shard = [...places.keys()][0] ?? 0;
    return { places, shard, position: places.get(shard) ?? 0 };
  }

  /** @param {number} by */
  function step(by) {
    const { places, shard, position } = place();
    go({
      ...fields.values(),
      at: told(moved(places, shard, position + by, ends.get(shard) ?? 0)),
    });
  }

  function slid() {
    clearTimeout(settling);
    settling = window.setTimeout(() => {
      const { places, shard } = place();
      go({
        ...fields.values(),
        at: told(moved(places, shard, Number(slider.value), Number(slider.max))),
      });
    }, SETTLE_MS);
  }

  /** @param {string} at */
  async function answers(at) {
    const { instrument, client_id } = fields.values();
    const asking = isTime(at) ? { as_of_time: at } : { as_of_sequence: whole(at) };
    // A bare number is a position of the instrument's shard, whichever that is.
    const bookAt = isTime(at) || at.includes(":") ? asking : { as_of_sequence: at };
    const [book, positions] = await Promise.all([
      ask("/market/orderbook", { instrument: instrument || undefined, levels: LEVELS, ...bookAt }),
      client_id ? ask(`/market/positions/${encodeURIComponent(client_id)}`, asking) : null,
    ]);
    return { book, positions: positions?.positions ?? [] };
  }

  /** @param {string} at Positions are asked of all shards: of those not named, up to their heads. */
  function whole(at) {
    return told(new Map([...ends, ...readPlaces(at)]));
  }

  /** @param {URLSearchParams} query */
  return async function show(query) {
    fields.fill(query);
    const mine = ++asked;
    try {
      ends = await endsNow();
      const { places, shard, position } = place();
      const at = fields.values().at || told(new Map([[shard, position]]));
      fields.set("at", at);
      slider.max = String(ends.get(shard) ?? position);
      if (document.activeElement !== slider) slider.value = String(position);
      setAttribute(slider, "aria-valuetext", told(places));
      setText(band, `NOT LIVE: asked for ${at} … Esc returns to the present.`);
      const first = await answers(at);
      const { and } = fields.values();
      const second = and ? await answers(and) : null;
      if (mine !== asked) return;
      for (const side of /** @type {const} */ (["bids", "asks"]))
        tables[side].draw(first.book[side].map(level));
      tables.positions.draw(first.positions.map(held));
      setAttribute(tables.different.table, "hidden", second === null);
      if (second) tables.different.draw(between(first, second));
      setText(
        band,
        `NOT LIVE: as of ${at}${and ? `, and what differs at ${and}` : ""}. Esc returns to the present.`,
      );
    } catch (error) {
      if (mine === asked) setText(band, `NOT LIVE: ${/** @type {Error} */ (error).message}`);
    }
  };
}
