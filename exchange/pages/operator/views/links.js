// Links to a part of the desk, with what it is asked.

import { element } from "../../shared/dom.js";

/**
 * @param {string} part
 * @param {Record<string, string>} query
 * @param {string} text
 */
export function link(part, query, text) {
  return element("a", { href: `#${part}?${new URLSearchParams(query)}` }, text);
}
