// What the person may choose of the page's looks.

import { element } from "../../shared/dom.js";

/**
 * @param {Element} root
 * @param {{settings: (changes: Record<string, string>) => void}} actions
 */
export function mount(root, actions) {
  const theme = choice("Theme", { auto: "as the system", dark: "dark", light: "light" }, (value) =>
    actions.settings({ theme: value }),
  );
  const pairs = { "green-red": "green and red", "blue-orange": "blue and orange" };
  const colours = choice("Colours", pairs, (value) => actions.settings({ colours: value }));
  root.append(theme.label, colours.label);

  /** @param {any} state */
  return ({ settings }) => {
    theme.show(settings.theme);
    colours.show(settings.colours);
  };
}

/**
 * @param {string} name
 * @param {Record<string, string>} values Each with its text.
 * @param {(value: string) => void} chosen
 */
function choice(name, values, chosen) {
  const select = /** @type {HTMLSelectElement} */ (
    element("select", { change: () => chosen(select.value) })
  );
  select.append(
    ...Object.entries(values).map(([value, text]) => element("option", { value }, text)),
  );
  return {
    label: element("label", {}, `${name} `, select),
    show(/** @type {string} */ value) {
      if (select.value !== value) select.value = value;
    },
  };
}
