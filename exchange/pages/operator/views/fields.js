// A form of named text fields, whose values are in the page's address.

import { element } from "../../shared/dom.js";

/**
 * @param {[string, string][]} names Each with its label.
 * @param {(values: Record<string, string>) => void} submit
 * @param {string} button
 */
export function fieldsOf(names, submit, button) {
  const inputs = new Map(
    names.map(([name]) => [
      name,
      /** @type {HTMLInputElement} */ (
        element("input", { name, autocomplete: "off", spellcheck: "false" })
      ),
    ]),
  );
  const labels = names.map(([name, label]) =>
    element("label", {}, label, /** @type {HTMLElement} */ (inputs.get(name))),
  );
  const values = () =>
    Object.fromEntries([...inputs].map(([name, input]) => [name, input.value.trim()]));
  const form = element(
    "form",
    {
      submit(event) {
        event.preventDefault();
        submit(values());
      },
    },
    ...labels,
    element("button", { type: "submit" }, button),
  );
  return {
    form,
    values,
    /** @param {URLSearchParams} query */
    fill(query) {
      for (const [name, input] of inputs) input.value = query.get(name) ?? "";
    },
    /** @param {string} name @param {string} value */
    set(name, value) {
      const input = inputs.get(name);
      if (input && document.activeElement !== input) input.value = value;
    },
  };
}
