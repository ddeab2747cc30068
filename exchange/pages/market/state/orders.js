// A client's working orders: a page as the exchange listed it, and what the stream and answers told
// since. Pure.
//
// Both tell up to where in the log they are, so that neither an old page nor a repeated message
// brings an order back that has gone.

export const ROWS_MAX = 50; // on a page
const NEWS_MAX = 500; // more, and it is time to ask for a page; a client may be a program

const WORKING = ["open", "partially_filled"];

/** @typedef {Record<string, any> & {order_id: string, instrument: string, status: string}} Order */

/**
 * @typedef {object} Orders
 * @property {readonly Order[]} page Newest first.
 * @property {string | null} next Where the next page begins.
 * @property {boolean} isFirst The page is the newest one, so that new orders belong to it.
 * @property {ReadonlyMap<number, number>} upTo The page's place in the log of each shard.
 * @property {ReadonlyMap<string, {order: Order, shard: number, sequence: number}>} news By order.
 * @property {boolean} isKnown False until the first page has come.
 * @property {boolean} isOverrun More was told than is kept: the page must be asked for again.
 */

/** @type {Orders} */
export const NONE = {
  page: [],
  next: null,
  isFirst: true,
  upTo: new Map(),
  news: new Map(),
  isKnown: false,
  isOverrun: false,
};

/**
 * @param {Orders} orders
 * @param {{type: "page", orders: Order[], next_cursor: string | null, sequence: string | number,
 *     isFirst: boolean}
 *   | {type: "told", shard: number, told: {order: Order, sequence: number}[]}} message
 * @returns {Orders}
 */
export function fold(orders, message) {
  switch (message.type) {
    case "page": {
      const upTo = positions(message.sequence);
      const news = [...orders.news].filter(
        ([, told]) => told.sequence > (upTo.get(told.shard) ?? 0),
      );
      return {
        page: message.orders,
        next: message.next_cursor,
        isFirst: message.isFirst,
        upTo,
        news: new Map(news),
        isKnown: true,
        isOverrun: false,
      };
    }
    case "told": {
      const news = new Map(orders.news);
      for (const { order, sequence } of message.told) {
        const known = Math.max(
          news.get(order.order_id)?.sequence ?? 0,
          orders.upTo.get(message.shard) ?? 0,
        );
        if (sequence < known) continue;
        if (news.size >= NEWS_MAX && !news.has(order.order_id))
          return { ...orders, isOverrun: true };
        news.set(order.order_id, { order, shard: message.shard, sequence });
      }
      return { ...orders, news };
    }
    default:
      return orders;
  }
}

/**
 * Return the working orders to show, newest first.
 * @param {Orders} orders
 * @returns {Order[]}
 */
export function rows(orders) {
  const known = new Set(orders.page.map((order) => order.order_id));
  const fresh = [...orders.news.values()].filter(({ order }) => !known.has(order.order_id));
  const newest = fresh.sort((one, other) => other.sequence - one.sequence);
  const listed = orders.page.map((order) => orders.news.get(order.order_id)?.order ?? order);
  return [...(orders.isFirst ? newest.map(({ order }) => order) : []), ...listed]
    .filter((order) => WORKING.includes(order.status))
    .slice(0, ROWS_MAX);
}

/**
 * Read positions (`0:15,1:42`), or the one sequence of the only shard.
 * @param {string | number} text
 * @returns {Map<number, number>}
 */
export function positions(text) {
  const found = new Map();
  for (const part of String(text).split(",")) {
    const [shard, sequence] = part.includes(":") ? part.split(":") : ["0", part];
    if (/^\d+$/.test(shard) && /^\d+$/.test(sequence)) found.set(Number(shard), Number(sequence));
  }
  return found;
}
