// What the builder said of a generation: open while it is made, and there to be opened afterwards.

import { element, setText } from "../../shared/dom.js";
import { moment } from "./cells.js";

const TIME = /^\S+/;

export function builderLines() {
  /** @type {Map<string, {details: HTMLDetailsElement, text: Element, wasMade: boolean}>} */
  const known = new Map();

  /** @param {string} name */
  function made(name) {
    const text = element("pre");
    const title = element("summary", { "aria-label": `Log of ${name}` }, "log");
    const details = /** @type {HTMLDetailsElement} */ (element("details", {}, title, text));
    const one = { details, text, wasMade: false };
    known.set(name, one);
    return one;
  }

  /**
   * Return the element that shows what was said of a generation; between the beginning and the end
   * of a build it stays open or closed as people leave it.
   * @param {string} name
   * @param {string[]} lines With their times, oldest first.
   * @param {boolean} isMade Whether it is being made.
   */
  return function shown(name, lines, isMade) {
    const one = known.get(name) ?? made(name);
    const { details, text } = one;
    if (one.wasMade !== isMade) details.open = isMade;
    one.wasMade = isMade;
    details.hidden = lines.length === 0;
    setText(text, lines.map((line) => line.replace(TIME, moment)).join("\n"));
    return details;
  };
}
