// What both charts have in common: the page's colours, which a canvas cannot inherit.

/** @type {Record<string, string> | null} */
let known = null;

/** @returns {Record<string, string>} Reading them costs a layout, so it is done once for a theme. */
export function coloursOf() {
  known ??= read();
  return known;
}

/** @returns {Record<string, string>} */
function read() {
  const probe = document.createElement("span");
  document.body.append(probe);
  const names = {
    text: "--text",
    line: "--line",
    ground: "--panel",
    buy: "--buy",
    sell: "--sell",
    buyBar: "--buy-bar",
    sellBar: "--sell-bar",
  };
  const found = Object.entries(names).map(([name, variable]) => {
    probe.style.color = `var(${variable})`; // resolves light-dark()
    return [name, getComputedStyle(probe).color];
  });
  probe.remove();
  return Object.fromEntries(found);
}

/** @type {WeakMap<object, string>} */
const shown = new WeakMap();

/**
 * Give a chart the page's colours, if they are others than before.
 * @param {any} chart
 * @param {{theme: string, colours: string}} settings
 * @param {() => void} also What else of the chart has colours.
 */
export function themed(chart, settings, also) {
  const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
  const name = `${settings.theme} ${settings.colours} ${isDark}`;
  if (shown.get(chart) === name) return;
  shown.set(chart, name);
  known = null;
  const { text, line, ground } = coloursOf();
  chart.applyOptions({
    layout: { background: { type: "solid", color: ground }, textColor: text },
    grid: { vertLines: { color: line }, horzLines: { color: line } },
  });
  also();
}
