// A form of named text fields, whose values are in the page's address.

import { element, keyed } from "../../shared/dom.js";
import { inWords } from "../state/refusals.js";

/**
 * @param {[string, string][]} names Each with its label.
 * @param {(values: Record<string, string>) => void} submit
 * @param {string} button
 * @param {Record<string, string>} [also] Further parameters that a field gives, by name.
 */
export function fieldsOf(names, submit, button, also = {}) {
  const labelled = Object.fromEntries(names);
  for (const [name, field] of Object.entries(also)) labelled[name] = labelled[field];
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
  let filled = ""; // the query that was shown last; before the first one fields are empty
  return {
    form,
    values,
    /**
     * Show what an address asks, and return it. What was typed since stays: the same address is
     * asked again when the first state comes, and after a failure.
     * @param {URLSearchParams} query
     */
    fill(query) {
      const found = Object.fromEntries(
        names.map(([name]) => [name, query.get(name)?.trim() ?? ""]),
      );
      if (String(query) === filled) return found;
      filled = String(query);
      for (const [name, input] of inputs) input.value = found[name];
      return found;
    },
    /** @param {string} name @param {string} value */
    set(name, value) {
      const input = inputs.get(name);
      if (input && document.activeElement !== input) input.value = value;
    },
    /**
     * Offer values while one types; others may be typed.
     * @param {string} name
     * @param {string[]} choices
     */
    offer(name, choices) {
      const id = `choices-${names[0][0]}-${name}`;
      const list = form.querySelector(`#${id}`) ?? element("datalist", { id });
      form.append(list);
      inputs.get(name)?.setAttribute("list", id);
      const make = (/** @type {string} */ value) => element("option", { value });
      keyed(
        list,
        choices,
        (value) => value,
        make,
        () => {},
      );
    },
    /** Tell why something was refused, with the labels of this form. @param {unknown} error */
    told(error) {
      return inWords(/** @type {Error} */ (error).message, labelled);
    },
  };
}
