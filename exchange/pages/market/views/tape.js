// The tape: newest trade first, with a word for its side, and a line where a connection went on.

import { element, keyed } from "../../shared/dom.js";
import { priceText, quantityText } from "../instrument.js";

const SHOWN = 25; // as high as the ladder
const CLOCK = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

/** @param {Element} root */
export function mount(root) {
  const body = element("tbody");
  const heads = ["Time", "Price", "Size", "Taker"];
  root.append(
    element(
      "table",
      {},
      element("caption", { class: "spoken" }, "Trades, newest first"),
      element(
        "thead",
        {},
        element("tr", {}, ...heads.map((h) => element("th", { scope: "col" }, h))),
      ),
      body,
    ),
  );

  /** @param {any} state */
  return ({ tape, instrument }) => {
    keyed(
      body,
      tape.slice(0, SHOWN),
      (one) => one.key,
      (one) => lineOf(one, instrument),
      () => {}, // a trade never changes
    );
  };
}

/**
 * @param {any} one
 * @param {import("../instrument.js").Instrument} instrument
 */
function lineOf(one, instrument) {
  if ("resumed" in one) {
    const text = `resumed at ${one.resumed}, nothing missed`;
    return element("tr", { class: "seam" }, element("td", { colspan: "4" }, text));
  }
  const price = priceText(one.price, instrument);
  const size = quantityText(one.quantity, instrument);
  return element(
    "tr",
    { class: `${one.side}${one.large ? " large" : ""}` },
    element("td", { title: one.time }, CLOCK.format(new Date(one.time))),
    element("td", {}, price),
    element("td", {}, one.large ? `${size} ★` : size),
    element("td", {}, one.side),
  );
}
