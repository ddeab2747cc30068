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

/** @param {Element} root */
export function mount(root) {
  const names = ["state", "sequence", "age", "ping", "answers", "reconnects", "resumed", "gaps"];
  const parts = Object.fromEntries(
    names.map((name) => [name, element("span", { "data-part": name })]),
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
    setText(parts.answers, `sent to accepted ${answers}`);
    setText(parts.reconnects, `reconnects ${line.reconnects}`);
    setText(parts.resumed, `resumed ${line.resumed}`);
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
