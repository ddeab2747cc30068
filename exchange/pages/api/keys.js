// Keys and ids of the examples. The document has the same ones for everybody, and under each of them
// one order can be placed. So this page has some of its own, and each other body gets others: the
// same body again is the same request, as it is for programs.

import { parseExact } from "../shared/amounts.js";

const OWN = ["idempotency_key", "order_id"];
const KEYS_MAX = 1_000; // that somebody presses in a day; older ones are then forgotten

/**
 * Return a document in which the keys and ids of examples end with a mark.
 * @param {any} part Of the document.
 * @param {string} mark Such as "1f3a9c02".
 * @returns {any}
 */
export function marked(part, mark) {
  if (Array.isArray(part)) return part.map((one) => marked(one, mark));
  if (part === null || typeof part !== "object") return part;
  const isParameter = OWN.includes(part.name) && typeof part.example === "string";
  return Object.fromEntries(
    Object.entries(part).map(([name, value]) => {
      const isOwn = OWN.includes(name) || (isParameter && name === "example");
      if (isOwn && typeof value === "string") return [name, `${value}-${mark}`];
      return [name, marked(value, mark)];
    }),
  );
}

/**
 * Return a function that takes the text of a body which is about to be sent, and returns what is to
 * be sent: where a key with the mark was sent with other contents, it and the id of its order are
 * numbered on. All else is left as it was typed.
 * @param {string} mark
 */
export function renewing(mark) {
  /** @type {Map<string, string>} */
  const sent = new Map(); // contents by key
  const form = new RegExp(`^(.*-${mark})(?:-(\\d+))?$`);

  /** @param {string} key */
  function nextNumber(key) {
    const [, base] = /** @type {RegExpExecArray} */ (form.exec(key));
    const used = [...sent.keys()].map((one) => form.exec(one)).filter((it) => it?.[1] === base);
    return Math.max(...used.map((it) => Number(it?.[2] ?? 1))) + 1;
  }

  /** @param {string} text @param {string} former @param {number} number */
  function numbered(text, former, number) {
    const found = form.exec(former);
    if (!found) return text;
    return text.replaceAll(JSON.stringify(former), JSON.stringify(`${found[1]}-${number}`));
  }

  return (/** @type {string} */ text) => {
    let renewed = text;
    for (const entry of entriesOf(text)) {
      const { idempotency_key: key, order_id: id, action } = entry;
      if (typeof key !== "string" || !form.test(key)) continue;
      if ((sent.get(key) ?? JSON.stringify(entry)) === JSON.stringify(entry)) continue;
      const number = nextNumber(key);
      renewed = numbered(renewed, key, number);
      if (typeof id === "string" && action !== "cancel") renewed = numbered(renewed, id, number);
    }
    for (const entry of entriesOf(renewed)) {
      if (typeof entry.idempotency_key !== "string") continue;
      sent.set(entry.idempotency_key, JSON.stringify(entry));
      if (sent.size > KEYS_MAX) sent.delete(/** @type {string} */ (sent.keys().next().value));
    }
    return renewed;
  };
}

/**
 * Return what a body asks for: itself, or the entries of a batch; nothing if it is no JSON object.
 * @param {string} text
 * @returns {any[]}
 */
function entriesOf(text) {
  let body;
  try {
    body = parseExact(text);
  } catch {
    return [];
  }
  const entries = Array.isArray(body?.entries) ? body.entries : [body];
  return entries.filter((/** @type {any} */ one) => one !== null && typeof one === "object");
}

/**
 * Renew keys where "Execute" is pressed, in the text that is seen.
 * @param {(text: string) => string} renewed
 */
export function keys(renewed) {
  const execute =
    (/** @type {(request: any) => void} */ original, /** @type {any} */ system) =>
    (/** @type {any} */ request) => {
      const { path, method } = request;
      const text = system.oas3Selectors.requestBodyValue(path, method);
      const value = typeof text === "string" ? renewed(text) : text;
      if (value !== text)
        system.oas3Actions.setRequestBodyValue({ value, pathMethod: [path, method] });
      return original(request);
    };
  return { statePlugins: { spec: { wrapActions: { execute } } } };
}
