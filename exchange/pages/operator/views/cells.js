// Tables and figures, as all views make them.

import { element, keyed, setAttribute, setText } from "../../shared/dom.js";

/**
 * Make a table whose rows are found again by their keys.
 * @param {string} caption
 * @param {string[]} headings
 * @returns {{table: HTMLElement, draw: (rows: {key: string, cells: (string | Node)[]}[]) => void}}
 */
export function tableOf(caption, headings) {
  const body = element("tbody");
  const head = element("tr", {}, ...headings.map((name) => element("th", { scope: "col" }, name)));
  const table = element(
    "table",
    {},
    element("caption", {}, caption),
    element("thead", {}, head),
    body,
  );
  return {
    table,
    draw(rows) {
      keyed(
        body,
        rows,
        (row) => row.key,
        (row) => element("tr", {}, ...row.cells.map(() => element("td"))),
        (made, row) => {
          row.cells.forEach((cell, index) => {
            fill(made.children[index], cell);
          });
        },
      );
    },
  };
}

/**
 * @param {Element} into
 * @param {string | Node} cell
 */
function fill(into, cell) {
  if (typeof cell === "string") {
    if (into.firstElementChild) into.replaceChildren(cell);
    else setText(into, cell);
    setAttribute(into, "class", /^-?[\d,\u202f]+(\.\d+)?( .{1,3})?$/.test(cell) ? "number" : "");
  } else if (into.firstChild !== cell) into.replaceChildren(cell);
}

/** @param {number | null | undefined} value */
export function figure(value) {
  return value === null || value === undefined ? "?" : value.toLocaleString("en");
}

/** @param {number | null} bytes */
export function sized(bytes) {
  if (bytes === null) return "";
  return bytes >= 1e6 ? `${(bytes / 1e6).toFixed(1)} MB` : `${Math.round(bytes / 1e3)} kB`;
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
