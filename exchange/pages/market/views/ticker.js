// The ticker: the last price, what the day did, and the best of both sides.

import { grouped, toUnits } from "../../shared/amounts.js";
import { element, setAttribute, setText } from "../../shared/dom.js";
import { priceText } from "../instrument.js";

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
    setText(
      parts.change,
      day?.change_percent == null ? "" : `24 h ${signed(day.change_percent)} %`,
    );
    setAttribute(parts.change, "class", direction(day?.change_percent));
    setText(parts.high, day?.high == null ? "" : `high ${text(day.high)}`);
    setText(parts.low, day?.low == null ? "" : `low ${text(day.low)}`);
    setText(parts.volume, day ? `volume ${grouped(String(day.quantity))} ${instrument.base}` : "");
    setText(parts.bid, `bid ${text(live?.best_bid)}`);
    setText(parts.ask, `ask ${text(live?.best_ask)}`);
    const title = price === null ? instrument.name : `${text(price)} ${instrument.name}`;
    if (document.title === title || nowMs - titledMs < TITLE_EVERY_MS) return;
    [document.title, titledMs] = [title, nowMs];
  };
}

/** @param {unknown} percent */
function signed(percent) {
  const digits = String(percent);
  return digits.startsWith("-") ? `▼ ${digits}` : `▲ +${digits}`;
}

/** @param {unknown} percent */
function direction(percent) {
  return String(percent ?? "").startsWith("-") ? "sell" : "buy";
}
