// A question that is answered before anything is done.

import { element } from "../../shared/dom.js";

/**
 * Ask, and wait for the answer. Escape and everything else but the button is a no.
 * @param {string} question
 * @param {string} yes What the button says that it will do.
 * @returns {Promise<boolean>}
 */
export function confirmed(question, yes) {
  if (document.querySelector("dialog[open]")) return Promise.resolve(false);
  return new Promise((resolve) => {
    const dialog = /** @type {HTMLDialogElement} */ (
      element("dialog", { "aria-label": question, class: "ask" })
    );
    const said = (/** @type {string} */ text) => () => dialog.close(text);
    dialog.append(
      element("p", {}, question),
      element("button", { type: "button", click: said("yes"), autofocus: true }, yes),
      element("button", { type: "button", click: said("no") }, "Back"),
    );
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
