// How one moves in a shard's log: by events, by batches, and with a slider.

import { element, keyed, setAttribute, setText } from "../../shared/dom.js";

const SETTLE_MS = 150; // a slider tells of every step that it passes
const STEPS = [-100, -1, 1, 100];

/**
 * @param {object} given
 * @param {(by: number) => void} given.step
 * @param {(by: number) => void} given.batch Such as -1.
 * @param {(to: number) => void} given.slid
 * @param {() => void} given.pin Take this moment as the one to compare with.
 * @param {(shard: string) => void} given.shard
 */
export function stepsIn({ step, batch, slid, pin, shard }) {
  let settling = 0;
  const slider = /** @type {HTMLInputElement} */ (
    element("input", {
      type: "range",
      min: "0",
      step: "1",
      input() {
        clearTimeout(settling);
        settling = window.setTimeout(() => {
          settling = 0;
          slid(Number(slider.value));
        }, SETTLE_MS);
      },
    })
  );
  const shards = /** @type {HTMLSelectElement} */ (
    element("select", { change: () => shard(shards.value) })
  );
  const label = element("span", {}, "Position");
  const button = (/** @type {string} */ text, /** @type {() => void} */ click) =>
    element("button", { type: "button", click }, text);
  const buttons = STEPS.map((by) =>
    button(`${by > 0 ? "+" : "−"}${Math.abs(by)} event${Math.abs(by) === 1 ? "" : "s"}`, () =>
      step(by),
    ),
  );
  const whole = element(
    "div",
    { class: "buttons" },
    element("label", {}, "Shard to move in", shards),
    button("−1 batch", () => batch(-1)),
    ...buttons,
    button("+1 batch", () => batch(1)),
    button("Compare with this moment", pin),
    element("label", { class: "slider" }, label, slider),
  );
  return {
    element: whole,

    /**
     * @param {Map<number, number>} ends
     * @param {number} now The shard.
     * @param {number} position
     */
    draw(ends, now, position) {
      const names = [...ends.keys()].sort((one, other) => one - other).map(String);
      const make = (/** @type {string} */ name) => element("option", { value: name }, name);
      keyed(
        shards,
        names,
        (name) => name,
        make,
        () => {},
      );
      if (document.activeElement !== shards) shards.value = String(now);
      const end = ends.get(now) ?? position;
      setText(label, `Position in the log of shard ${now}, of ${end}`);
      slider.max = String(end);
      if (!settling) slider.value = String(position);
      setAttribute(slider, "aria-valuetext", `${now}:${position}`);
    },
  };
}
