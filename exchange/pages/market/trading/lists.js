// A client's working orders, fills and positions: asked for when the page begins and now and then,
// and kept up with what the stream and the answers to own commands tell.

import * as fills from "../state/fills.js";
import * as orders from "../state/orders.js";
import * as positions from "../state/positions.js";
import { wordsOf } from "../state/said.js";
import { questions } from "./questions.js";

// The stream tells of one instrument: orders and prices of others are asked for.
const ORDERS_AGAIN_MS = 30_000;
const POSITIONS_AGAIN_MS = 10_000;

/** @typedef {ReturnType<typeof lists>} Lists */

/**
 * @param {object} given
 * @param {import("../trading.js").Market} given.market
 * @param {() => string} given.client
 */
export function lists({ market, client }) {
  const begin = { orders: orders.NONE, fills: fills.NONE, positions: positions.NONE };
  let state = begin;
  let news = { text: "", count: 0 };
  let isFollowed = false;
  /** @type {string | number | null} */
  let price = null; // of the last trade of the instrument, which the stream has sooner

  const asked = questions({
    client,
    instrument: market.instrument,
    changed: market.changed,
    orders(body, isFirst) {
      const page = orders.fold(state.orders, { ...body, type: "page", isFirst });
      state = { ...state, orders: page };
      follow();
    },
    fills(body, isFirst) {
      state = { ...state, fills: fills.fold(state.fills, { ...body, type: "page", isFirst }) };
      follow();
    },
    positions(body) {
      const page = positions.fold(state.positions, { ...body, type: "page" });
      state = { ...state, positions: mark(page) };
    },
  });

  /** Let the stream go on where the first pages end. */
  function follow() {
    if (isFollowed || !state.orders.isKnown || !state.fills.isKnown) return;
    isFollowed = true;
    const orders = state.orders.upTo.get(market.instrument.shard) ?? 0;
    market.follow(client(), Math.min(orders, state.fills.upTo));
  }

  /**
   * @param {string} name Of an instrument.
   * @param {number} shard
   * @param {{event: string, order: any, trade?: any, sequence: number}[]} told
   */
  function tell(name, shard, told) {
    const after = { ...state, orders: orders.fold(state.orders, { type: "told", shard, told }) };
    const own = fills.fillsOf({ orders: told });
    const isHere = name === market.instrument.name;
    if (isHere) after.fills = fills.fold(state.fills, { type: "told", fills: own });
    const fresh = after.fills.news.filter((fill) => !state.fills.news.includes(fill));
    state = after;
    if (state.orders.isOverrun) asked.orders.ask();
    if (own.length > 0) asked.positions.ask();
    const known = [...state.fills.news, ...state.fills.page];
    if (isHere && fresh.length > 0) say(wordsOf(fresh, known, market.instrument));
  }

  /** @param {positions.Positions} known */
  function mark(known) {
    return positions.fold(known, { type: "marked", instrument: market.instrument, price });
  }

  /** @param {string} text */
  function say(text) {
    news = { text, count: news.count + 1 };
    market.changed();
  }

  setInterval(() => document.hidden || asked.orders.ask(), ORDERS_AGAIN_MS);
  setInterval(() => document.hidden || asked.positions.ask(), POSITIONS_AGAIN_MS);

  return {
    orders: () => orders.rows(state.orders),
    /** Whether the newest orders are shown. */
    isFirst: () => state.orders.isFirst,
    more: asked.more,
    newest: asked.newest,

    /** Begin with the client that is chosen now. */
    begin() {
      state = begin;
      isFollowed = false;
      news = { text: "", count: news.count + 1 };
      market.follow(null, 0);
      asked.begin();
    },

    /**
     * A message of the stream has come.
     * @param {any} message
     */
    heard(message) {
      if (message.type === "ticker") {
        price = message.last_price;
        state = { ...state, positions: mark(state.positions) };
      } else if (message.type === "orders") {
        /** @type {any[]} */
        const own = message.orders.filter((/** @type {any} */ told) => isOwn(told.order));
        const { name, shard } = market.instrument;
        if (own.some(({ event }) => event === "traded")) asked.saw(shard, message.sequence);
        if (own.length > 0) tell(name, shard, own);
      }
    },

    /**
     * An own command was done.
     * @param {any} body Its answer.
     */
    answered({ order, trades = [], sequence, shards }) {
      if (shards) return cancelled(shards);
      if (!order || !isOwn(order)) return;
      const shard = market.instrumentOf(order.instrument)?.shard;
      if (shard === undefined) return asked.orders.ask();
      asked.saw(shard, sequence);
      const traded = trades.map((/** @type {any} */ trade) => ({ event: "traded", order, trade }));
      const told = [...traded, { event: "answered", order }];
      tell(
        order.instrument,
        shard,
        told.map((one) => ({ ...one, sequence })),
      );
    },

    /** An own command was refused, which must be heard. */
    refused: say,

    shown: () => ({ ...state, news, whyOld: asked.why() }),
  };

  /** @param {{shard: number, sequence: number}[]} shards Where all orders were cancelled. */
  function cancelled(shards) {
    for (const { shard, sequence } of shards) asked.saw(shard, sequence);
    asked.orders.ask();
  }

  /** @param {any} order Somebody may have chosen another client meanwhile. */
  function isOwn(order) {
    return order.client_id === client();
  }
}
