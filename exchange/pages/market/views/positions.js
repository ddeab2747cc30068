// A client's positions, with profit and loss.

import { cut, trimmed } from "../../shared/amounts.js";
import { setAttribute } from "../../shared/dom.js";
import { fill, row, section, shown } from "./tables.js";

const PLACES = 8; // of what is reckoned, where the scale of its price is not known
const HEADS = ["Instrument", "Net", "Average", "Mark", "Unrealised", "Realised"];

/** @param {Element} root */
export function mount(root) {
  const table = section(root, "positions-title", HEADS);

  /** @param {any} state */
  return function draw({ positions, settings, whyOld, instrumentOf }) {
    const isKnown = !settings.client || positions.isKnown;
    table.draw(positions.rows, {
      keyOf: (/** @type {any} */ { instrument }) => instrument,
      make: () => row(HEADS.length),
      change(element, position) {
        const { instrument, net_quantity, avg_price, mark_price } = position;
        const { unrealised_pnl, realised_pnl } = position;
        const { quote = "", priceScale: places = PLACES } = instrumentOf(instrument) ?? {};
        const average = cut(shown(avg_price), places); // titles have the whole of what is cut
        const cells = [instrument, holding(net_quantity), average, shown(mark_price)];
        setAttribute(element.children[2], "title", shown(avg_price));
        setAttribute(element.children[4], "title", gain(unrealised_pnl, quote));
        setAttribute(element.children[5], "title", gain(realised_pnl, quote));
        const gains = [unrealised_pnl, realised_pnl].map((money) => gain(money, quote, places));
        fill(element, [...cells, ...gains]);
        setAttribute(element.children[4], "data-side", sideOfGain(unrealised_pnl));
        setAttribute(element.children[5], "data-side", sideOfGain(realised_pnl));
      },
      empty: isKnown ? "No positions." : "Asking for positions…",
      old: whyOld.positions && `These may be old: ${whyOld.positions}`,
    });
  };
}

/** @param {string | number} net */
function holding(net) {
  const text = String(net);
  if (text === "0") return "0";
  return text.startsWith("-") ? `${shown(text.slice(1))} short` : `${shown(text)} long`;
}

/**
 * A sign beside the colour, for who sees no colours.
 * @param {string | number | null} money
 * @param {string} quote What it is in.
 * @param {number} [places] That are shown, if there are more.
 */
function gain(money, quote, places = Number.POSITIVE_INFINITY) {
  const text = short(money);
  if (text === "–" || text === "0") return text;
  const signed = text.startsWith("-") ? `−${shown(text.slice(1))}` : `+${shown(text)}`;
  return `${cut(signed, places)} ${quote}`.trim();
}

/** @param {string | number | null} money */
function sideOfGain(money) {
  const text = short(money);
  if (text === "–" || text === "0") return false;
  return text.startsWith("-") ? "sell" : "buy";
}

/** @param {string | number | null} money */
function short(money) {
  if (money === null || money === undefined) return "–";
  return trimmed(String(money), 0);
}
