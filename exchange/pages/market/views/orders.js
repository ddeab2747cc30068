// A client's working orders.

import { toUnits } from "../../shared/amounts.js";
import { element, setAttribute, setText } from "../../shared/dom.js";
import { priceText } from "../instrument.js";
import { wordsOf } from "../state/entry.js";
import { rows } from "../state/orders.js";
import { fill, pager, row, section, shown, sideOf, timeOf } from "./tables.js";

const HEADS = [
  ...["Time", "Instrument", "Side", "Price", "Quantity", "Filled", "Status"],
  ...["Order id", "Action"],
];
const ID = 7; // its column

/**
 * @param {Element} root
 * @param {any} actions
 */
export function mount(root, actions) {
  const all = element("button", { type: "button", click: actions.cancelAll }, "Cancel all");
  const table = section(root, "orders-title", HEADS, all);
  const pages = pager(
    "orders",
    () => actions.more("orders", next),
    () => actions.newest("orders"),
  );
  table.whole.append(pages.root);

  /** @type {string | null} */
  let next = null;

  /** @param {any} state */
  return function draw({ orders, cancelling, settings, whyOld, instrumentOf }) {
    const working = rows(orders);
    const areKnown = !settings.client || orders.isKnown;
    table.draw(working, {
      keyOf: ({ order_id }) => order_id,
      make(order) {
        const { instrument } = order;
        const words = wordsOf(/** @type {any} */ (order), instrument, instrumentOf(instrument));
        const click = () => actions.cancel(order);
        return row(
          HEADS.length - 1,
          element("button", { type: "button", "aria-label": `Cancel: ${words}`, click }),
        );
      },
      change(element, order) {
        const { created_at, instrument, side, price, quantity, filled_quantity, status } = order;
        const listed = instrumentOf(instrument);
        const isKnown = listed && price !== null;
        fill(element, [
          timeOf(created_at),
          instrument,
          sideOf(side),
          isKnown ? priceText(toUnits(price, listed.priceScale), listed) : shown(price),
          shown(quantity),
          shown(filled_quantity),
          status.replace("_", " "),
          order.order_id,
        ]);
        setAttribute(element.children[ID], "class", "id");
        setAttribute(element.children[ID], "title", order.order_id);
        setAttribute(element, "data-side", side);
        const isGoing = cancelling.has(order.order_id);
        const button = /** @type {Element} */ (element.querySelector("button"));
        setText(button, isGoing ? "Cancelling…" : "Cancel");
        setAttribute(button, "aria-disabled", String(isGoing));
      },
      empty: areKnown ? "No open orders." : "Asking for open orders…",
      old: whyOld.orders && `These may be old: ${whyOld.orders}`,
    });
    setAttribute(all, "hidden", working.length === 0);
    next = orders.next;
    pages.draw(orders);
  };
}
