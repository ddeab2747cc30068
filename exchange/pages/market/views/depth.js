// The depth on a canvas, and a sentence for those who cannot see it.

import { fromUnits } from "../../shared/amounts.js";
import { element, setAttribute, setText } from "../../shared/dom.js";
import { priceText } from "../instrument.js";
import { stepAt, stepOf, totals } from "../state/depth.js";
import { coloursOf, themed } from "./charting.js";

const BELOW = 0.16; // part of the height below the axis, where own orders are marked
const ROOM = 12; // steps beside the outermost prices, so that their labels are not cut
const EVERY_MS = 250; // a shape that moves faster cannot be read
const SPOKEN_EVERY_MS = 60_000;

/** @param {Element} root */
export function mount(root) {
  const canvas = element("div", { class: "canvas", role: "img", "aria-label": "Depth" });
  const legend = element("p", { class: "quiet", "data-part": "marks" });
  root.append(canvas, legend);
  const charts = /** @type {any} */ (globalThis).LightweightCharts;
  const { createOptionsChart, createSeriesMarkers, BaselineSeries } = charts;
  const chart = createOptionsChart(canvas, { autoSize: true, layout: { attributionLogo: false } });
  const plain = {
    priceFormat: { type: "custom", formatter: sizeText, minMove: 1e-8 },
    lastValueVisible: false,
    priceLineVisible: false,
    lineType: 1,
    baseValue: { type: "price", price: 0 }, // an area would be filled below 0 too
    autoscaleInfoProvider: fromZero,
  };
  const bids = chart.addSeries(BaselineSeries, plain);
  const asks = chart.addSeries(BaselineSeries, plain);
  bids.priceScale().applyOptions({ scaleMargins: { top: 0.2, bottom: BELOW } });
  const marks = { buy: createSeriesMarkers(bids), sell: createSeriesMarkers(asks) };
  /** @type {any} */
  let drawn = null;
  let drawnMs = 0;
  let spokenMs = 0;
  /** @type {{from: number, to: number} | null} */
  let range = null;
  const ranged = () => range && chart.timeScale().setVisibleLogicalRange(range);
  chart.timeScale().subscribeSizeChange(ranged); // else a resized chart shows another part

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
    const step = stepOf(book, instrument.tick);
    const marked = marksOf(orders, instrument, book, step);
    const isSame = book === drawn && marked.text === legend.textContent;
    if (isSame || !book.whole || nowMs - drawnMs < EVERY_MS) return;
    [drawn, drawnMs] = [book, nowMs];
    setText(legend, marked.text);
    const point = (/** @type {[bigint, bigint]} */ [price, total]) => ({
      time: Number(fromUnits(price, instrument.priceScale)),
      value: Number(fromUnits(total, instrument.quantityScale)),
    });
    const [low, high] = [totals(book.bids, step, -1n).reverse(), totals(book.asks, step, 1n)];
    bids.setData(low.map(point));
    asks.setData(high.map(point));
    marks.buy.setMarkers(marked.buy);
    marks.sell.setMarkers(marked.sell);
    const last = low.length + high.length - 1;
    range = { from: -ROOM, to: last + ROOM };
    ranged();
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
 * @param {import("../state/book.js").Book} book
 * @param {bigint} step
 */
function marksOf({ open, typed }, instrument, book, step) {
  const color = coloursOf().text;
  /** @type {{buy: object[], sell: object[], text: string}} */
  const found = { buy: [], sell: [], text: "" };
  /**
   * @param {{side: "buy" | "sell", price: bigint}} order
   * @param {object} how
   */
  const mark = ({ side, price }, how) => {
    const isBuy = side === "buy";
    const at = stepAt(isBuy ? book.bids : book.asks, step, isBuy ? -1n : 1n, price);
    if (at === null) return; // the words below have it all the same
    found[side].push({ time: Number(fromUnits(at, instrument.priceScale)), color, ...how });
  };
  // Below the axis and above the shape: marks of the same price do not cover each other.
  for (const order of open) mark(order, { position: "atPriceBottom", price: 0, shape: "square" });
  if (typed) mark(typed, { position: "aboveBar", shape: "arrowDown" });
  const texts = [
    open.length &&
      `■ own orders: ${open.map(({ price }) => priceText(price, instrument)).join(", ")}`,
    typed && `▼ typed: ${typed.side} at ${priceText(typed.price, instrument)}`,
  ];
  return { ...found, text: texts.filter(Boolean).join(" · ") };
}

/**
 * Let the axis begin at nothing: a depth that does not looks like another one.
 * @param {() => any} usual
 */
function fromZero(usual) {
  const found = usual();
  return found && { ...found, priceRange: { ...found.priceRange, minValue: 0 } };
}

/** @param {number} size On the axis, which ends below 0 where own orders are marked. */
function sizeText(size) {
  return size < 0 ? "" : size.toLocaleString("en", { maximumSignificantDigits: 4 });
}

/** @param {"buy" | "sell"} side */
function areaOf(side) {
  const colours = coloursOf();
  const fill = colours[`${side}Bar`];
  const line = colours[side];
  return {
    ...{ topLineColor: line, topFillColor1: fill, topFillColor2: fill },
    ...{ bottomLineColor: line, bottomFillColor1: fill, bottomFillColor2: fill },
  };
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
