// What a person is about to order, and what can be said of it before it is sent. Pure.
// Amounts are BigInt units of the instrument's scales.

import { fromUnits, grouped, toUnits, trimmed } from "../../shared/amounts.js";
import { amountText, priceText } from "../instrument.js";
import { amount, typedAs } from "./amount.js";
import { isGrave, ownIn, slippage } from "./slippage.js";

/** @typedef {import("../instrument.js").Instrument} Instrument */
/** @typedef {import("./book.js").Book} Book */

/**
 * @typedef {object} Entry
 * @property {"buy" | "sell"} side
 * @property {"limit" | "market"} type
 * @property {string} price As it was typed.
 * @property {string} quantity
 * @property {bigint | null} accepted The slippage (in 1/100 %) to which somebody agreed.
 */

/**
 * @typedef {{type: "side" | "kind" | "price" | "quantity", value: string}
 *   | {type: "step", field: "price" | "quantity", steps: bigint, instrument: Instrument, book: Book}
 *   | {type: "level", price: string, quantity?: string, side?: "buy" | "sell"}
 *   | {type: "accept", slippage: bigint | null}} Change
 */

/** @type {Entry} */
export const EMPTY = { side: "buy", type: "limit", price: "", quantity: "", accepted: null };

const AGREED_MORE = 100n; // 1 %: beyond it somebody agreed to something else

/**
 * @param {Entry} entry
 * @param {Change} change
 * @returns {Entry}
 */
export function fold(entry, change) {
  switch (change.type) {
    case "side":
      return { ...entry, side: change.value === "sell" ? "sell" : "buy", accepted: null };
    case "kind":
      return { ...entry, type: change.value === "market" ? "market" : "limit", accepted: null };
    case "price":
    case "quantity":
      return {
        ...entry,
        [change.type]: typedAs(change.value),
        accepted: null,
      };
    case "step":
      return { ...entry, [change.field]: stepped(entry, change), accepted: null };
    case "level": {
      const { price, quantity = entry.quantity, side = entry.side } = change;
      return { side, type: "limit", price, quantity, accepted: null };
    }
    case "accept":
      return { ...entry, accepted: change.slippage };
    default:
      return entry;
  }
}

/**
 * Return the price of a limit order as it stands, null while it is none.
 * @param {Entry} entry
 * @param {Instrument} instrument
 */
export function typed(entry, { priceScale, tick }) {
  if (entry.type !== "limit") return null;
  const { units } = amount(entry.price, priceScale, tick, "price", "tick");
  return units === null ? null : { side: entry.side, price: units };
}

/**
 * Say what an order would be, and what is wrong with it.
 * @param {Entry} entry
 * @param {Instrument} instrument
 * @param {Book} book
 * @param {readonly {side: "buy" | "sell", price: bigint, remaining: bigint}[]} own Own orders in it.
 */
export function judge(entry, instrument, book, own = []) {
  const { priceScale, quantityScale, tick, lot } = instrument;
  const price = amount(entry.price, priceScale, tick, "price", "tick");
  const quantity = amount(entry.quantity, quantityScale, lot, "quantity", "lot");
  const limit = entry.type === "limit" ? price.units : null;
  const priceProblem = entry.type === "limit" ? price.problem : "";
  const isReady = quantity.units !== null && !priceProblem;
  const expected =
    isReady && quantity.units ? slippage(book, entry.side, quantity.units, limit) : null;
  const cost = limit !== null ? limit * (quantity.units ?? 0n) : (expected?.cost ?? 0n);
  const isAgreed =
    entry.accepted !== null && (expected?.slippage ?? 0n) <= entry.accepted + AGREED_MORE;
  const mustAgree = expected !== null && isGrave(expected.slippage);
  const why =
    whyNot(priceProblem, entry.price, "price") ||
    whyNot(quantity.problem, entry.quantity, "quantity") ||
    (mustAgree && !isAgreed ? "tick the box above" : "");
  return {
    priceProblem,
    quantityProblem: quantity.problem,
    total: isReady && cost > 0n ? trimmed(fromUnits(cost, priceScale + quantityScale), 0) : "",
    expected,
    own: expected && quantity.units ? ownIn(book, own, entry.side, quantity.units, limit) : 0n,
    mustAgree,
    isAgreed,
    why,
    isReady: why === "",
  };
}

/**
 * Say in a few words what an order waits for; the whole problem stands below its field.
 * @param {string} problem
 * @param {string} text
 * @param {string} name
 */
function whyNot(problem, text, name) {
  if (problem === "") return "";
  return text === "" ? `type a ${name}` : `correct the ${name}`;
}

/**
 * Return the body of the order: amounts as text, so that no digit is lost on the way.
 * @param {Entry} entry
 * @param {string} instrument
 * @param {string} client
 * @param {string} key
 */
export function bodyOf(entry, instrument, client, key) {
  const { side, type, quantity } = entry;
  const whole = { client_id: client, instrument, side, type, quantity };
  const price = type === "limit" ? { price: entry.price } : {};
  return { ...whole, ...price, order_id: key, idempotency_key: key };
}

/**
 * @param {Entry | {side: string, type: string, price: string, quantity: string}} entry
 * @param {string} name Of its instrument.
 * @param {Instrument} [instrument] Undefined if it was not there when the page was opened.
 * @returns {string} "Buy 0.25 BTC-USD at 70 150.50"
 */
export function wordsOf({ side, type, price, quantity }, name, instrument) {
  const size = instrument
    ? amountText(toUnits(quantity, instrument.quantityScale), instrument)
    : grouped(String(quantity));
  const what = `${side === "buy" ? "Buy" : "Sell"} ${size} ${name}`;
  if (type !== "limit") return `${what} at the market`;
  if (!instrument) return `${what} at ${grouped(String(price))}`;
  return `${what} at ${priceText(toUnits(price, instrument.priceScale), instrument)}`;
}

/**
 * Return four quantities to begin with: from a hundredth to ten, in whole lots.
 * @param {Instrument} instrument
 * @returns {string[]}
 */
export function usualSizes({ quantityScale: scale, lot }) {
  return ["0.01", "0.1", "1", "10"].map((size) => {
    const units = (toUnits(size.length - 2 > scale ? "1" : size, scale) / lot) * lot;
    return trimmed(fromUnits(units || lot, scale), 0);
  });
}

/**
 * @param {Entry} entry
 * @param {{field: "price" | "quantity", steps: bigint, instrument: Instrument, book: Book}} change
 * @returns {string} The next multiple of the step up or down; from an empty field, the best price.
 */
function stepped(entry, { field, steps, instrument, book }) {
  const isPrice = field === "price";
  const scale = isPrice ? instrument.priceScale : instrument.quantityScale;
  const step = isPrice ? instrument.tick : instrument.lot;
  let from;
  try {
    from = toUnits(entry[field], scale);
  } catch {
    const [best] = entry.side === "buy" ? book.bids : book.asks;
    if (isPrice && best) return trimmed(fromUnits(best.price, scale), 0);
    from = 0n;
  }
  const whole = steps > 0n ? from / step : (from + step - 1n) / step;
  const next = (whole + steps) * step;
  return trimmed(fromUnits(next > step ? next : step, scale), 0);
}
