// Candles and volume on a canvas, a sentence for those who cannot see it, and the same as a table.

import { fromUnits } from "../../shared/amounts.js";
import { element, keyed, setAttribute, setText } from "../../shared/dom.js";
import { bucket, INTERVALS } from "../state/candles.js";
import { coloursOf, themed } from "./charting.js";

const TABLE_ROWS = 20;
const SPOKEN_EVERY_MS = 60_000;
const LABELS = { 1: "1 m", 5: "5 m", 15: "15 m", 60: "1 h", 240: "4 h", 1440: "1 d" };

/**
 * @param {Element} root
 * @param {{interval: (minutes: number) => void}} actions
 */
export function mount(root, actions) {
  const buttons = INTERVALS.map((minutes) =>
    element(
      "button",
      { type: "button", click: () => actions.interval(minutes) },
      /** @type {Record<number, string>} */ (LABELS)[minutes],
    ),
  );
  const canvas = element("div", { class: "canvas", role: "img" });
  const body = element("tbody");
  const heads = ["From", "Open", "High", "Low", "Close", "Volume"];
  const table = element(
    "details",
    {},
    element("summary", {}, "As a table"),
    element(
      "table",
      {},
      element("caption", { class: "spoken" }, "Candles, newest first"),
      element(
        "thead",
        {},
        element("tr", {}, ...heads.map((h) => element("th", { scope: "col" }, h))),
      ),
      body,
    ),
  );
  root.append(
    element("div", { class: "choices", role: "group", "aria-label": "Interval" }, ...buttons),
    canvas,
    table,
  );
  const { chart, candles, volume } = chartIn(canvas);
  /** @type {any} */
  let [drawn, tabled] = [null, null];
  let spokenMs = 0;

  /**
   * @param {any} state
   * @param {number} nowMs
   */
  return (state, nowMs) => {
    const { instrument, settings } = state;
    buttons.forEach((button, number) => {
      setAttribute(button, "aria-pressed", String(INTERVALS[number] === settings.minutes));
    });
    themed(chart, settings, () => {
      candles.applyOptions(candleColours());
      drawn = null; // each bar of volume has a colour of its own
    });
    if (/** @type {HTMLDetailsElement} */ (table).open && state.candles !== tabled) {
      tabled = state.candles;
      if (tabled !== null) drawTable(body, state);
    }
    if (state.candles === drawn || state.candles === null) return;
    const point = pointOf(instrument);
    if (drawn?.minutes === state.candles.minutes && isNext(drawn, state.candles))
      for (const candle of state.candles.candles.slice(drawn.candles.length - 1)) {
        candles.update(point.candle(candle));
        volume.update(point.volume(candle));
      }
    else {
      const whole = filled(state.candles, nowMs);
      candles.setData(whole.map((one) => ("open" in one ? point.candle(one) : one)));
      volume.setData(whole.map((one) => ("open" in one ? point.volume(one) : one)));
      chart.timeScale().scrollToRealTime();
    }
    drawn = state.candles;
    if (nowMs - spokenMs > SPOKEN_EVERY_MS) {
      spokenMs = nowMs;
      setAttribute(canvas, "aria-label", sentence(state));
    }
  };
}

/** @param {HTMLElement} canvas */
function chartIn(canvas) {
  const { createChart, CandlestickSeries, HistogramSeries } = /** @type {any} */ (globalThis)
    .LightweightCharts;
  const chart = createChart(canvas, {
    autoSize: true,
    layout: { attributionLogo: false },
    timeScale: { timeVisible: true, secondsVisible: false },
  });
  const candles = chart.addSeries(CandlestickSeries, candleColours());
  const volume = chart.addSeries(HistogramSeries, {
    priceScaleId: "volume",
    lastValueVisible: false,
    priceLineVisible: false,
  });
  chart.priceScale("volume").applyOptions({ scaleMargins: { top: 0.8, bottom: 0 } });
  return { chart, candles, volume };
}

function candleColours() {
  const { buy, sell } = coloursOf();
  const parts = ["upColor", "borderUpColor", "wickUpColor"].map((name) => [name, buy]);
  const downs = ["downColor", "borderDownColor", "wickDownColor"].map((name) => [name, sell]);
  return Object.fromEntries([...parts, ...downs]);
}

/**
 * Return how candles become places on the screen: here alone amounts become floats.
 * @param {import("../instrument.js").Instrument} instrument
 */
function pointOf(instrument) {
  const price = (/** @type {bigint} */ units) => Number(fromUnits(units, instrument.priceScale));
  return {
    candle: (/** @type {any} */ one) => ({
      time: one.time,
      open: price(one.open),
      high: price(one.high),
      low: price(one.low),
      close: price(one.close),
    }),
    volume: (/** @type {any} */ one) => ({
      time: one.time,
      value: Number(fromUnits(one.quantity, instrument.quantityScale)),
      color: coloursOf()[one.close >= one.open ? "buyBar" : "sellBar"],
    }),
  };
}

/**
 * Tell whether candles only went on where others ended.
 * @param {any} before
 * @param {any} after
 */
function isNext(before, after) {
  const last = before.candles.at(-1);
  return last !== undefined && after.candles[before.candles.length - 1]?.time === last.time;
}

/**
 * Return all intervals up to now, those without a trade with a time alone.
 * @param {import("../state/candles.js").Candles} state
 * @param {number} nowMs
 * @returns {any[]}
 */
function filled({ candles, minutes }, nowMs) {
  if (candles.length === 0) return [];
  const found = new Map(candles.map((candle) => [candle.time, candle]));
  const whole = [];
  for (let time = candles[0].time; time <= bucket(nowMs, minutes); time += minutes * 60)
    whole.push(found.get(time) ?? { time });
  return whole;
}

/**
 * @param {Element} body
 * @param {any} state
 */
function drawTable(body, { candles, instrument }) {
  const price = (/** @type {bigint} */ units) => fromUnits(units, instrument.priceScale);
  keyed(
    body,
    candles.candles.slice(-TABLE_ROWS).reverse(),
    (one) => String(one.time),
    () => element("tr", {}, ...Array.from({ length: 6 }, () => element("td"))),
    (row, one) => {
      const texts = [new Date(one.time * 1000).toLocaleString(), price(one.open), price(one.high)];
      texts.push(
        price(one.low),
        price(one.close),
        fromUnits(one.quantity, instrument.quantityScale),
      );
      texts.forEach((text, number) => {
        setText(row.children[number], text);
      });
    },
  );
}

/** @param {any} state */
function sentence({ candles, instrument }) {
  const last = candles.candles.at(-1);
  if (!last) return `Chart of ${instrument.name}: no trades in this time.`;
  const shown = candles.candles;
  const high = shown.reduce((top, one) => (one.high > top ? one.high : top), last.high);
  const low = shown.reduce((least, one) => (one.low < least ? one.low : least), last.low);
  const [at, most, least] = [last.close, high, low].map((u) => fromUnits(u, instrument.priceScale));
  return `Chart of ${instrument.name}: last price ${at}, highest ${most}, lowest ${least}.`;
}
