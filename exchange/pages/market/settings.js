// What the person chose, kept in this browser. Storage may be refused: then it lasts for this page.

const KEY = "exchange.market";

/**
 * @typedef {object} Settings
 * @property {string} client The client id to trade as, empty if none was chosen. It is no login.
 * @property {"auto" | "dark" | "light"} theme
 * @property {"green-red" | "blue-orange"} colours
 * @property {boolean} hotkeys
 * @property {boolean} confirm Ask before an order is sent.
 * @property {number} minutes Of a candle.
 * @property {number} grouping Ticks of a row of the ladder.
 */

/** @type {Settings} */
const DEFAULTS = {
  client: "",
  theme: "auto",
  colours: "green-red",
  hotkeys: false,
  confirm: false,
  minutes: 1,
  grouping: 1,
};

/** @returns {Settings} */
export function load() {
  return { ...DEFAULTS, ...read(KEY, {}) };
}

/** @param {Settings} settings */
export function save(settings) {
  write(KEY, settings);
}

/**
 * Show the page in the chosen colours.
 * @param {Settings} settings
 */
export function show(settings) {
  const { dataset } = document.documentElement;
  if (settings.theme === "auto") delete dataset.theme;
  else dataset.theme = settings.theme;
  dataset.colours = settings.colours;
}

/**
 * @template T
 * @param {string} key
 * @param {T} otherwise
 * @returns {T}
 */
export function read(key, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(key) ?? "null") ?? otherwise;
  } catch {
    return otherwise;
  }
}

/**
 * @param {string} key
 * @param {unknown} value
 */
export function write(key, value) {
  try {
    localStorage.setItem(key, JSON.stringify(value));
  } catch {
    // Refused or full: nothing that was acknowledged depends on it.
  }
}
