// The market page begins here: what is read once, what the stream then changes, what is drawn.

import { setAttribute } from "../shared/dom.js";
import { setClock } from "../shared/door.js";
import { ask } from "./ask.js";
import { Connection } from "./connection.js";
import { choose } from "./instruments.js";
import * as settingsOf from "./settings.js";
import * as books from "./state/book.js";
import * as candles from "./state/candles.js";
import * as days from "./state/day.js";
import { at, BEGIN } from "./state/line.js";
import * as tapes from "./state/trades.js";
import { storeOf } from "./store.js";
import { trading } from "./trading.js";
import { mountAll } from "./views/all.js";

const DAY_EVERY_MS = 30_000; // trades move the figures of 24 hours on; this takes old ones out
const RECENT = 2_000; // trades that an answer may not have yet: ten seconds of 200 a second

const settings = settingsOf.load();
settingsOf.show(settings);
const { door, unix_ms: timeMs } = await ask("./time");
setClock(timeMs);
if (door === "keys") settings.client = ""; // until somebody logs in
const { instrument, listed } = await choose();
/** @type {any[]} */
let recent = [];

const store = storeOf(
  {
    instrument,
    settings,
    line: BEGIN,
    book: books.EMPTY,
    tape: /** @type {tapes.Tape} */ ([]),
    ticker: { live: null, day: /** @type {days.Day | null} */ (null) },
    candles: /** @type {candles.Candles | null} */ (null),
  },
  (state) => {
    const nowMs = Date.now();
    const line = at(state.line, nowMs);
    for (const part of document.querySelectorAll(".market-data"))
      setAttribute(part, "data-stale", line.word !== "live");
    const orders = { open: desk.open(), typed: desk.typed() };
    for (const draw of views) attempt(() => draw({ ...state, line, orders }, nowMs));
    attempt(() => desk.draw());
  },
);

/**
 * Draw a part. One that fails must not stop the others: above all, the line would not say so.
 * @param {() => void} draw
 */
function attempt(draw) {
  try {
    draw();
  } catch (error) {
    reportError(error); // on the console
  }
}

const actions = {
  /** @param {Record<string, unknown>} changes */
  settings(changes) {
    const after = { ...store.get().settings, ...changes };
    settingsOf.save(after);
    settingsOf.show(after);
    store.set({ settings: after });
  },
  /** @param {number} minutes */
  interval(minutes) {
    actions.settings({ minutes });
    readCandles();
  },
  /** @param {number} grouping */
  group: (grouping) => actions.settings({ grouping }),
  /** Put a level into the form of an order. */
  pick: (
    /** @type {bigint} */ price,
    /** @type {bigint | null} */ quantity,
    /** @type {"bids" | "asks"} */ side,
  ) => desk.pick(price, quantity, side),
  cancel: (/** @type {string[]} */ ids) => desk.cancel(ids),
};
const views = mountAll(actions);

const connection = new Connection(instrument.name, {
  line: (line) => store.set({ line }),
  resumed: (sequence) => store.set({ tape: tapes.resumed(store.get().tape, sequence) }),
  message(message) {
    const state = store.get();
    desk.heard(message);
    if (message.type === "orderbook")
      store.set({ book: books.fold(state.book, message, instrument) });
    else if (message.type === "ticker") store.set({ ticker: { ...state.ticker, live: message } });
    else if (message.type === "trades") {
      recent = recent.concat(message.trades).slice(-RECENT);
      const { live, day } = state.ticker;
      store.set({
        ticker: { live, day: day && days.fold(day, message.trades, instrument) },
        tape: tapes.fold(state.tape, message.trades, instrument),
        candles: state.candles && candles.fold(state.candles, message.trades, instrument),
      });
    }
  },
});

const desk = trading({
  instrument,
  door,
  identify: () => connection.identify(),
  instrumentOf: (name) => listed.get(name),
  book: () => store.get().book,
  settings: () => store.get().settings,
  choose: actions.settings,
  changed: () => store.set({}),
  follow: (client, sequence) => connection.follow(client, sequence),
  answered: (ms) => connection.answered(ms),
  why() {
    const line = at(store.get().line, Date.now());
    return line.word === "live" ? "" : line.why;
  },
});

async function readCandles() {
  const { minutes } = store.get().settings;
  const told = await ask("./market/analytics", {
    instrument: instrument.name,
    interval: minutes,
    start_time: new Date(Date.now() - candles.SHOWN * minutes * 60_000).toISOString(),
  });
  if (store.get().settings.minutes !== minutes) return; // another was chosen meanwhile
  store.set({ candles: candles.fold(candles.begin(told, instrument), recent, instrument) });
}

async function readDay() {
  if (document.visibilityState === "hidden") return;
  const told = await ask("./market/ticker", { instrument: instrument.name });
  const day = days.fold(days.begin(told.day, instrument), recent, instrument);
  store.set({ ticker: { ...store.get().ticker, day } });
}

const told = await ask("./market/trades", { instrument: instrument.name, limit: tapes.KEPT });
recent = told.trades.reverse();
store.set({ tape: tapes.fold([], recent, instrument) });
connection.start({ trades: told.sequence });
await Promise.all([readCandles(), readDay()]);
setInterval(readDay, DAY_EVERY_MS);
