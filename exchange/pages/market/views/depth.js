// The depth: how much rests up to each price, in even steps of price around the middle.

import { fromUnits } from "../../shared/amounts.js";
import { element, setAttribute, setText } from "../../shared/dom.js";
import { priceText } from "../instrument.js";
import { coloursOf, themed } from "./charting.js";

const STEPS = 50; // of each side
const LEVELS = 60; // the chart reaches as far as so many levels do
const EVERY_MS = 250; // a shape that moves faster cannot be read
const SPOKEN_EVERY_MS = 60_000;

/** @param {Element} root */
export function mount(root) {
  const canvas = element("div", { class: "canvas", role: "img", "aria-label": "Depth" });
  const legend = element("p", { class: "quiet", "data-part": "marks" });
  root.append(canvas, legend);
  const charts = /** @type {any} */ (globalThis).LightweightCharts;
  const { createOptionsChart, createSeriesMarkers, AreaSeries } = charts;
  const chart = createOptionsChart(canvas, { autoSize: true, layout: { attributionLogo: false } });
  const plain = { lastValueVisible: false, priceLineVisible: false, lineType: 1 };
  const bids = chart.addSeries(AreaSeries, plain);
  const asks = chart.addSeries(AreaSeries, plain);
  const marks = { buy: createSeriesMarkers(bids), sell: createSeriesMarkers(asks) };
  /** @type {any} */
  let drawn = null;
  let drawnMs = 0;
  let spokenMs = 0;

  /**
   * @param {any} state
   * @param {number} nowMs
   */
  return ({ book, instrument, settings, orders }, nowMs) => {
    themed(chart, settings, () => {
      bids.applyOptions(areaOf("buy"));
      asks.applyOptions(areaOf("sell"));
      chart.applyOptions({ localization: { precision: instrument.priceScale } });
      drawn = null;
    });
    const marked = marksOf(orders, instrument);
    const isSame = book === drawn && marked.text === legend.textContent;
    if (isSame || !book.whole || nowMs - drawnMs < EVERY_MS) return;
    [drawn, drawnMs] = [book, nowMs];
    setText(legend, marked.text);
    const step = stepOf(book, instrument.tick);
    const point = (/** @type {[bigint, bigint]} */ [price, total]) => ({
      time: Number(fromUnits(price, instrument.priceScale)),
      value: Number(fromUnits(total, instrument.quantityScale)),
    });
    bids.setData(totals(book.bids, step, -1n).reverse().map(point));
    asks.setData(totals(book.asks, step, 1n).map(point));
    marks.buy.setMarkers(marked.buy);
    marks.sell.setMarkers(marked.sell);
    chart.timeScale().fitContent();
    if (nowMs - spokenMs > SPOKEN_EVERY_MS) {
      spokenMs = nowMs;
      setAttribute(canvas, "aria-label", sentence(book, instrument));
    }
  };
}

/**
 * Return the marks of own orders and of the price that is typed, and what they are in words.
 * @param {{open: {side: "buy" | "sell", price: bigint}[],
 *   typed: {side: "buy" | "sell", price: bigint} | null}} orders
 * @param {import("../instrument.js").Instrument} instrument
 */
function marksOf({ open, typed }, instrument) {
  const colour = coloursOf().text;
  /** @type {{buy: object[], sell: object[], text: string}} */
  const found = { buy: [], sell: [], text: "" };
  const mark = (/** @type {bigint} */ price, /** @type {object} */ how) => ({
    time: Number(fromUnits(price, instrument.priceScale)),
    color: colour,
    ...how,
  });
  for (const { side, price } of open)
    found[side].push(mark(price, { position: "inBar", shape: "square" }));
  if (typed) {
    const arrow = { position: "aboveBar", shape: "arrowDown" };
    found[typed.side].push(mark(typed.price, arrow));
  }
  const texts = [
    open.length &&
      `■ own orders: ${open.map(({ price }) => priceText(price, instrument)).join(", ")}`,
    typed && `▼ typed: ${typed.side} at ${priceText(typed.price, instrument)}`,
  ];
  return { ...found, text: texts.filter(Boolean).join(" · ") };
}

/** @param {"buy" | "sell"} side */
function areaOf(side) {
  const colours = coloursOf();
  const fill = colours[`${side}Bar`];
  return { lineColor: colours[side], topColor: fill, bottomColor: fill };
}

/**
 * Return the step of the price axis: a whole number of ticks.
 * @param {import("../state/book.js").Book} book
 * @param {bigint} tick
 */
function stepOf(book, tick) {
  const reach = [book.bids, book.asks].map((side) => {
    const [first, last] = [side[0], side[Math.min(side.length, LEVELS) - 1]];
    if (!first) return 0n;
    return first.price > last.price ? first.price - last.price : last.price - first.price;
  });
  const far = reach[0] > reach[1] ? reach[0] : reach[1];
  return (far / BigInt(STEPS) / tick + 1n) * tick;
}

/**
 * Return price and sum from the best at each step of a side.
 * @param {import("../state/book.js").Level[]} side
 * @param {bigint} step
 * @param {bigint} away 1n where prices grow with the distance, else -1n.
 * @returns {[bigint, bigint][]}
 */
export function totals(side, step, away) {
  if (side.length === 0) return [];
  /** @type {[bigint, bigint][]} */
  const found = [];
  let [total, number] = [0n, 0];
  const first = side[0].price;
  for (let place = 0; place < STEPS; place += 1) {
    const edge = first + away * step * BigInt(place);
    while (number < side.length && (edge - side[number].price) * away >= 0n) {
      total += side[number].quantity;
      number += 1;
    }
    found.push([edge, total]);
  }
  return found;
}

/**
 * @param {import("../state/book.js").Book} book
 * @param {import("../instrument.js").Instrument} instrument
 */
function sentence(book, instrument) {
  const sum = (/** @type {import("../state/book.js").Level[]} */ side) =>
    fromUnits(
      side.reduce((total, level) => total + level.quantity, 0n),
      instrument.quantityScale,
    );
  return `Depth: ${sum(book.bids)} bid, ${sum(book.asks)} offered.`;
}
