// Elements made and changed without markup: text is only ever text.

/**
 * Make an element.
 * @param {string} tag
 * @param {Record<string, string | boolean | ((event: Event) => void)>} [attributes]
 *   A function listens to the event of its name; true and false set and leave out.
 * @param {...(Node | string)} children
 * @returns {HTMLElement}
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else setAttribute(made, name, value);
  }
  made.append(...children);
  return made;
}

/**
 * Set, change or remove an attribute; a page that is drawn each frame touches only what differs.
 * @param {Element} on
 * @param {string} name
 * @param {string | boolean} value
 */
export function setAttribute(on, name, value) {
  if (value === false) on.removeAttribute(name);
  else if (on.getAttribute(name) !== (value === true ? "" : value))
    on.setAttribute(name, value === true ? "" : value);
}

/**
 * Set an element's text, if it differs.
 * @param {Element} on
 * @param {string} text
 */
export function setText(on, text) {
  if (on.textContent !== text) on.textContent = text;
}

/**
 * Make the children of an element those of a list, in its order. An item's element is made once,
 * and found again by its key, so that focus and selection stay where they are.
 * @template T
 * @param {Element} parent
 * @param {readonly T[]} items
 * @param {(item: T) => string} keyOf
 * @param {(item: T) => Element} make
 * @param {(element: Element, item: T) => void} change
 */
export function keyed(parent, items, keyOf, make, change) {
  /** @type {Map<string, Element>} */
  const former = new Map();
  for (const child of parent.children) former.set(child.getAttribute("data-key") ?? "", child);
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    let found = former.get(key);
    former.delete(key);
    if (!found) {
      found = make(item);
      found.setAttribute("data-key", key);
    }
    if (found === place) place = place.nextElementSibling;
    else parent.insertBefore(found, place);
    change(found, item);
  }
  for (const left of former.values()) left.remove();
}
