// The ladder: asks above bids around a fixed middle, in rows that never scroll.

import { fromUnits } from "../../shared/amounts.js";
import { element, setAttribute, setText } from "../../shared/dom.js";
import { priceText, quantityText } from "../instrument.js";
import { grouped } from "../state/book.js";

export const ROWS = 12; // of each side
const GROUPINGS = [1, 10, 100]; // ticks

/**
 * @param {Element} root
 * @param {{pick: (price: bigint, quantity: bigint | null, side: "bids" | "asks") => void,
 *   group: (ticks: number) => void, cancel: (ids: string[]) => void}} actions
 */
export function mount(root, actions) {
  const select = element("select", { change: () => actions.group(Number(select.value)) });
  select.append(
    ...GROUPINGS.map((ticks) =>
      element("option", { value: String(ticks) }, ticks === 1 ? "1 tick" : `${ticks} ticks`),
    ),
  );
  const spread = element("td", { colspan: "4", class: "spread" });
  const rows = {
    asks: Array.from({ length: ROWS }, () => rowOf("asks", actions)),
    bids: Array.from({ length: ROWS }, () => rowOf("bids", actions)),
  };
  const heads = ["Own", "Price", "Size", "Total"];
  const table = element(
    "table",
    { keydown: (event) => move(/** @type {KeyboardEvent} */ (event)) },
    element("caption", { class: "spoken" }, "Order book, asks above bids"),
    element(
      "thead",
      {},
      element("tr", {}, ...heads.map((h) => element("th", { scope: "col" }, h))),
    ),
    element(
      "tbody",
      {},
      ...rows.asks.toReversed().map((row) => row.line),
      element("tr", {}, spread),
      ...rows.bids.map((row) => row.line),
    ),
  );
  root.append(element("label", {}, "Group by ", select), table);

  /** @param {any} state */
  return (state) => {
    const { book, instrument, settings, orders } = state;
    if (select.value !== String(settings.grouping)) select.value = String(settings.grouping);
    const step = instrument.tick * BigInt(settings.grouping);
    const sides = /** @type {const} */ (["asks", "bids"]);
    const shown = sides.map((name) => grouped(book[name], name, step, ROWS));
    const most = shown.flat().reduce((top, row) => (row.quantity > top ? row.quantity : top), 1n);
    sides.forEach((name, side) => {
      rows[name].forEach((row, number) => {
        drawRow(
          row,
          shown[side][number],
          most,
          instrument,
          owned(orders, name, step, shown[side][number]),
        );
      });
    });
    // One stop for the tab key, where there is something; arrows move from there.
    const isAsk = shown[0].length > 0;
    rows.asks[0].price.tabIndex = isAsk ? 0 : -1;
    rows.bids[0].price.tabIndex = isAsk ? -1 : 0;
    setText(spread, spreadText(book, instrument));
  };
}

/**
 * @param {"bids" | "asks"} side
 * @param {any} actions
 */
function rowOf(side, actions) {
  /** @typedef {{price: bigint, total: bigint, own: string[]}} Shown */
  /** @type {Shown | null} */
  let shown = null;
  /** @type {Shown | null} */
  let pressed = null; // what a pointer went down on: the ladder may move before it comes up
  const button = (/** @type {string} */ name, /** @type {(level: Shown) => void} */ act) =>
    element("button", {
      type: "button",
      tabindex: "-1",
      class: name,
      pointerdown: () => {
        pressed = shown;
      },
      click: (event) => {
        const level = /** @type {MouseEvent} */ (event).detail > 0 ? pressed : shown;
        if (level) act(level);
      },
    });
  const mark = button("own", ({ own }) => own.length && actions.cancel(own));
  const price = button("price", (level) => actions.pick(level.price, null, side));
  const size = button("size", (level) => actions.pick(level.price, level.total, side));
  const total = element("td");
  const cells = [mark, price, size].map((button) => element("td", {}, button));
  const line = element("tr", { class: side }, ...cells, total);
  /** @param {any} row */
  const show = (row) => {
    shown = row;
  };
  return { line, mark, price, size, total, show };
}

/**
 * @param {ReturnType<typeof rowOf>} row
 * @param {{price: bigint, quantity: bigint, total: bigint} | undefined} level
 * @param {bigint} most
 * @param {import("../instrument.js").Instrument} instrument
 * @param {string[]} own Ids of own orders there.
 */
function drawRow(row, level, most, instrument, own) {
  row.show(level ? { ...level, own } : null);
  setAttribute(row.line, "data-empty", !level);
  setText(row.price, level ? priceText(level.price, instrument) : "");
  setText(row.size, level ? quantityText(level.quantity, instrument) : "");
  setText(row.total, level ? quantityText(level.total, instrument) : "");
  setText(row.mark, own.length ? `◆ ${own.length} ✕` : "");
  setAttribute(row.mark, "aria-label", cancelText(own.length));
  setAttribute(row.mark, "title", cancelText(own.length));
  for (const button of [row.mark, row.price, row.size])
    setAttribute(button, "hidden", button.textContent === "");
  const share = level ? Number((level.quantity * 1000n) / most) / 10 : 0;
  row.line.style.setProperty("--size", `${share}%`);
}

/** @param {number} orders */
function cancelText(orders) {
  if (orders === 0) return false;
  return orders === 1 ? "cancel 1 own order" : `cancel ${orders} own orders`;
}

/**
 * @param {any} orders
 * @param {"bids" | "asks"} name
 * @param {bigint} step
 * @param {{price: bigint} | undefined} level
 * @returns {string[]}
 */
function owned(orders, name, step, level) {
  if (!level) return [];
  return orders.open
    .filter((/** @type {any} */ order) => {
      if ((order.side === "buy") !== (name === "bids")) return false;
      const away = name === "bids" ? order.price - level.price : level.price - order.price;
      return away >= 0n && away < step;
    })
    .map((/** @type {any} */ order) => order.id);
}

/**
 * @param {import("../state/book.js").Book} book
 * @param {import("../instrument.js").Instrument} instrument
 */
function spreadText(book, instrument) {
  const [bid, ask] = [book.bids[0], book.asks[0]];
  if (!book.whole) return "the book is being read";
  if (!bid || !ask) return bid || ask ? "one side is empty" : "nothing rests here";
  return `spread ${fromUnits(ask.price - bid.price, instrument.priceScale)}`;
}

/** @param {KeyboardEvent} event Arrows move between rows and cells of the ladder. */
function move(event) {
  const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  const across = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const button = /** @type {HTMLElement} */ (event.target);
  const cell = button.closest("td");
  if ((!step && !across) || !cell?.parentElement) return;
  event.preventDefault();
  let line = /** @type {Element | null} */ (cell.parentElement);
  const column = Math.max(
    0,
    Math.min(2, [...cell.parentElement.children].indexOf(cell) + (across ?? 0)),
  );
  do {
    if (step) line = (step < 0 ? line?.previousElementSibling : line?.nextElementSibling) ?? null;
    const found = line?.children[column]?.querySelector("button:not([hidden])");
    if (found) {
      /** @type {HTMLElement} */ (found).focus();
      return;
    }
  } while (line && step);
}
