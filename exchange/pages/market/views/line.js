// The line at the foot: is what is shown the present, and how is that known?

import { element, setAttribute, setText } from "../../shared/dom.js";
import { percentile } from "../state/line.js";

/** @type {Record<string, string>} */
const WORDS = {
  connecting: "○ connecting",
  resuming: "◐ resuming",
  live: "● live",
  stale: "■ stale",
  away: "□ away",
};

/** What each part means, in the order in which they stand. @type {Record<string, string>} */
const TITLES = {
  state: "Whether what is shown is the present",
  sequence: "The place in the exchange's log of the newest event",
  age: "How long ago the gateway said anything; it does so every second",
  ping: "How long a message takes to the gateway and back",
  answers: "From a click to the answer of your orders: half (p50) and 99 of 100 (p99) took at most",
  reconnects: "How often the connection was lost and made again",
  resumed: "Messages that came during a break and were brought afterwards",
  gaps: "Messages that did not follow the one before; it must be 0",
};

/** @param {Element} root */
export function mount(root) {
  const parts = Object.fromEntries(
    Object.entries(TITLES).map(([name, title]) => [
      name,
      element("span", { "data-part": name, title }),
    ]),
  );
  root.append(...Object.values(parts));

  /**
   * @param {import("../state/line.js").Line} line
   * @param {number} nowMs
   */
  return (line, nowMs) => {
    const why = line.word === "live" || !line.why ? "" : `: ${line.why}`;
    setText(parts.state, `${WORDS[line.word]}${why}`);
    setAttribute(root, "data-state", line.word);
    setText(parts.sequence, `sequence ${line.sequence}`);
    setText(parts.age, `heard ${age(line, nowMs)} ago`);
    setText(parts.ping, `ping ${line.pingMs ?? "–"} ms`);
    const [p50, p99] = [0.5, 0.99].map((share) => percentile(line.latencies, share));
    const answers = p50 === null ? "–" : `p50 ${p50.toFixed(0)} ms, p99 ${p99?.toFixed(0)} ms`;
    setText(parts.answers, `orders answered in ${answers}`);
    setText(parts.reconnects, `reconnects ${line.reconnects}`);
    setText(parts.resumed, `brought afterwards ${line.resumed}`);
    setText(parts.gaps, `gaps ${line.gaps}`);
  };
}

/**
 * @param {import("../state/line.js").Line} line
 * @param {number} nowMs
 */
function age(line, nowMs) {
  return line.heardMs === null ? "–" : `${((nowMs - line.heardMs) / 1000).toFixed(1)} s`;
}
