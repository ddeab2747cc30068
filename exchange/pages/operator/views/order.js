// An order's life: its events drawn along time, with whom it traded, and the book just before.

import { element, setText } from "../../shared/dom.js";
import { ask } from "../requests.js";
import { told } from "../state/places.js";
import { moment, tableOf } from "./cells.js";
import { fieldsOf } from "./fields.js";
import { shape } from "./spark.js";

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

  /** @param {URLSearchParams} query */
  return async function show(query) {
    fields.fill(query);
    const { order_id } = fields.values();
    if (!order_id) {
      setText(said, "Name an order, or follow a link of the log.");
      return true;
    }
    setText(said, "Asked …");
    const path = `/orders/${encodeURIComponent(order_id)}`;
    try {
      const moments = { as_of_sequence: told(await endsNow()) };
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
      drawn.replaceChildren(picture(events));
      table.draw(events.map((/** @type {any} */ one) => row(one, order.instrument)));
      return true;
    } catch (error) {
      drawn.replaceChildren();
      table.clear();
      setText(said, /** @type {Error} */ (error).message);
      return false;
    }
  };
}

/** @param {any} one */
function whenOf(one) {
  return one.timestamp ?? one.time ?? one.created_at;
}

/** @param {any} one */
function placeOf(one) {
  return one.sequence ?? one.position;
}

/**
 * @param {any} one
 * @param {string} instrument
 */
function row(one, instrument) {
  const skipped = ["type", "timestamp", "time", "sequence", "position", "command_id"];
  const text = Object.entries(one)
    .filter(
      ([name, value]) => !skipped.includes(name) && value !== null && typeof value !== "object",
    )
    .map(([name, value]) => `${name} ${value}`)
    .join(", ");
  const at = placeOf(one);
  const before = new URLSearchParams({ at: String(at - 1), instrument });
  return {
    key: String(at),
    cells: [
      String(at),
      moment(whenOf(one)),
      String(one.type),
      text,
      element("a", { href: `#time?${before}` }, "show"),
    ],
  };
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
    drawn.append(shape("text", { x: x - 20, y: isAbove ? 16 : 82 }, moment(whenOf(one)).slice(11)));
  });
  return drawn;
}
