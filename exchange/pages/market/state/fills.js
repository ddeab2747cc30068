// A client's fills of one instrument, newest first: a page as it was listed, and what the stream
// told since. Pure.

export const ROWS_MAX = 50; // on a page
const NEWS_MAX = 200; // a program may trade for this client; older ones are a page away

/**
 * @typedef {object} Fill
 * @property {string} trade_id
 * @property {string} order_id
 * @property {"buy" | "sell"} side
 * @property {"maker" | "taker"} role
 * @property {string | number} price
 * @property {string | number} quantity
 * @property {string} timestamp
 * @property {number} sequence
 */

/**
 * @typedef {object} Fills
 * @property {readonly Fill[]} page
 * @property {string | null} next
 * @property {boolean} isFirst
 * @property {readonly Fill[]} news Newest first.
 * @property {number} upTo The page's place in the log of the instrument's shard.
 * @property {boolean} isKnown
 */

/** @type {Fills} */
export const NONE = { page: [], next: null, isFirst: true, news: [], upTo: 0, isKnown: false };

/**
 * @param {Fills} fills
 * @param {{type: "page", fills: Fill[], next_cursor: string | null, sequence: number,
 *     isFirst: boolean}
 *   | {type: "told", fills: Fill[]}} message
 * @returns {Fills}
 */
export function fold(fills, message) {
  switch (message.type) {
    case "page": {
      const { fills: page, next_cursor: next, sequence: upTo, isFirst } = message;
      const news = without(fills.news, page);
      return { page, next, isFirst, news, upTo, isKnown: true };
    }
    case "told": {
      const fresh = without(without(message.fills, fills.page), fills.news);
      const news = [...fresh, ...fills.news].sort((one, other) => other.sequence - one.sequence);
      return { ...fills, news: news.slice(0, NEWS_MAX) };
    }
    default:
      return fills;
  }
}

/**
 * @param {Fills} fills
 * @returns {Fill[]}
 */
export function rows(fills) {
  return [...(fills.isFirst ? fills.news : []), ...fills.page].slice(0, ROWS_MAX);
}

/**
 * Return what a message of the stream tells of own fills.
 * @param {{orders: {event: string, order: any, trade?: any}[]}} message
 * @returns {Fill[]}
 */
export function fillsOf(message) {
  return message.orders
    .filter(({ event, trade }) => event === "traded" && trade)
    .map(({ order, trade }) => ({
      trade_id: trade.trade_id,
      order_id: order.order_id,
      side: order.side,
      role: trade.taker_side === order.side ? "taker" : "maker",
      price: trade.price,
      quantity: trade.quantity,
      timestamp: trade.timestamp,
      sequence: trade.sequence,
    }));
}

/**
 * A trade with oneself is two fills: the order tells them apart.
 * @param {Fill} fill
 */
export function keyOf(fill) {
  return `${fill.trade_id} ${fill.order_id}`;
}

/**
 * @param {readonly Fill[]} fills
 * @param {readonly Fill[]} known
 */
function without(fills, known) {
  const keys = new Set(known.map(keyOf));
  return fills.filter((fill) => !keys.has(keyOf(fill)));
}
