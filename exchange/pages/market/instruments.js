// Which instrument the page is about: its address says so, and choosing another goes there.

import { element } from "../shared/dom.js";
import { ask } from "./ask.js";
import { instrumentOf } from "./instrument.js";

const NAME = "instrument";

/**
 * Fill the list of instruments and return the chosen one, which is the first unless the address
 * names another, and all of them by their names.
 * @returns {Promise<{instrument: import("./instrument.js").Instrument,
 *   listed: Map<string, import("./instrument.js").Instrument>}>}
 */
export async function choose() {
  const { instruments } = await ask("./instruments");
  const select = /** @type {HTMLSelectElement} */ (document.getElementById(NAME));
  select.append(
    ...instruments.map((/** @type {any} */ one) => element("option", {}, one.instrument)),
  );
  const wanted = new URLSearchParams(location.search).get(NAME);
  const found = instruments.find((/** @type {any} */ one) => one.instrument === wanted);
  if (instruments.length === 0) return await noInstrument();
  if (wanted !== null && !found) notice(`There is no instrument ${wanted}.`);
  const chosen = instrumentOf(found ?? instruments[0]);
  select.value = chosen.name;
  select.addEventListener("change", () => {
    const query = new URLSearchParams(location.search);
    query.set(NAME, select.value);
    location.search = query.toString();
  });
  const all = instruments.map(instrumentOf);
  const listed = new Map(all.map((/** @type {any} */ one) => [one.name, one]));
  return { instrument: chosen, listed };
}

/**
 * Tell the person something that lasts.
 * @param {string} text
 */
export function notice(text) {
  const place = /** @type {HTMLElement} */ (document.getElementById("notice"));
  place.textContent = text;
  place.hidden = false;
}

/** @returns {Promise<never>} */
function noInstrument() {
  notice("No instrument is registered yet: POST /instruments, then load this page again.");
  return new Promise(() => {}); // there is nothing to show
}
