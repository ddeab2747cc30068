// Keys that act by themselves. Off until somebody switches them on, but for `?`, which lists them.

/**
 * @typedef {"buy" | "sell" | "price" | "quantity" | "send" | "leave" | "cancel-last" | "cancel-all"
 *   | "size-1" | "size-2" | "size-3" | "size-4" | "help"} Act
 */

/** What the list tells, in its order: the key as people call it, and what it does. */
export const LIST = /** @type {const} */ ([
  ["B", "buy"],
  ["S", "sell"],
  ["P", "type the price"],
  ["Q", "type the quantity"],
  ["1 – 4", "take the first to fourth size"],
  ["Enter", "send the order"],
  ["Esc", "leave the field, so that keys act again"],
  ["X", "cancel the newest order"],
  ["Shift X", "cancel all orders, after a question"],
  ["↑ ↓", "in the ladder: another price; in a field: a tick or lot more or less (Shift: ten)"],
  ["?", "this list"],
]);

/** @type {Record<string, Act>} */
const ACTS = {
  b: "buy",
  s: "sell",
  p: "price",
  q: "quantity",
  Enter: "send",
  Escape: "leave",
  x: "cancel-last",
  "Shift+x": "cancel-all",
  1: "size-1",
  2: "size-2",
  3: "size-3",
  4: "size-4",
  "?": "help",
};

/**
 * Say what a key does, if anything. Pure, over what a `KeyboardEvent` tells.
 * @param {object} pressed
 * @param {string} pressed.key
 * @param {boolean} pressed.shiftKey
 * @param {boolean} pressed.isHeld Ctrl, Alt or Meta is down, or the key repeats by itself.
 * @param {"typing" | "button" | "dialog" | "page"} where What has the focus.
 * @param {boolean} areOn
 * @returns {Act | null}
 */
export function actOf({ key, shiftKey, isHeld }, where, areOn) {
  if (isHeld || where === "dialog") return null;
  const letter = key.length === 1 ? key.toLowerCase() : key;
  const name = shiftKey && /^[a-z]$/.test(letter) ? `Shift+${letter}` : letter;
  const act = Object.hasOwn(ACTS, name) ? ACTS[name] : null;
  if (act === "leave") return where === "typing" ? act : null;
  if (where === "typing") return null;
  if (act === "help") return act;
  if (act === "send" && where === "button") return null; // Enter presses the button
  return areOn ? act : null;
}

/**
 * Hear keys anywhere on the page.
 * @param {() => boolean} areOn
 * @param {(act: Act) => void} act
 */
export function listen(areOn, act) {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing) return;
    const isHeld = event.ctrlKey || event.altKey || event.metaKey || event.repeat;
    const { key, shiftKey } = event;
    const found = actOf({ key, shiftKey, isHeld }, whereIs(event.target), areOn());
    if (!found) return;
    event.preventDefault();
    act(found);
  });
}

/** @param {EventTarget | null} target */
function whereIs(target) {
  if (document.querySelector("dialog[open]")) return "dialog";
  if (!(target instanceof Element)) return "page";
  const isChosen = target.matches("input:is([type=radio], [type=checkbox])");
  if (!isChosen && target.closest("input, textarea, select, [contenteditable]")) return "typing";
  return target.closest("button, a, summary, input") ? "button" : "page";
}
