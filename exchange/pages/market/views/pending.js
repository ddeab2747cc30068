// Commands of which it is not known what became of them. They have not failed.

import { element, setAttribute, setText } from "../../shared/dom.js";
import { fill, row, section } from "./tables.js";

const SAYS = { sending: "sending", pending: "pending", unknown: "not known yet" };

/**
 * @param {Element} root
 * @param {{again: (key: string) => void, forget: (key: string) => void}} actions
 */
export function mount(root, actions) {
  const title = element("h3", { id: "pending-title" }, "Not known yet");
  const table = section(root, "pending-title", ["Command", "State", "Why", "Action"], title);

  /** @param {{pending: import("../trading/kept.js").Command[]}} state */
  return function draw({ pending }) {
    table.whole.hidden = pending.length === 0;
    table.draw(pending, {
      keyOf: ({ key }) => key,
      make: ({ key, words }) =>
        row(
          3,
          button("Send again", words, () => actions.again(key)),
          button("Forget", words, () => actions.forget(key)),
        ),
      change(element, { words, says, detail }) {
        fill(element, [words, SAYS[says], detail]);
        for (const button of element.querySelectorAll("button"))
          setAttribute(button, "hidden", says !== "unknown");
      },
      empty: "",
    });
  };
}

/**
 * @param {string} text
 * @param {string} words
 * @param {() => void} click
 */
function button(text, words, click) {
  const made = element("button", { type: "button", click, "aria-label": `${text}: ${words}` });
  setText(made, text);
  return made;
}
