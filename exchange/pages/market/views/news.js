// What is read out by itself: own fills, and own commands that were refused. Nothing of the market.

import { element, setText } from "../../shared/dom.js";

/** @param {Element} root */
export function mount(root) {
  const region = element("p", { id: "news", "aria-live": "polite", class: "news" });
  root.append(region);
  let drawn = 0;

  /** @param {{news: {text: string, count: number}}} state */
  return function draw({ news }) {
    if (drawn === news.count) return;
    drawn = news.count;
    // The same words again are another fill: an element of its own is read out again.
    region.replaceChildren(element("span"));
    setText(/** @type {Element} */ (region.firstElementChild), news.text);
  };
}
