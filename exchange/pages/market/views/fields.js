// Fields of forms: amounts that step, and a choice of a few.

import { element, setAttribute, setText } from "../../shared/dom.js";

const FAST = 10n; // steps, while Shift is held

/**
 * A field for an amount. It is a field of text: one for numbers would round, and a turn of the mouse
 * wheel would change it.
 * @param {string} label
 * @param {"price" | "quantity"} field
 * @param {any} actions
 */
export function stepField(label, field, actions) {
  const id = `entry-${field}`;
  const input = /** @type {HTMLInputElement} */ (
    element("input", {
      id,
      inputmode: "decimal",
      autocomplete: "off",
      maxlength: "32",
      "aria-describedby": `${id}-hint ${id}-problem`,
      input: () => actions.change({ type: field, value: input.value }),
      keydown(event) {
        const { key, shiftKey } = /** @type {KeyboardEvent} */ (event);
        if (key !== "ArrowUp" && key !== "ArrowDown") return;
        event.preventDefault();
        const steps = shiftKey ? FAST : 1n;
        actions.step(field, key === "ArrowUp" ? steps : -steps);
      },
    })
  );
  const hint = element("span", { id: `${id}-hint`, class: "quiet" });
  const problem = element("p", { id: `${id}-problem`, class: "problem" });
  const stepper = (/** @type {string} */ text, /** @type {bigint} */ steps) =>
    element(
      "button",
      {
        type: "button",
        tabindex: "-1", // the arrow keys do the same in the field
        "aria-label": `${text === "+" ? "More" : "Less"} ${field}`,
        click: () => actions.step(field, steps),
      },
      text,
    );
  const row = element("div", { class: "row" }, stepper("−", -1n), input, stepper("+", 1n));
  const name = element("div", { class: "row" }, element("label", { for: id }, label), hint);
  const root = element("div", {}, name, row, problem);

  return {
    root,
    /**
     * @param {string} value
     * @param {string} why
     * @param {string} what
     */
    draw(value, why, what) {
      // Spaces around what is typed do not count, and are not taken away under the fingers.
      if (input.value.trim() !== value) input.value = value;
      setText(hint, what);
      setText(problem, value === "" ? "" : why);
      setAttribute(input, "aria-invalid", String(value !== "" && why !== ""));
    },
  };
}

/**
 * One of a few, by radio buttons.
 * @param {string} label
 * @param {string} name
 * @param {Record<string, string>} options
 * @param {(value: string) => void} chosen
 */
export function choices(label, name, options, chosen) {
  /** @type {Map<string, HTMLInputElement>} */
  const inputs = new Map();
  const root = element("fieldset", {}, element("legend", { class: "spoken" }, label));
  for (const [value, text] of Object.entries(options)) {
    const input = element("input", { type: "radio", name, value, change: () => chosen(value) });
    inputs.set(value, /** @type {HTMLInputElement} */ (input));
    root.append(element("label", { class: value }, input, ` ${text}`));
  }
  return {
    root,
    /** @param {string} value */
    draw(value) {
      for (const [one, input] of inputs)
        if (input.checked !== (one === value)) input.checked = one === value;
    },
  };
}
