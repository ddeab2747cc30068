// An amount as a person types it. Pure.

import { fromUnits, toUnits, trimmed } from "../../shared/amounts.js";

const UNITS_MAX = 2n ** 53n - 1n; // of a price and of a quantity, as the exchange has it
const THOUSANDS = /(?<=\d)[ \u00a0\u2009\u202f](?=\d{3})/g; // as this page parts them itself

/**
 * Return what was typed without the spaces around it and between thousands.
 * @param {string} text
 */
export function typedAs(text) {
  return text.trim().replace(THOUSANDS, "");
}

/**
 * @param {string} text
 * @param {number} scale
 * @param {bigint} step
 * @param {string} name
 * @param {string} stepName
 * @returns {{units: bigint | null, problem: string}}
 */
export function amount(text, scale, step, name, stepName) {
  const none = (/** @type {string} */ problem) => ({ units: null, problem });
  const plain = (/** @type {bigint} */ units) => trimmed(fromUnits(units, scale), 0);
  if (text === "") return none(`Type a ${name}.`);
  if (text.includes(","))
    return none("A comma may part thousands or decimals: type a point before decimals.");
  try {
    const units = toUnits(text, scale);
    if (units <= 0n) return none(`The ${name} must be more than 0.`);
    if (units > UNITS_MAX) return none(`The ${name} must be at most ${plain(UNITS_MAX)}.`);
    if (units % step !== 0n)
      return none(`The ${name} is no multiple of the ${stepName} ${plain(step)}.`);
    return { units, problem: "" };
  } catch (error) {
    return none(`The ${name} ${/** @type {Error} */ (error).message}.`);
  }
}
