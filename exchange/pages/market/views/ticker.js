// The ticker: the last price, what the day did, and the best of both sides.

import { fromUnits, grouped, toUnits, trimmed } from "../../shared/amounts.js";
import { element, setAttribute, setText } from "../../shared/dom.js";
import { priceText } from "../instrument.js";
import { changeText } from "../state/day.js";

const TITLE_EVERY_MS = 1_000; // the browser draws a title outside of the page, which takes longer

/** @param {Element} root */
export function mount(root) {
  const last = element("strong", { "data-part": "last" });
  const names = ["change", "high", "low", "volume", "bid", "ask"];
  const parts = Object.fromEntries(
    names.map((name) => [name, element("span", { "data-part": name })]),
  );
  root.append(last, ...Object.values(parts));

  let titledMs = 0;

  /**
   * @param {any} state
   * @param {number} nowMs
   */
  return ({ ticker, instrument }, nowMs) => {
    const { live, day } = ticker;
    const text = (/** @type {any} */ price) =>
      price == null ? "–" : priceText(toUnits(price, instrument.priceScale), instrument);
    const price = live?.last_price ?? null;
    setText(last, price === null ? "no trade yet" : `${text(price)} ${instrument.quote}`);
    const { prices, quantity } = day ?? { prices: null, quantity: 0n };
    const change = prices ? changeText(prices) : { text: "", side: "" };
    setText(parts.change, change.text);
    setAttribute(parts.change, "class", change.side || false);
    setText(parts.high, prices ? `high ${priceText(prices.high, instrument)}` : "");
    setText(parts.low, prices ? `low ${priceText(prices.low, instrument)}` : "");
    const volume = grouped(trimmed(fromUnits(quantity, instrument.quantityScale), 0));
    setText(parts.volume, day ? `volume ${volume} ${instrument.base}` : "");
    setText(parts.bid, `bid ${text(live?.best_bid)}`);
    setText(parts.ask, `ask ${text(live?.best_ask)}`);
    const title = price === null ? instrument.name : `${text(price)} ${instrument.name}`;
    if (document.title === title || nowMs - titledMs < TITLE_EVERY_MS) return;
    [document.title, titledMs] = [title, nowMs];
  };
}
