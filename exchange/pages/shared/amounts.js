// Exact amounts: the digits as they were sent, and BigInt of an instrument's scale. Never floats.

const DECIMAL = /^(-?)(\d+)(?:\.(\d+))?$/;

/**
 * Read JSON without losing a digit: a number that is no safe integer stays the text it was.
 * @param {string} text
 * @returns {any}
 */
export function parseExact(text) {
  return JSON.parse(text, (_key, value, context) => {
    if (typeof value !== "number" || Number.isSafeInteger(value)) return value;
    return /** @type {{source: string}} */ (context).source;
  });
}

/**
 * Convert a decimal to units of 10^-scale.
 * @param {string | number | bigint} amount A decimal without an exponent.
 * @param {number} scale
 * @returns {bigint}
 * @throws {RangeError} It is no decimal, or has more places than the scale.
 */
export function toUnits(amount, scale) {
  const found = DECIMAL.exec(String(amount).trim());
  if (!found) throw new RangeError(`${amount} is not a number`);
  const [, sign, whole, fraction = ""] = found;
  const places = fraction.replace(/0+$/, "");
  if (places.length > scale)
    throw new RangeError(`${amount} has more than ${scale} decimal places`);
  const units = BigInt(whole + places.padEnd(scale, "0"));
  return sign ? -units : units;
}

/**
 * Write units of 10^-scale as a decimal with all its places.
 * @param {bigint} units
 * @param {number} scale
 * @returns {string}
 */
export function fromUnits(units, scale) {
  const digits = (units < 0n ? -units : units).toString().padStart(scale + 1, "0");
  const whole = digits.slice(0, digits.length - scale);
  const text = scale ? `${whole}.${digits.slice(-scale)}` : whole;
  return units < 0n ? `-${text}` : text;
}

/**
 * Write a decimal for people: thousands apart, all other digits as they are.
 * @param {string} decimal
 * @returns {string}
 */
export function grouped(decimal) {
  const [whole, fraction] = decimal.split(".");
  const parted = whole.replace(/\B(?=(\d{3})+$)/g, "\u202f");
  return fraction === undefined ? parted : `${parted}.${fraction}`;
}

/**
 * Write a decimal without the zeros at its end, but with some places, so that columns line up.
 * @param {string} decimal
 * @param {number} places That stay even if they are zeros.
 * @returns {string}
 */
export function trimmed(decimal, places) {
  const [whole, fraction] = decimal.split(".");
  if (fraction === undefined) return decimal;
  const kept = fraction.slice(0, places) + fraction.slice(places).replace(/0+$/, "");
  return kept ? `${whole}.${kept}` : whole;
}

/**
 * Cut a decimal that has more places than anybody reads, and say so by an ellipsis.
 * @param {string} decimal
 * @param {number} places That stay.
 * @returns {string}
 */
export function cut(decimal, places) {
  const [whole, fraction = ""] = decimal.split(".");
  if (fraction.length <= places) return decimal;
  return places ? `${whole}.${fraction.slice(0, places)}…` : `${whole}…`;
}
