// The log, page by page: its address is the query, and the chain is verified for what is shown.

import { element, setText } from "../../shared/dom.js";
import { ask } from "../requests.js";
import { moment, tableOf } from "./cells.js";
import { fieldsOf } from "./fields.js";

const PAGE_EVENTS = 50;
const FOLLOW_S = 8; // the desk waits 12 s for the analysts' process
const SHOWN = [
  "shard",
  "position",
  "chain",
  "time",
  "instrument",
  "type",
  "version",
  "command_id",
  "kafka_offset",
];

/** @param {Element} root */
export function mount(root) {
  const fields = fieldsOf(
    [
      ["after", "After positions, such as 0:123"],
      ["after_time", "After a time, such as 2026-01-31T12:00"],
      ["type", "Type of event"],
      ["order_id", "Order"],
      ["client_id", "Client"],
      ["command_id", "Command"],
      ["instrument", "Instrument"],
    ],
    (values) => go(values),
    "Show",
  );
  const said = element("p", { role: "status" });
  const chain = element("p", { class: "quiet" });
  const table = tableOf("Events", ["where", "when", "type", "instrument", "what", "command"]);
  const next = /** @type {HTMLButtonElement} */ (
    element("button", { type: "button", click: onward }, "Next page")
  );
  const follow = /** @type {HTMLInputElement} */ (
    element("input", { type: "checkbox", change: onward })
  );
  root.append(
    element(
      "section",
      { "aria-label": "The log" },
      fields.form,
      said,
      table.table,
      chain,
      element("div", { class: "buttons" }, next, element("label", {}, "Follow", follow)),
    ),
  );
  /** @type {any} */
  let page = null;
  let asked = 0;

  /** @param {Record<string, string>} values */
  function go(values) {
    const given = Object.entries(values).filter(([, value]) => value);
    location.hash = `log?${new URLSearchParams(given)}`;
  }

  function onward() {
    if (page) go({ ...fields.values(), after: page.next, after_time: "" });
  }

  /** @param {URLSearchParams} query */
  return async function show(query) {
    fields.fill(query);
    const mine = ++asked;
    const { command_id, ...asking } = fields.values();
    const waits = follow.checked ? { wait_s: FOLLOW_S } : {};
    setText(said, follow.checked ? "Following …" : "Asked …");
    try {
      const found = await ask("/events", { limit: PAGE_EVENTS, ...asking, ...waits });
      if (mine !== asked) return;
      page = found;
      const events = found.events.filter(
        (/** @type {any} */ one) => !command_id || one.command_id === command_id,
      );
      if (events.length || !follow.checked) table.draw(events.map(row));
      const isEnd = found.next === found.sequence;
      next.disabled = isEnd && !follow.checked;
      setText(
        said,
        `${events.length} events, up to ${found.next}${isEnd ? ", the end of the log" : ""}`,
      );
      if (found.events.length) setText(chain, await verified(found.events));
      if (follow.checked && mine === asked && !root.hasAttribute("hidden")) onward();
    } catch (error) {
      if (mine === asked) setText(said, /** @type {Error} */ (error).message);
    }
  };
}

/** @param {any} one */
function row(one) {
  const what = Object.entries(one).filter(
    ([name, value]) => !SHOWN.includes(name) && !name.endsWith("_units") && value !== null,
  );
  const orders = [one.order_id, one.taker_order_id, one.maker_order_id].filter(Boolean);
  const links = orders.map((id) =>
    element("a", { href: `#order?${new URLSearchParams({ order_id: id })}` }, id),
  );
  const text = what
    .filter(([name]) => !name.endsWith("order_id"))
    .map(([name, value]) => `${name} ${value}`)
    .join(", ");
  const at = `${one.shard}:${one.position}`;
  return {
    key: at,
    cells: [
      element(
        "a",
        { href: `#time?${new URLSearchParams({ at, instrument: one.instrument ?? "" })}` },
        at,
      ),
      moment(one.time),
      one.type,
      one.instrument ?? "",
      element("span", {}, text, ...links.flatMap((link) => [" ", link])),
      element(
        "a",
        {
          href: `#log?${new URLSearchParams({ after: `${one.shard}:${one.position - 1}`, command_id: one.command_id })}`,
        },
        one.command_id,
      ),
    ],
  };
}

/**
 * Compare each shard's part of a page with the chain that was written.
 * @param {any[]} events
 */
async function verified(events) {
  const told = [];
  for (const shard of new Set(events.map((one) => one.shard))) {
    const mine = events.filter((one) => one.shard === shard);
    const last = mine[mine.length - 1];
    const first = Math.max(mine[0].position - 1, last.position - 1_000);
    const found = await ask("/chain", { shard, after: first, up_to: last.position });
    if (found.failure) told.push(`NOT as it was written: ${found.failure}`);
    else if (found.chain !== last.chain)
      told.push(`NOT as it was written: ${shard}:${last.position} has another chain`);
    else told.push(`shard ${shard} is as it was written from ${first + 1} to ${last.position}`);
  }
  return `Chain verified: ${told.join("; ")}.`;
}
