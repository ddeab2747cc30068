// What the person chose, kept in this browser alone. Storage may be refused: then it lasts as long as
// the page.

const KEPT_AS = "exchange.market";
const CLIENT_CHARACTERS_MAX = 64; // as the exchange has it
const SIZES = 4; // the keys 1 to 4
const INSTRUMENTS_MAX = 200; // with sizes of their own: a few kB

/**
 * @typedef {object} Settings
 * @property {string} client The client id to trade as, empty if none was chosen. It is no login: where
 *   the exchange asks for keys, it is that of the key.
 * @property {"auto" | "dark" | "light"} theme
 * @property {"green-red" | "blue-orange"} colours
 * @property {boolean} hotkeys Keys act by themselves.
 * @property {boolean} confirm Ask before an order is sent.
 * @property {Record<string, string[]>} sizes The quantities of the keys 1 to 4, by instrument.
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
  sizes: {},
  minutes: 1,
  grouping: 1,
};

/**
 * Return what is kept. What cannot be (another build's, somebody's own) counts as not chosen.
 * @returns {Settings}
 */
export function load() {
  const kept = read();
  return {
    client: whyNoClient(kept.client) ? DEFAULTS.client : kept.client,
    theme: ["dark", "light"].includes(kept.theme) ? kept.theme : DEFAULTS.theme,
    colours: kept.colours === "blue-orange" ? kept.colours : DEFAULTS.colours,
    hotkeys: kept.hotkeys === true,
    confirm: kept.confirm === true,
    sizes: sizesOf(kept.sizes),
    minutes: isCount(kept.minutes) ? kept.minutes : DEFAULTS.minutes,
    grouping: isCount(kept.grouping) ? kept.grouping : DEFAULTS.grouping,
  };
}

/** @param {Settings} settings */
export function save(settings) {
  try {
    localStorage.setItem(KEPT_AS, JSON.stringify(settings));
  } catch {
    // Refused or full: nothing that was acknowledged depends on it.
  }
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
 * Say why a text cannot be a client id; "" if it can.
 * @param {unknown} text
 * @returns {string}
 */
export function whyNoClient(text) {
  if (typeof text !== "string" || text === "") return "A client id has 1 to 64 characters.";
  if ([...text].length > CLIENT_CHARACTERS_MAX) return "A client id has at most 64 characters.";
  if (text === "." || text === "..") return `${text} cannot be a client id.`;
  if (/[/\p{Cc}\p{Bidi_Control}]/u.test(text))
    return "A client id has no / and no control character.";
  return "";
}

/** @param {unknown} value */
function isCount(value) {
  return Number.isSafeInteger(value) && Number(value) > 0;
}

/** @returns {any} */
function read() {
  try {
    return JSON.parse(localStorage.getItem(KEPT_AS) ?? "null") ?? {};
  } catch {
    return {};
  }
}

/**
 * @param {unknown} kept
 * @returns {Record<string, string[]>}
 */
function sizesOf(kept) {
  if (typeof kept !== "object" || kept === null) return {};
  const right = Object.entries(kept).filter(
    ([, sizes]) =>
      Array.isArray(sizes) &&
      sizes.length === SIZES &&
      sizes.every((size) => typeof size === "string" && size.length <= 32),
  );
  return Object.fromEntries(right.slice(0, INSTRUMENTS_MAX));
}
