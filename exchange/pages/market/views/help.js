// The list of keys, and what a person may set of trading.

import { element, keyed, setText } from "../../shared/dom.js";
import { LIST } from "../keys.js";

const ID = "help";

export function open() {
  const dialog = /** @type {HTMLDialogElement | null} */ (document.getElementById(ID));
  if (dialog && !dialog.open) dialog.showModal();
}

/**
 * @param {Element} root The dialog.
 * @param {any} actions
 */
export function mount(root, actions) {
  const hotkeys = box("Keys act by themselves (never while you type)", (hotkeys) =>
    actions.choose({ hotkeys }),
  );
  const confirm = box("Ask before each order", (confirm) => actions.choose({ confirm }));
  const sizes = element("div", { class: "row" });
  const lines = LIST.map(([key, does]) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, element("kbd", {}, key)),
      element("td", {}, does),
    ),
  );
  const table = element(
    "table",
    { "aria-labelledby": "help-title" },
    element("tbody", {}, ...lines),
  );
  const title = element("legend");
  root.append(
    element("h2", { id: "help-title" }, "Keys"),
    hotkeys.root,
    confirm.root,
    element("fieldset", {}, title, sizes),
    table,
    element("form", { method: "dialog" }, element("button", {}, "Close")),
  );

  /** @type {any} */
  let drawn;

  /** @param {any} state */
  return function draw(state) {
    drawn = state;
    hotkeys.input.checked = state.settings.hotkeys;
    confirm.input.checked = state.settings.confirm;
    setText(title, `Sizes of ${state.instrument.name} (keys 1 – 4)`);
    keyed(
      sizes,
      [...state.sizes.keys()],
      String,
      (place) => sizeInput(place),
      (input, place) => {
        if (document.activeElement !== input)
          /** @type {HTMLInputElement} */ (input).value = state.sizes[place];
      },
    );
  };

  /** @param {number} place */
  function sizeInput(place) {
    return element("input", {
      "aria-label": `Size ${place + 1}`,
      inputmode: "decimal",
      maxlength: "32",
      autocomplete: "off",
      change(event) {
        const { value } = /** @type {HTMLInputElement} */ (event.target);
        const { name } = drawn.instrument;
        const own = drawn.sizes.with(place, value.trim());
        actions.choose({ sizes: { ...drawn.settings.sizes, [name]: own } });
      },
    });
  }
}

/**
 * @param {string} text
 * @param {(checked: boolean) => void} changed
 */
function box(text, changed) {
  const input = /** @type {HTMLInputElement} */ (
    element("input", { type: "checkbox", change: () => changed(input.checked) })
  );
  return { input, root: element("p", {}, element("label", {}, input, ` ${text}`)) };
}
