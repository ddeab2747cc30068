// Candles and volume on a canvas, and a sentence for those who cannot see it.

import { fromUnits } from "../../shared/amounts.js";
import { element, setAttribute } from "../../shared/dom.js";
import { bucket, filled, INTERVALS, news } from "../state/candles.js";
import { candleTable } from "./candle_table.js";
import { coloursOf, themed } from "./charting.js";
import { followed, toEnd } from "./follow.js";

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
  const canvas = element("div", { class: "canvas", role: "img", "aria-label": "Chart" });
  const table = candleTable();
  root.append(
    element("div", { class: "choices", role: "group", "aria-label": "Interval" }, ...buttons),
    canvas,
    table.root,
  );
  const { chart, candles, volume } = chartIn(canvas);
  /** @type {any} */
  let drawn = null;
  let [shownMinutes, until, spokenMs] = [0, 0, 0];

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
    if (state.candles === null) return;
    table.draw(state);
    const { minutes } = state.candles;
    const now = bucket(nowMs, minutes);
    if (state.candles === drawn && now === until) return;
    const point = pointOf(instrument);
    const fresh = now === until ? news(drawn, state.candles, until) : null;
    followed(chart, () => {
      for (const candle of fresh ?? []) {
        candles.update(point.candle(candle));
        volume.update(point.volume(candle));
      }
      if (fresh) return;
      const whole = filled(state.candles, nowMs);
      candles.setData(whole.map((one) => ("open" in one ? point.candle(one) : one)));
      volume.setData(whole.map((one) => ("open" in one ? point.volume(one) : one)));
    });
    if (minutes !== shownMinutes) {
      candles.applyOptions({ priceFormat: formatOf(instrument) });
      toEnd(chart);
    }
    [drawn, until, shownMinutes] = [state.candles, now, minutes];
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
  // What is added first is behind: where somebody drags the scales, bars stay below candles.
  const volume = chart.addSeries(HistogramSeries, {
    priceScaleId: "volume",
    lastValueVisible: false,
    priceLineVisible: false,
  });
  const candles = chart.addSeries(CandlestickSeries, candleColours());
  chart.priceScale("right").applyOptions({ scaleMargins: { top: 0.08, bottom: 0.24 } });
  chart.priceScale("volume").applyOptions({ scaleMargins: { top: 0.8, bottom: 0 } });
  return { chart, candles, volume };
}

function candleColours() {
  const { buy, sell } = coloursOf();
  const parts = ["upColor", "borderUpColor", "wickUpColor"].map((name) => [name, buy]);
  const downs = ["downColor", "borderDownColor", "wickDownColor"].map((name) => [name, sell]);
  return Object.fromEntries([...parts, ...downs]);
}

/** @param {import("../instrument.js").Instrument} instrument */
function formatOf({ priceScale }) {
  return { type: "price", precision: priceScale, minMove: 10 ** -priceScale };
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
