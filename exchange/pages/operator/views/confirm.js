// Before a change: what it will do, who asks for it, and why. After it: what was done.

import { element } from "../../shared/dom.js";
import { ask, change } from "../requests.js";
import { NEXT } from "../state/actions.js";

const NAME_KEPT = "operator";

/**
 * @param {HTMLDialogElement} dialog
 * @param {object} given
 * @param {() => string} given.name Who started the desk.
 * @param {() => string} given.warning Why what is shown may be old; "" if it is not.
 */
export function confirmIn(dialog, given) {
  /** @param {import("../state/actions.js").Action} action */
  return function confirm(action) {
    const name = /** @type {HTMLInputElement} */ (
      element("input", {
        maxlength: "100",
        autocomplete: "off",
        required: true,
        pattern: ".*\\S.*",
      })
    );
    name.value = localStorage.getItem(NAME_KEPT) || given.name();
    const reason = /** @type {HTMLInputElement} */ (
      element("input", {
        maxlength: "1000",
        autocomplete: "off",
        required: action.needsReason ?? false,
      })
    );
    const told = element("p", { role: "status" });
    const cost = element("p", { class: "quiet" });
    const go = /** @type {HTMLButtonElement} */ (
      element("button", { type: "submit" }, action.label)
    );
    const close = element("button", { type: "button", click: () => dialog.close() }, "Leave");
    const form = element(
      "form",
      { submit: make },
      element("label", {}, "Who (no login: a name that is kept for ever)", name),
      element(
        "label",
        {},
        action.needsReason ? "Why (it is kept for ever)" : "Why (if you like; it is kept for ever)",
        reason,
      ),
      element("div", { class: "buttons" }, go, close),
    );
    const title = element("h2", { id: "confirm-title" }, `${action.label}: ${action.projection}`);
    const warning = element("p", { class: "bad" }, given.warning());
    dialog.replaceChildren(title, warning, element("p", {}, action.will), cost, form, told);
    if (action.hasCost)
      ask(`/projections/${action.projection}/cost`).then(
        (found) => cost.append(found.message),
        (error) => cost.append(error.message),
      );
    dialog.showModal();
    reason.focus();

    /** @param {Event} event */
    async function make(event) {
      event.preventDefault();
      go.disabled = true;
      localStorage.setItem(NAME_KEPT, name.value);
      told.textContent = "Asked …";
      const who = { operator: name.value, reason: reason.value };
      try {
        const made = await change(`/projections/${action.projection}/${action.action}`, {
          ...action.body,
          ...who,
        });
        if (action.isLong) {
          dialog.close(); // it would cover what tells how far it is, and tell of its beginning alone
          return;
        }
        const next = NEXT[/** @type {keyof typeof NEXT} */ (action.action)] ?? "";
        told.textContent = `${made.message} ${next}`;
        form.remove();
        dialog.append(element("button", { type: "button", click: () => dialog.close() }, "Close"));
      } catch (error) {
        told.textContent = /** @type {Error} */ (error).message;
        go.disabled = false;
      }
    }
  };
}
