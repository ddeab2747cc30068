// What a search for endpoints finds: by any part of path, method, name or summary, not by tag alone.

/**
 * Return the tags with those operations that have every word of a phrase.
 * @param {any} tags an ordered map of Swagger UI, of lists of operations
 * @param {string} phrase
 */
export function found(tags, phrase) {
  const words = phrase.toLowerCase().split(/\s+/);
  return tags
    .map((/** @type {any} */ tag, /** @type {string} */ name) =>
      tag.update("operations", (/** @type {any} */ operations) =>
        operations.filter((/** @type {any} */ one) => has(textOf(name, one), words)),
      ),
    )
    .filter((/** @type {any} */ tag) => tag.get("operations").size > 0);
}

/**
 * @param {string} tag
 * @param {any} one
 */
function textOf(tag, one) {
  const told = [["path"], ["method"], ["operation", "operationId"], ["operation", "summary"]];
  return [tag, ...told.map((where) => one.getIn(where))].join(" ").toLowerCase();
}

/**
 * @param {string} text
 * @param {string[]} words
 */
function has(text, words) {
  return words.every((word) => text.includes(word));
}
