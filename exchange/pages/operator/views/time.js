// Time travel: the book and a client's positions at a moment that is gone, and between two of them.

import { element, setAttribute, setText } from "../../shared/dom.js";
import { columnsOf } from "../state/books.js";
import { momentOf, moved, shardOf, told } from "../state/places.js";
import { isUnknown, mayComeLater, withInstruments } from "../state/refusals.js";
import { tableOf } from "./cells.js";
import { fieldsOf } from "./fields.js";
import { between, position as held, levels, whereOf } from "./moments.js";
import { instrumentsFor } from "./offers.js";
import { follow, isAway } from "./present.js";
import { stepsIn } from "./steps.js";
import { answersAt, batchesAround, placesAt } from "./travel.js";

const BACK = "Esc returns to the present.";
const SIDES = /** @type {const} */ (["bids", "asks"]);

/**
 * @param {Element} root
 * @param {() => Promise<Map<number, number>>} endsNow Where the logs end, by shard.
 */
export function mount(root, endsNow) {
  const fields = fieldsOf(
    [
      ["at", "Position such as 0:123, or UTC time such as 08:05"],
      ["instrument", "Instrument"],
      ["client_id", "Client, for positions"],
      ["and", "Compare with (position or time)"],
    ],
    (values) => go(values),
    "Go",
    { as_of_sequence: "at", up_to_time: "at" },
  );
  const instruments = instrumentsFor(fields);
  const steps = stepsIn({
    step: (by) => goTo(position() + by),
    batch,
    slid: goTo,
    pin: () => go({ ...fields.values(), and: told(places) }),
    shard: move,
  });
  const band = element("p", { class: "band", role: "status" });
  const where = element("p", { class: "quiet" });
  const tables = {
    bids: tableOf("Bids", ["price", "quantity", "up to this price"]),
    asks: tableOf("Asks", ["price", "quantity", "up to this price"]),
    positions: tableOf("Positions", [
      "instrument",
      "net quantity",
      "average price",
      "realised",
      "unrealised",
    ]),
    different: tableOf("What differs", columnsOf("one", "another"), "nothing differs"),
  };
  const shown = Object.values(tables).map((one) => one.table);
  clear();
  root.append(
    element(
      "section",
      { "aria-label": "Time travel" },
      band,
      fields.form,
      steps.element,
      where,
      element("div", { class: "sides" }, ...shown),
    ),
  );
  addEventListener("keydown", (event) => {
    if (isAway(event) && !root.hasAttribute("hidden")) go({ ...fields.values(), at: "", and: "" });
  });
  let asked = 0;
  let shard = 0;
  let chosen = "";
  /** @type {Map<number, number>} */
  let ends = new Map();
  /** @type {Map<number, number>} */
  let places = new Map();
  const position = () => places.get(shard) ?? 0;

  /** @param {string} text */
  const typed = (text) => momentOf(text, ends, Date.now());

  /** @param {Record<string, string>} values */
  function go(values) {
    const all = { ...values, at: typed(values.at), and: typed(values.and), shard: chosen };
    const given = Object.entries(all).filter(([, value]) => value);
    location.hash = `time?${new URLSearchParams(given)}`;
  }

  /** @param {number} to */
  function goTo(to) {
    places = moved(places, shard, to, ends.get(shard) ?? 0); // the next step may come at once
    go({ ...fields.values(), at: told(places) });
  }

  /** @param {number} by */
  async function batch(by) {
    try {
      const around = await batchesAround(shard, position());
      goTo(by < 0 ? around.before : (around.after ?? position()));
    } catch (error) {
      setText(where, /** @type {Error} */ (error).message);
    }
  }

  /** @param {string} to */
  function move(to) {
    chosen = to;
    go(fields.values());
  }

  /** Show nothing: figures of another moment must not stand below this one's name. */
  function clear() {
    for (const one of Object.values(tables)) one.clear();
    setText(where, "");
  }

  /** @param {Record<string, string>} values @param {() => boolean} isShown */
  async function draw({ at, and, instrument, client_id }, isShown) {
    const first = await answersAt(places, instrument, client_id);
    const second = and ? await answersAt(await placesAt(and, ends), instrument, client_id) : null;
    const around = await batchesAround(shard, position());
    if (!isShown()) return;
    fields.set("instrument", first.book.instrument);
    for (const side of SIDES) tables[side].draw(levels(first.book[side]));
    if (client_id) tables.positions.draw(first.positions.map(held));
    else tables.positions.clear();
    if (second) tables.different.draw(between(first, second), columnsOf(at || told(places), and));
    else tables.different.clear();
    setText(where, whereOf(shard, position(), around));
    const also = and ? `, and what differs at ${and}` : "";
    setAttribute(band, "class", at ? "band" : "band present");
    const past = `NOT LIVE: ${first.book.instrument} as of ${at}${also}. ${BACK}`;
    setText(band, at ? past : `LIVE: ${first.book.instrument}, as the log goes on${also}.`);
  }

  /** @param {Record<string, string>} values @param {() => boolean} isShown */
  async function goOn(values, isShown) {
    await follow({
      ends,
      endsNow,
      isShown,
      async grown(now) {
        ends = places = now;
        steps.draw(ends, shard, position());
        await draw(values, isShown);
      },
      failed(error) {
        setAttribute(band, "class", "band");
        setText(band, `NOT LIVE, as of ${told(places)}; it is tried again. ${error.message}`);
      },
    });
  }

  /**
   * Show what the address says, and tell whether that could be done.
   * @param {URLSearchParams} query
   */
  return async function show(query) {
    const values = fields.fill(query);
    chosen = query.get("shard") ?? "";
    const mine = ++asked;
    const isShown = () => mine === asked && !root.hasAttribute("hidden");
    const { at } = values;
    setAttribute(band, "class", "band");
    setText(band, at ? `NOT LIVE: asked for ${at} … ${BACK}` : "Asked for the present …");
    try {
      ends = await endsNow();
      Object.assign(values, { at: typed(at), and: typed(values.and) });
      const found = await placesAt(values.at, ends);
      if (!isShown()) return true;
      places = found;
      shard = shardOf(chosen, values.at, ends);
      steps.draw(ends, shard, position());
      fields.set("at", values.at);
      await draw(values, isShown);
      instruments.once();
      if (!at && isShown()) void goOn(values, isShown);
      return true;
    } catch (error) {
      if (!isShown()) return true;
      clear();
      const { problem } = /** @type {any} */ (error);
      const known = isUnknown(problem) ? await instruments.now() : [];
      if (!isShown()) return true;
      setText(band, `NOT LIVE: ${withInstruments(fields.told(error), known)}`);
      return !mayComeLater(error);
    }
  };
}
