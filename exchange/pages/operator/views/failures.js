// What stopped: the event at which it did, and the two ways on.

import { element, keyed, setText } from "../../shared/dom.js";
import { ask } from "../requests.js";
import { failuresOf } from "../state/failures.js";
import { readPlaces, told } from "../state/places.js";
import { moment } from "./cells.js";

const AGAIN_MS = 5_000; // an event that could not be asked for is asked for again
const FIELDS_LEFT_OUT = ["chain"]; // the log browser has it

/** @typedef {import("../state/failures.js").Failed} Failed */

/**
 * @param {Element} root
 * @param {{act: (action: import("../state/actions.js").Action) => void}} actions
 */
export function mount(root, actions) {
  const list = element("div");
  root.append(list);

  /** @param {any} state */
  return function draw({ seen }) {
    const failed = failuresOf(seen);
    root.toggleAttribute("hidden", failed.length === 0);
    // Another place or another failure is another card.
    const keyOf = (/** @type {Failed} */ one) => `${one.key} ${one.at} ${one.actions.length}`;
    keyed(list, failed, keyOf, (one) => card(one, actions.act), change);
  };
}

/** @param {Failed} one @param {(action: import("../state/actions.js").Action) => void} act */
function card(one, act) {
  const event = element("pre", { "data-part": "event", "aria-label": `Event ${one.at}` });
  const more = one.at
    ? [
        element(
          "p",
          {},
          "This is the event: ",
          element("a", { href: `#log?${new URLSearchParams({ after: before(one.at) })}` }, one.at),
        ),
        event,
      ]
    : [];
  return element(
    "article",
    { "aria-label": `${one.name} failed` },
    element("h3", {}, one.at ? `${one.name} stopped at event ${one.at}` : `${one.name} failed`),
    element("p", { class: "bad", "data-part": "failure" }),
    element("p", { "data-part": "readers" }),
    ...more,
    element("p", { "data-part": "tried", class: "careful" }),
    element("dl", {}, ...one.actions.flatMap((action) => choice(action, one, act))),
  );
}

/**
 * @param {import("../state/actions.js").Action} action
 * @param {Failed} one
 * @param {(action: import("../state/actions.js").Action) => void} act
 */
function choice(action, one, act) {
  const label = `${action.label} ${one.key}, which failed`;
  const button = element(
    "button",
    { type: "button", "aria-label": label, click: () => act(action) },
    action.label,
  );
  return [element("dt", {}, button), element("dd", {}, action.will)];
}

/** @param {Element} made @param {Failed} one */
function change(made, one) {
  const part = (/** @type {string} */ name) => made.querySelector(`[data-part=${name}]`);
  setText(/** @type {Element} */ (part("failure")), one.failure);
  const since = one.since ? `Since ${moment(one.since)}. ` : "";
  setText(/** @type {Element} */ (part("readers")), `${since}${one.readers}`);
  setText(/** @type {Element} */ (part("tried")), one.tried);
  const event = part("event");
  if (event && one.at) void tell(/** @type {HTMLElement} */ (event), one.at);
}

/**
 * Write the event into an element, once.
 * @param {HTMLElement} into
 * @param {string} at
 */
async function tell(into, at) {
  if (document.visibilityState === "hidden") return; // who is not seen asks nothing
  const { is, askedMs } = into.dataset;
  if (is === "known" || Date.now() - Number(askedMs ?? 0) < AGAIN_MS) return;
  into.dataset.askedMs = String(Date.now());
  const shard = at.split(":")[0];
  try {
    const found = await ask("/events", { shard, after: before(at), limit: 1 });
    const shown = Object.entries(found.events[0]).filter(
      ([name, value]) => !FIELDS_LEFT_OUT.includes(name) && value !== null,
    );
    setText(into, JSON.stringify(Object.fromEntries(shown), null, 2));
    into.dataset.is = "known";
  } catch (error) {
    setText(into, `It could not be read: ${/** @type {Error} */ (error).message}`);
  }
}

/** @param {string} at */
function before(at) {
  const [[shard, position]] = readPlaces(at);
  return told(new Map([[shard, position - 1]]));
}
