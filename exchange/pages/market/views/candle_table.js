// The candles as a table, which is read only once it is open.

import { element, keyed, setText } from "../../shared/dom.js";
import { priceText, quantityText } from "../instrument.js";
import { timeOf } from "./tables.js";

const TABLE_ROWS = 20;
const HEADS = ["From", "Open", "High", "Low", "Close", "Volume"];

export function candleTable() {
  const body = element("tbody");
  const columns = HEADS.map((head) => element("th", { scope: "col" }, head));
  const root = /** @type {HTMLDetailsElement} */ (
    element(
      "details",
      {},
      element("summary", {}, "As a table"),
      element(
        "table",
        { class: "candle-table" },
        element("caption", { class: "spoken" }, "Candles, newest first"),
        element("thead", {}, element("tr", {}, ...columns)),
        body,
      ),
    )
  );
  /** @type {any} */
  let drawn = null;

  return {
    root,
    /** @param {any} state */
    draw(state) {
      if (!root.open || state.candles === drawn) return;
      drawn = state.candles;
      drawRows(body, state);
    },
  };
}

/**
 * @param {Element} body
 * @param {any} state
 */
function drawRows(body, { candles, instrument }) {
  const price = (/** @type {bigint} */ units) => priceText(units, instrument);
  keyed(
    body,
    candles.candles.slice(-TABLE_ROWS).reverse(),
    (one) => String(one.time),
    () => element("tr", {}, ...Array.from({ length: 6 }, () => element("td"))),
    (row, one) => {
      const from = timeOf(new Date(one.time * 1000).toISOString());
      const prices = [one.open, one.high, one.low, one.close].map(price);
      const texts = [from, ...prices, quantityText(one.quantity, instrument)];
      texts.forEach((text, number) => {
        setText(row.children[number], text);
      });
    },
  );
}
