// Commands whose outcome is not known, kept in the browser so that they outlive the page.

const KEPT_AS = "exchange.pending."; // and the key: two windows never write over each other
const TEXTS = ["key", "what", "path", "body", "words", "location"];

/**
 * @typedef {object} Command
 * @property {string} key Its idempotency key; of an order, its id too.
 * @property {"place" | "cancel" | "cancel_all"} what
 * @property {string} path
 * @property {string} body The bytes of every try.
 * @property {string} words What it does, for people.
 * @property {number} since When it was clicked, in ms since 1970.
 * @property {"sending" | "pending" | "unknown"} says
 * @property {string} location Where to ask for it, once a gateway has told.
 * @property {string} detail Why it is not known.
 * @property {boolean} inDoubt An earlier try may have arrived.
 */

/** @returns {Storage} What this browser keeps; where it keeps nothing, writing fails. */
export function browserStorage() {
  try {
    return window.localStorage;
  } catch {
    const nothing = { getItem: () => null, removeItem: () => {} };
    return /** @type {any} */ (nothing);
  }
}

/**
 * @param {Storage} storage
 * @param {Command} command
 */
export function keep(storage, command) {
  try {
    storage.setItem(KEPT_AS + command.key, JSON.stringify(command));
  } catch {
    command.detail = "This browser keeps nothing: leave the page open until this is known.";
  }
}

/**
 * @param {Storage} storage
 * @param {string} key
 */
export function drop(storage, key) {
  storage.removeItem(KEPT_AS + key);
}

/**
 * Return what was kept, oldest first. What cannot be asked with is removed.
 * @param {Storage} storage
 * @param {number} most
 * @returns {Command[]}
 */
export function kept(storage, most) {
  /** @type {Command[]} */
  const found = [];
  for (const name of Object.keys(storage).filter((name) => name.startsWith(KEPT_AS))) {
    const command = read(storage.getItem(name) ?? "");
    const says = command?.says === "pending" ? "pending" : "unknown";
    if (command) found.push({ ...command, says, inDoubt: true });
    else storage.removeItem(name);
  }
  return found.sort((one, other) => one.since - other.since).slice(0, most);
}

/**
 * Return the client whose command it is.
 * @param {Command} command
 * @returns {string}
 */
export function clientOf({ body }) {
  try {
    return String(JSON.parse(body).client_id);
  } catch {
    return ""; // somebody else kept it here
  }
}

/**
 * @param {string} text
 * @returns {Command | null}
 */
function read(text) {
  try {
    const command = JSON.parse(text);
    const isRight = TEXTS.every((name) => typeof command[name] === "string");
    const isHere = /^\.\/[a-z]/.test(command.path) && /^(\/[a-z]|$)/.test(command.location);
    return isRight && isHere && Number.isFinite(command.since) ? command : null;
  } catch {
    return null;
  }
}
