// Tables of rows that come and go, with pages.

import { grouped } from "../../shared/amounts.js";
import { element, keyed, setAttribute, setText } from "../../shared/dom.js";

/**
 * @param {Element} root
 * @param {string} title The id of its title.
 * @param {readonly string[]} heads
 * @param {...Node} controls Above it.
 */
export function section(root, title, heads, ...controls) {
  const body = element("tbody");
  const note = element("p", { class: "quiet" });
  const why = element("p", { class: "warning" });
  const columns = heads.map((head) => element("th", { scope: "col" }, head));
  const table = element(
    "table",
    { "aria-labelledby": title },
    element("thead", {}, element("tr", {}, ...columns)),
    body,
  );
  const scrolled = { class: "scroll", tabindex: "0", role: "group", "aria-labelledby": title };
  const whole = element(
    "div",
    {},
    element("div", { class: "row" }, ...controls),
    why,
    element("div", scrolled, table),
    note,
  );
  root.append(whole);

  return {
    whole,
    /**
     * @template T
     * @param {readonly T[]} rows
     * @param {object} how
     * @param {(row: T) => string} how.keyOf
     * @param {(row: T) => Element} how.make
     * @param {(element: Element, row: T) => void} how.change
     * @param {string} how.empty What is said when there are none.
     * @param {string} [how.old] Why there are no newer ones.
     */
    draw(rows, { keyOf, make, change, empty, old = "" }) {
      const focused = /** @type {HTMLElement | null} */ (document.activeElement);
      const row = focused?.closest("tr") ?? null;
      const place = row && body.contains(row) ? [...body.children].indexOf(row) : -1;
      keyed(body, rows, keyOf, make, change);
      if (place >= 0 && !focused?.isConnected) refocus(place);
      setText(note, rows.length === 0 ? empty : "");
      setText(why, old);
    },
  };

  /**
   * The row that had the focus has gone: the keyboard goes on with the next one.
   * @param {number} place
   */
  function refocus(place) {
    const next = body.children[Math.min(place, body.children.length - 1)];
    const scroll = /** @type {HTMLElement} */ (table.parentElement);
    (next?.querySelector("button") ?? scroll).focus();
  }
}

/**
 * Make a row with empty cells.
 * @param {number} cells
 * @param {...Node} last What its last cell has.
 */
export function row(cells, ...last) {
  const made = element("tr");
  for (let place = 0; place < cells; place += 1) made.append(element("td"));
  if (last.length > 0) made.append(element("td", {}, ...last));
  return made;
}

/**
 * @param {Element} row
 * @param {readonly (string | number | null)[]} texts
 */
export function fill(row, texts) {
  texts.forEach((text, place) => {
    setText(row.children[place], String(text ?? "–"));
  });
}

/** @param {string | number | null} amount */
export function shown(amount) {
  return amount === null || amount === undefined ? "–" : grouped(String(amount));
}

/** @param {string} side */
export function sideOf(side) {
  return side === "buy" ? "Buy" : "Sell";
}

/**
 * A time of today without its date.
 * @param {string} timestamp
 */
export function timeOf(timestamp) {
  const time = new Date(timestamp);
  const isToday = time.toDateString() === new Date().toDateString();
  return isToday ? time.toLocaleTimeString() : time.toLocaleString();
}

/**
 * Buttons for older rows and back to the newest ones.
 * @param {string} what
 * @param {() => void} more
 * @param {() => void} newest
 */
export function pager(what, more, newest) {
  const older = element("button", { type: "button", click: more }, `Older ${what}`);
  const back = element("button", { type: "button", click: newest }, `Newest ${what}`);
  return {
    root: element("div", { class: "row" }, older, back),
    /** @param {{next: string | null, isFirst: boolean}} list */
    draw({ next, isFirst }) {
      setAttribute(older, "hidden", next === null);
      setAttribute(back, "hidden", isFirst);
    },
  };
}
