// Tables and figures, as all views make them.

import { element, keyed, setAttribute, setText } from "../../shared/dom.js";

/** @typedef {{key: string, cells: (string | Node)[]}} Row */

const COLUMNS_NARROW_MAX = 4; // that a narrow screen has room for

/**
 * Make a table whose rows are found again by their keys.
 * @param {string} caption
 * @param {string[]} headings
 * @param {string} [none] What a table without rows says.
 * @returns {{table: HTMLElement, draw: (rows: Row[], named?: string[]) => void,
 *   clear: () => void}} `draw` may name the columns anew; what is cleared is not shown: nothing
 *   is known of it, which is not the same as a table without rows.
 */
export function tableOf(caption, headings, none = "none") {
  // The roles are said, since rows are cards on a narrow screen, and so would lose them.
  const body = element("tbody", { role: "rowgroup" });
  const column = { scope: "col", role: "columnheader" };
  const named = headings.map((name) => element("th", column, name));
  const head = element("tr", { role: "row" }, ...named);
  const table = element(
    "table",
    { role: "table", class: headings.length > COLUMNS_NARROW_MAX ? "cards" : "" },
    element("caption", {}, caption),
    element("thead", { role: "rowgroup" }, head),
    body,
  );
  const span = { role: "cell", class: "quiet wide", colspan: String(headings.length) };
  const empty = element("tr", { role: "row" }, element("td", span, none));
  return {
    table,
    draw(rows, names = headings) {
      table.hidden = false;
      names.forEach((name, index) => {
        setText(head.children[index], name);
      });
      empty.remove();
      keyed(
        body,
        rows,
        (row) => row.key,
        () => element("tr", { role: "row" }, ...names.map(cell)),
        (made, row) => {
          row.cells.forEach((cell, index) => {
            setAttribute(made.children[index], "data-name", names[index]);
            fill(made.children[index], cell);
          });
        },
      );
      if (!rows.length) body.append(empty);
    },
    clear() {
      table.hidden = true;
    },
  };
}

/** @param {string} name */
function cell(name) {
  return element("td", { role: "cell", "data-name": name });
}

/**
 * @param {Element} into
 * @param {string | Node} cell
 */
function fill(into, cell) {
  if (typeof cell === "string") {
    if (into.firstElementChild) into.replaceChildren(cell);
    else setText(into, cell);
    setAttribute(
      into,
      "class",
      /^(–|-?[\d,\u202f]+(\.\d+)?( .{1,3}| to \d+)?)$/.test(cell) ? "number" : "",
    );
  } else if (into.firstChild !== cell) {
    into.replaceChildren(cell);
    setAttribute(into, "class", cell instanceof HTMLDivElement ? "wide" : "");
  }
}

/** @param {number | null | undefined} value */
export function figure(value) {
  return value === null || value === undefined ? "?" : value.toLocaleString("en");
}

/** @param {string | null} time ISO 8601 */
export function moment(time) {
  return time === null ? "" : time.replace("T", " ").replace(/(\.\d+)?(\+00:00|Z)$/, "Z");
}

/**
 * A word in the colour of what it means.
 * @param {string} word
 * @param {string} tone
 */
export function toned(word, tone) {
  return element("span", { class: tone }, word);
}

/**
 * From which generation to which a change went.
 * @param {any} one
 */
export function moved(one) {
  const from = one.from_generation;
  const to = one.to_generation;
  return from === null || from === to ? String(to ?? "") : `${from} to ${to}`;
}
