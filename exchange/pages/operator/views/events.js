// An event as a row of the log browser, with links to its order, its command and its moment.

import { element } from "../../shared/dom.js";
import { moment } from "./cells.js";
import { link } from "./links.js";

export const HEADINGS = ["where", "when", "type", "instrument", "what", "command"];

const SHOWN = new Set([
  "shard",
  "position",
  "chain",
  "time",
  "instrument",
  "type",
  "version",
  "command_id",
  "kafka_offset",
]);

/**
 * @param {any} one
 * @param {boolean} isBroken Whether it is not as it was written.
 * @param {{trace_id: string, url: string | null}} [trace] Of its command.
 */
export function rowOf(one, isBroken, trace) {
  const at = `${one.shard}:${one.position}`;
  const time = link("time", { at, instrument: one.instrument ?? "" }, at);
  const where = isBroken ? element("span", { class: "bad" }, time, " NOT as it was written") : time;
  const command = { after: `${one.shard}:${one.position - 1}`, command_id: one.command_id };
  return {
    key: `${at} ${isBroken}`,
    cells: [
      where,
      moment(one.time),
      one.type,
      one.instrument ?? "",
      what(one),
      commandOf(command, trace),
    ],
  };
}

/**
 * @param {{after: string, command_id: string}} command
 * @param {{trace_id: string, url: string | null} | undefined} trace
 */
function commandOf(command, trace) {
  const all = link("log", command, command.command_id);
  if (!trace) return all;
  const { trace_id, url } = trace;
  const seen = url
    ? element("a", { href: url, rel: "noreferrer", target: "_blank" }, "trace")
    : element("span", {}, "trace ", element("code", {}, trace_id));
  return element("span", {}, all, " ", seen);
}

/** @param {any} one */
function what(one) {
  const text = Object.entries(one)
    .filter(
      ([name, value]) => !SHOWN.has(name) && !/_units$|order_id$/.test(name) && value !== null,
    )
    .map(([name, value]) => `${name} ${value}`)
    .join(", ");
  const orders = [one.order_id, one.taker_order_id, one.maker_order_id].filter(Boolean);
  const links = orders.flatMap((order_id) => [" ", link("order", { order_id }, order_id)]);
  return element("span", {}, text, ...links);
}
