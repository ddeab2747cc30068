// All views, each in its place of the page.

import * as candles from "./candles.js";
import * as depth from "./depth.js";
import * as ladder from "./ladder.js";
import * as line from "./line.js";
import * as settings from "./settings.js";
import * as tape from "./tape.js";
import * as ticker from "./ticker.js";

/**
 * @param {any} actions
 * @returns {((state: any, nowMs: number) => void)[]} What draws each of them.
 */
export function mountAll(actions) {
  const place = (/** @type {string} */ id) => /** @type {Element} */ (document.getElementById(id));
  const drawLine = line.mount(place("line"));
  return [
    ticker.mount(place("ticker")),
    ladder.mount(place("ladder"), actions),
    tape.mount(place("tape")),
    candles.mount(place("candles"), actions),
    depth.mount(place("depth")),
    settings.mount(place("settings"), actions),
    (state, nowMs) => drawLine(state.line, nowMs),
  ];
}
