// A line of some samples: how a figure went in the last quarter of an hour.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 120;
const HEIGHT = 24;

/**
 * Make an element of a drawing.
 * @param {string} tag
 * @param {Record<string, string | number>} attributes
 * @param {string} [text]
 * @returns {SVGElement}
 */
export function shape(tag, attributes, text) {
  const made = /** @type {SVGElement} */ (document.createElementNS(SVG, tag));
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  if (text !== undefined) made.textContent = text;
  return made;
}

/**
 * Draw samples; where one is not known there is a gap.
 * @param {(number | null)[]} samples
 * @param {string} meaning For who cannot see it.
 */
export function spark(samples, meaning) {
  const most = Math.max(1, ...samples.map((sample) => sample ?? 0));
  const step = WIDTH / Math.max(1, samples.length - 1);
  let path = "";
  let isDrawing = false;
  samples.forEach((sample, index) => {
    if (sample !== null) {
      const y = HEIGHT - 1 - ((HEIGHT - 2) * sample) / most;
      path += `${isDrawing ? "L" : "M"}${(index * step).toFixed(1)} ${y.toFixed(1)}`;
    }
    isDrawing = sample !== null;
  });
  const drawn = shape("svg", {
    class: "spark",
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    role: "img",
    "aria-label": meaning,
  });
  drawn.append(shape("path", { d: path || "M0 0" }));
  return drawn;
}
