// What is said of own commands and own fills. Pure.
//
// A trade with oneself is two fills, and the one of the resting order may be told alone, later. It is
// no second event to the person: what is said is what the incoming order did.

import { grouped, toUnits, trimmed } from "../../shared/amounts.js";
import { amountText, priceText } from "../instrument.js";

/**
 * @typedef {import("./fills.js").Fill} Fill
 * @typedef {import("../instrument.js").Instrument} Instrument
 */

export const CANCEL = "Cancel: "; // how the words of a cancel begin

/** @type {Record<string, string>} */
const CANCELLED = {
  market_remainder: "nothing more rests on the other side",
  fills_max: "one order may have no more fills",
};

/**
 * Say what a command did.
 * @param {{what: string, words: string}} command
 * @param {any} body The answer.
 */
export function doneIn({ what, words }, { order, cancelled_orders: cancelled }) {
  if (!order) return `${words}: ${cancelled} cancelled.`;
  const status = order.status.replace("_", " ");
  if (what === "cancel" && words.startsWith(CANCEL) && status === "cancelled")
    return `Cancelled: ${words.slice(CANCEL.length)}.`;
  const why = CANCELLED[order.reason];
  if (what !== "place" || status !== "cancelled" || !why) return `${words}: ${status}.`;
  const filled = String(order.filled_quantity ?? "0");
  const part = grouped(trimmed(filled, 0));
  const done = /[1-9]/.test(filled) ? `${part} filled, the rest cancelled` : "cancelled";
  return `${words}: ${done}, since ${why}.`;
}

/**
 * @param {readonly Fill[]} fresh Fills that are told now.
 * @param {readonly Fill[]} known All that were told, with these.
 * @param {Instrument} instrument
 * @returns {string} "Bought 0.32 BTC-USD at 70 200.00 to 70 500.00, 0.3 of it from own orders"
 */
export function wordsOf(fresh, known, instrument) {
  /** @type {Map<string, Fill[]>} */
  const byOrder = new Map();
  for (const fill of fresh) {
    const taken = fill.role === "taker" ? fill : takerOf(fill, known);
    const id = (taken ?? fill).order_id;
    if (byOrder.has(id)) continue;
    // An incoming order fills at once: all of it is one thing to say.
    const whole = taken ? known : fresh;
    byOrder.set(
      id,
      whole.filter((one) => one.order_id === id && one.role === (taken ?? fill).role),
    );
  }
  return [...byOrder.values()].map((fills) => sentence(fills, known, instrument)).join(". ");
}

/**
 * Return the other half of a trade with oneself.
 * @param {Fill} fill Of the resting order.
 * @param {readonly Fill[]} known
 */
function takerOf(fill, known) {
  return known.find((one) => one.trade_id === fill.trade_id && one.role === "taker");
}

/**
 * @param {Fill[]} fills Of one order.
 * @param {readonly Fill[]} known
 * @param {Instrument} instrument
 */
function sentence(fills, known, instrument) {
  const { name, priceScale, quantityScale } = instrument;
  const isBuy = fills[0].side === "buy";
  const prices = fills.map(({ price }) => toUnits(price, priceScale));
  const low = prices.reduce((least, price) => (price < least ? price : least));
  const high = prices.reduce((most, price) => (price > most ? price : most));
  const span = low === high ? [low] : [low, high];
  const at = span.map((price) => priceText(price, instrument)).join(" to ");
  const amount = (/** @type {Fill[]} */ some) => {
    const sum = some.reduce((total, { quantity }) => total + toUnits(quantity, quantityScale), 0n);
    return amountText(sum, instrument);
  };
  const makers = new Set(known.filter(({ role }) => role === "maker").map((one) => one.trade_id));
  const own = fills.filter(({ role, trade_id }) => role === "taker" && makers.has(trade_id));
  const whole = `${isBuy ? "Bought" : "Sold"} ${amount(fills)} ${name} at ${at}`;
  if (own.length === 0) return whole;
  return `${whole}, ${amount(own)} of it ${isBuy ? "from" : "to"} own orders`;
}
