// A chart that stays at its newest bar. By itself it stops there as soon as a bar takes the place of
// an empty interval, and goes on showing an old price as the last one.

const ROOM_BARS = 3; // after the newest bar, so that the label of its time is not cut

/**
 * Draw, and show the newest bar if it was shown before; who looks at older ones is left there.
 * @param {any} chart
 * @param {() => void} draw
 */
export function followed(chart, draw) {
  const times = chart.timeScale();
  const isAtEnd = times.scrollPosition() >= -1;
  draw();
  if (isAtEnd) toEnd(chart);
}

/** @param {any} chart */
export function toEnd(chart) {
  chart.timeScale().scrollToPosition(ROOM_BARS, false);
}
