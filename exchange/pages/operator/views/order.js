// An order's life: its events drawn along time, with whom it traded, and the book just before.

import { element, setText } from "../../shared/dom.js";
import { ask } from "../requests.js";
import { otherOf } from "../state/life.js";
import { told } from "../state/places.js";
import { mayComeLater } from "../state/refusals.js";
import { moment, tableOf } from "./cells.js";
import { fieldsOf } from "./fields.js";
import { link } from "./links.js";
import { shardOfOrder, tradesOf } from "./lives.js";
import { shape } from "./spark.js";

const NOT_TO_SCALE = "The events are in their order; gaps between them are not to scale of time.";
const EVENTS_MAX = 200;
const WIDTH = 1_000;

/**
 * @param {Element} root
 * @param {() => Promise<Map<number, number>>} endsNow Where the logs end, by shard.
 */
export function mount(root, endsNow) {
  const fields = fieldsOf(
    [["order_id", "Order"]],
    (values) => {
      location.hash = `order?${new URLSearchParams(values)}`;
    },
    "Show",
  );
  const said = element("p", { role: "status" });
  const drawn = element("div");
  const table = tableOf("Its events", ["where", "when", "what", "figures", "the book just before"]);
  root.append(
    element("section", { "aria-label": "An order's life" }, fields.form, said, drawn, table.table),
  );

  let asked = 0;

  /** @param {URLSearchParams} query */
  return async function show(query) {
    const { order_id } = fields.fill(query);
    if (!order_id) {
      setText(said, "Name an order, or follow a link of the log.");
      return true;
    }
    const mine = ++asked;
    const isShown = () => mine === asked;
    setText(said, "Asked …");
    const path = `/orders/${encodeURIComponent(order_id)}`;
    try {
      const ends = await endsNow();
      const moments = { as_of_sequence: told(ends) };
      const [found, life] = await Promise.all([
        ask(path, moments),
        ask(`${path}/events`, { ...moments, limit: EVENTS_MAX }),
      ]);
      const order = found.order ?? found;
      setText(
        said,
        `${order.side} ${order.quantity} ${order.instrument} at ${order.price ?? "the market"} of ${order.client_id}: ${order.status}, ${order.filled_quantity} filled`,
      );
      const events = life.events;
      drawn.replaceChildren(picture(events), element("p", { class: "quiet" }, NOT_TO_SCALE));
      const shard = await shardOfOrder(events, order_id, ends);
      const place = { order: order_id, instrument: order.instrument, shard };
      if (!isShown()) return true;
      table.draw(events.map((/** @type {any} */ one) => row(one, place)));
      const trades = await tradesOf(events, shard);
      if (!isShown()) return true;
      table.draw(events.map((/** @type {any} */ one) => row(one, place, trades)));
      return true;
    } catch (error) {
      if (!isShown()) return true;
      drawn.replaceChildren();
      table.clear();
      setText(said, /** @type {Error} */ (error).message);
      return !mayComeLater(error);
    }
  };
}

/**
 * @param {any} one
 * @param {{order: string, instrument: string, shard: number}} place
 * @param {Map<number, any>} [trades] With both sides, by position.
 */
function row(one, { order, instrument, shard }, trades) {
  const at = `${shard}:${one.sequence}`;
  const skipped = ["type", "timestamp", "sequence", "command_id"];
  const text = Object.entries(one)
    .filter(([name, value]) => !skipped.includes(name) && value !== null && value !== order)
    .filter(([, value]) => typeof value !== "object")
    .map(([name, value]) => `${name} ${value}`)
    .join(", ");
  const trade = trades?.get(one.sequence);
  return {
    key: at,
    cells: [
      link("time", { at, instrument }, at),
      moment(one.timestamp),
      String(one.type),
      trade ? element("span", {}, text, ...withWhom(trade, order)) : text,
      link("time", { at: `${shard}:${one.sequence - 1}`, instrument }, "show"),
    ],
  };
}

/** @param {any} trade @param {string} order */
function withWhom(trade, order) {
  const other = otherOf(trade, order);
  if (!other) return [];
  return [
    `, ${other.role}_client_id ${other.client}, ${other.role}_order_id `,
    link("order", { order_id: other.order }, other.order),
  ];
}

/** @param {any[]} events */
function picture(events) {
  const drawn = shape("svg", {
    class: "life",
    viewBox: `0 0 ${WIDTH} 90`,
    role: "img",
    "aria-label": `${events.length} events: ${events.map((one) => one.type).join(", ")}`,
  });
  drawn.append(shape("line", { x1: 20, y1: 45, x2: WIDTH - 20, y2: 45 }));
  const step = (WIDTH - 120) / Math.max(1, events.length - 1);
  events.forEach((one, index) => {
    const x = 40 + index * step;
    drawn.append(shape("circle", { cx: x, cy: 45, r: 6 }));
    const isAbove = index % 2 === 0;
    drawn.append(shape("text", { x: x - 20, y: isAbove ? 30 : 68 }, String(one.type)));
    drawn.append(
      shape("text", { x: x - 20, y: isAbove ? 16 : 82 }, moment(one.timestamp).slice(11)),
    );
  });
  return drawn;
}
