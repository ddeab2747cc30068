// The trading half of the market page: what a person orders, and what becomes of it.
//
// The page calls `trading` and nothing else of it. This half asks for the market through `Market`,
// is told what the stream says (`heard`), and is drawn when the page draws.

import { fromUnits, toUnits, trimmed } from "../shared/amounts.js";
import { listen } from "./keys.js";
import * as entries from "./state/entry.js";
import { clicks } from "./trading/clicks.js";
import { lists } from "./trading/lists.js";
import * as entryView from "./views/entry.js";
import * as fillsView from "./views/fills.js";
import * as helpView from "./views/help.js";
import * as newsView from "./views/news.js";
import * as ordersView from "./views/orders.js";
import * as pendingView from "./views/pending.js";
import * as positionsView from "./views/positions.js";
import * as whoView from "./views/who.js";

/**
 * @typedef {object} Market What this half asks of the page.
 * @property {import("./instrument.js").Instrument} instrument The one that the page is about.
 * @property {(name: string) => import("./instrument.js").Instrument | undefined} instrumentOf Any, if
 *   it was there when the page was opened.
 * @property {() => import("./state/entry.js").Book} book
 * @property {() => string} why Why no order may be sent now ("nothing was heard for 4 s"), or "".
 * @property {() => import("./settings.js").Settings} settings
 * @property {(changes: Partial<import("./settings.js").Settings>) => void} choose
 * @property {() => void} changed Asks for a frame.
 * @property {string} door Who keeps it: "keys" if one has to log in.
 * @property {() => void} identify Lets the stream know who has logged in.
 * @property {(client: string | null, sequence: number) => void} follow Lets the stream tell the
 *   client's orders after a sequence.
 * @property {(ms: number) => void} answered How long it took from a click to its outcome.
 */

/** @param {Market} market */
export function trading(market) {
  const { instrument } = market;
  let entry = entries.EMPTY;
  const client = () => market.settings().client;
  const listed = lists({ market, client });
  let typedClient = ""; // in its field, and perhaps not used
  const clicked = clicks({ market, listed, typedClient: () => typedClient });

  function sizes() {
    return market.settings().sizes[instrument.name] ?? entries.usualSizes(instrument);
  }

  const actions = {
    /** @param {entries.Change} change */
    change(change) {
      entry = entries.fold(entry, change);
      market.changed();
    },
    /** @param {Partial<import("./settings.js").Settings>} chosen */
    choose(chosen) {
      const former = client();
      if (chosen.client !== undefined) typedClient = chosen.client;
      market.choose(chosen);
      if (client() === former) return;
      clicked.begin();
      listed.begin();
    },
    /** @param {import("../shared/login.js").Who | null} who */
    enter(who) {
      if (!who) clicked.rest();
      market.identify();
      actions.choose({ client: who?.client_id ?? "" });
      if (who) clicked.resume();
    },
    /** @param {string} typed */
    typeClient(typed) {
      typedClient = typed;
      market.changed();
    },
    send: () => clicked.send(entry),
    cancel: clicked.cancel,
    cancelAll: clicked.cancelAll,
    again: clicked.again,
    forget: clicked.forget,
    more: listed.more,
    newest: listed.newest,
    help: helpView.open,
    repeat() {
      const last = clicked.takeLast();
      if (last) entry = { ...last, accepted: null };
      market.changed();
    },
    /**
     * @param {"price" | "quantity"} field
     * @param {bigint} steps
     */
    step(field, steps) {
      actions.change({ type: "step", field, steps, instrument, book: market.book() });
    },
    /** @param {number} place */
    size: (place) => actions.change({ type: "quantity", value: sizes()[place] }),
  };

  const place = (/** @type {string} */ id) => /** @type {Element} */ (document.getElementById(id));
  const views = [
    whoView.mount(place("entry"), actions, market.door),
    entryView.mount(place("entry"), actions),
    newsView.mount(place("entry")),
    pendingView.mount(place("orders"), actions),
    ordersView.mount(place("orders"), actions),
    fillsView.mount(place("fills"), actions),
    positionsView.mount(place("positions")),
    helpView.mount(place("help"), actions),
  ];

  listen(
    () => market.settings().hotkeys,
    (act) => {
      if (act === "buy" || act === "sell") actions.change({ type: "side", value: act });
      else if (act === "price" || act === "quantity") entryView.focus(act);
      else if (act === "leave") /** @type {HTMLElement} */ (document.activeElement)?.blur();
      else if (act === "send") actions.send();
      else if (act === "help") actions.help();
      else if (act === "cancel-all") actions.cancelAll();
      else if (act === "cancel-last") clicked.cancelLast();
      else actions.size(Number(act.slice(-1)) - 1);
    },
  );

  if (market.door !== "keys") clicked.resume(); // else with the login
  listed.begin();

  /** Own working orders of the instrument. */
  function open() {
    const { name, priceScale, quantityScale } = instrument;
    const own = listed.orders().filter((order) => order.instrument === name);
    return own.map(({ order_id: id, side, price, quantity, filled_quantity: filled }) => {
      const remaining = toUnits(quantity, quantityScale) - toUnits(filled, quantityScale);
      return { id, side, price: toUnits(price, priceScale), remaining };
    });
  }

  return {
    open, // for the ladder and the depth
    /** The price that stands in the form, for the depth chart. */
    typed: () => entries.typed(entry, instrument),
    /** @param {readonly string[]} ids */
    cancel(ids) {
      for (const order of listed.orders()) if (ids.includes(order.order_id)) clicked.cancel(order);
    },
    /** A message of the stream has come. */
    heard: listed.heard,
    /**
     * A level was chosen: its price, and with a quantity all up to there, from the other side.
     * @param {bigint} price
     * @param {bigint | null} quantity
     * @param {"bids" | "asks"} side Of the level.
     */
    pick(price, quantity, side) {
      const { priceScale, quantityScale } = instrument;
      const level = { price: trimmed(fromUnits(price, priceScale), 0) };
      const taken = quantity !== null && {
        quantity: trimmed(fromUnits(quantity, quantityScale), 0),
        side: side === "asks" ? /** @type {const} */ ("buy") : /** @type {const} */ ("sell"),
      };
      actions.change({ type: "level", ...level, ...taken });
    },
    draw() {
      const judged = entries.judge(entry, instrument, market.book(), open());
      const { instrumentOf } = market;
      const typed = {
        entry,
        judged,
        instrument,
        instrumentOf,
        settings: market.settings(),
        sizes: sizes(),
      };
      const state = { ...typed, ...clicked.shown(), ...listed.shown() };
      for (const draw of views) draw(state);
    },
  };
}
