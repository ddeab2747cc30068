// What was refused, in the words of the page rather than those of the interface.

/**
 * Return the short form of a field's label: without its examples.
 * @param {string} label
 */
export function nameOf(label) {
  return label.replace(/(,? such as| \().*$/, "");
}

/**
 * Return a refusal with the label of its field instead of the name of its parameter.
 * @param {string} message Such as "after_time: must be a time such as ...".
 * @param {Record<string, string>} labels By parameter.
 */
export function inWords(message, labels) {
  const [whole, name] = /^([a-z_]+): /.exec(message) ?? ["", ""];
  return name in labels ? `${nameOf(labels[name])}: ${message.slice(whole.length)}` : message;
}

/**
 * Tell whether an instrument was named that nobody registered.
 * @param {any} problem
 */
export function isUnknown(problem) {
  return problem?.code === "instrument.not_found";
}

/**
 * Return that nobody registered an instrument, with those that there are rather than where the
 * interface lists them.
 * @param {string} message
 * @param {string[]} known
 */
export function withInstruments(message, known) {
  return known.length ? `${message.split(";")[0]}; there are: ${known.join(", ")}.` : message;
}

/**
 * Tell whether a question that has no answer is worth asking again as it is: it was not refused for
 * what it asks.
 * @param {any} error With the problem, if there was an answer.
 */
export function mayComeLater(error) {
  const status = Number(error?.problem?.status ?? 503);
  return status >= 500 || status === 429;
}
