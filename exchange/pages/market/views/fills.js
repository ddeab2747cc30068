// A client's fills of the instrument that is looked at.

import { toUnits } from "../../shared/amounts.js";
import { setAttribute } from "../../shared/dom.js";
import { priceText } from "../instrument.js";
import { keyOf, rows } from "../state/fills.js";
import { fill, pager, row, section, shown, sideOf, timeOf } from "./tables.js";

const HEADS = ["Time", "Side", "Price", "Quantity", "Role"];

/**
 * @param {Element} root
 * @param {any} actions
 */
export function mount(root, actions) {
  const table = section(root, "fills-title", HEADS);
  const pages = pager(
    "fills",
    () => actions.more("fills", next),
    () => actions.newest("fills"),
  );
  table.whole.append(pages.root);

  /** @type {string | null} */
  let next = null;

  /** @param {any} state */
  return function draw({ fills, settings, instrument, whyOld }) {
    const isKnown = !settings.client || fills.isKnown;
    table.draw(rows(fills), {
      keyOf,
      make: () => row(HEADS.length),
      change(element, { timestamp, side, price, quantity, role }) {
        const units = toUnits(price, instrument.priceScale);
        const at = priceText(units, instrument); // as the ladder and the tape have it
        fill(element, [timeOf(timestamp), sideOf(side), at, shown(quantity), role]);
        setAttribute(element, "data-side", side);
      },
      empty: isKnown ? `No fills of ${instrument.name}.` : "Asking for fills…",
      old: whyOld.fills && `These may be old: ${whyOld.fills}`,
    });
    next = fills.next;
    pages.draw(fills);
  };
}
