// A chart that stays at its newest bar. By itself it stops there as soon as a bar takes the place of
// an empty interval, and goes on showing an old price as the last one.

const NEAR_BARS = 1; // as far from the newest bar as a hand may leave it

/**
 * Draw, and show the newest bar if it was shown before; who looks at older ones is left there.
 * @param {any} chart
 * @param {() => void} draw
 */
export function followed(chart, draw) {
  const times = chart.timeScale();
  const isAtEnd = times.scrollPosition() >= -NEAR_BARS;
  draw();
  if (isAtEnd) times.scrollToPosition(0, false);
}
