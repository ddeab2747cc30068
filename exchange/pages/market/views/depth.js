// The depth: how much rests up to each price, in even steps of price around the middle.

import { fromUnits } from "../../shared/amounts.js";
import { element, setAttribute } from "../../shared/dom.js";
import { coloursOf, themed } from "./charting.js";

const STEPS = 50; // of each side
const LEVELS = 60; // the chart reaches as far as so many levels do
const EVERY_MS = 250; // a shape that moves faster cannot be read
const SPOKEN_EVERY_MS = 60_000;

/** @param {Element} root */
export function mount(root) {
  const canvas = element("div", { class: "canvas", role: "img", "aria-label": "Depth" });
  root.append(canvas);
  const { createOptionsChart, AreaSeries } = /** @type {any} */ (globalThis).LightweightCharts;
  const chart = createOptionsChart(canvas, { autoSize: true, layout: { attributionLogo: false } });
  const plain = { lastValueVisible: false, priceLineVisible: false, lineType: 1 };
  const bids = chart.addSeries(AreaSeries, plain);
  const asks = chart.addSeries(AreaSeries, plain);
  /** @type {any} */
  let drawn = null;
  let drawnMs = 0;
  let spokenMs = 0;

  /**
   * @param {any} state
   * @param {number} nowMs
   */
  return ({ book, instrument, settings }, nowMs) => {
    themed(chart, settings, () => {
      bids.applyOptions(areaOf("buy"));
      asks.applyOptions(areaOf("sell"));
    });
    if (book === drawn || !book.whole || nowMs - drawnMs < EVERY_MS) return;
    [drawn, drawnMs] = [book, nowMs];
    const step = stepOf(book, instrument.tick);
    const point = (/** @type {[bigint, bigint]} */ [price, total]) => ({
      time: Number(fromUnits(price, instrument.priceScale)),
      value: Number(fromUnits(total, instrument.quantityScale)),
    });
    bids.setData(totals(book.bids, step, -1n).reverse().map(point));
    asks.setData(totals(book.asks, step, 1n).map(point));
    chart.timeScale().fitContent();
    if (nowMs - spokenMs > SPOKEN_EVERY_MS) {
      spokenMs = nowMs;
      setAttribute(canvas, "aria-label", sentence(book, instrument));
    }
  };
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
