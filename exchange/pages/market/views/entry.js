// The form of an order, and what it would do.

import { fromUnits, grouped, trimmed } from "../../shared/amounts.js";
import { element, keyed, setAttribute, setText } from "../../shared/dom.js";
import { amountText } from "../instrument.js";
import { isGrave, isWarning } from "../state/slippage.js";
import { choices, stepField } from "./fields.js";

/** @param {"price" | "quantity"} field */
export function focus(field) {
  const input = /** @type {HTMLInputElement | null} */ (document.getElementById(`entry-${field}`));
  input?.focus();
  input?.select();
}

/**
 * @param {Element} root
 * @param {any} actions
 */
export function mount(root, actions) {
  const side = choices("Side", "side", { buy: "Buy", sell: "Sell" }, (value) =>
    actions.change({ type: "side", value }),
  );
  const type = choices("Type", "type", { limit: "Limit", market: "Market" }, (value) =>
    actions.change({ type: "kind", value }),
  );
  const price = stepField("Price", "price", actions);
  const quantity = stepField("Quantity", "quantity", actions);
  const sizes = element("div", { class: "row", role: "group", "aria-label": "Sizes" });
  const total = element("output", { id: "entry-total" });
  const expected = element("p", { id: "entry-expected" });
  const box = /** @type {HTMLInputElement} */ (
    element("input", {
      type: "checkbox",
      change: () => actions.change({ type: "accept", slippage: box.checked ? slippage : null }),
    })
  );
  const agree = element("label", { class: "loud" }, box, " I want to trade that far away");
  const send = element("button", { id: "entry-send", class: "send" });
  const repeat = element("button", { type: "button", click: actions.repeat }, "Fill in last order");
  const keys = element("button", { type: "button", click: actions.help });
  const answer = element("p", { id: "entry-answer" });
  const form = element(
    "form",
    {
      submit(event) {
        event.preventDefault();
        actions.send();
      },
    },
    element("div", { class: "row" }, side.root, type.root),
    price.root,
    quantity.root,
    sizes,
    element("p", {}, "Total ", total),
    expected,
    agree,
    element("div", { class: "row" }, send, repeat, keys),
    answer,
  );
  root.append(form);

  let slippage = 0n;

  /** @param {any} state */
  return function draw(state) {
    const { entry, judged, instrument, last } = state;
    slippage = judged.expected?.slippage ?? 0n;
    side.draw(entry.side);
    type.draw(entry.type);
    setAttribute(form, "data-side", entry.side);
    price.root.hidden = entry.type === "market";
    const { base, quote, tick, lot, priceScale, quantityScale } = instrument;
    const tickText = trimmed(fromUnits(tick, priceScale), 0);
    const lotText = trimmed(fromUnits(lot, quantityScale), 0);
    price.draw(entry.price, judged.priceProblem, `${quote}, step ${tickText}`);
    quantity.draw(entry.quantity, judged.quantityProblem, `${base}, step ${lotText}`);
    keyed(
      sizes,
      [...state.sizes.keys()],
      String,
      (place) =>
        element("button", {
          type: "button",
          "aria-keyshortcuts": String(place + 1),
          click: () => actions.size(place),
        }),
      (button, place) => setText(button, state.sizes[place]),
    );
    setText(total, judged.total ? `${grouped(judged.total)} ${instrument.quote}` : "–");
    setText(expected, wordsOf(judged.expected, judged.own, entry, instrument));
    setAttribute(expected, "class", isWarning(slippage) || judged.own > 0n ? "warning" : "quiet");
    agree.hidden = !judged.mustAgree;
    box.checked = judged.isAgreed;
    drawSend(state);
    repeat.hidden = last === null;
    setText(keys, `Keys (?): ${state.settings.hotkeys ? "on" : "off"}`);
    setText(answer, state.answer.text);
    setAttribute(answer, "class", state.answer.isBad ? "problem" : "quiet");
  };

  /** @param {any} state */
  function drawSend({ entry, judged, instrument, why }) {
    const words = `${entry.side === "buy" ? "Buy" : "Sell"} ${instrument.base}`;
    const reason = why || judged.why;
    setText(send, reason ? `${words}: ${reason}` : words);
    // It can have the focus all the same, so that who cannot see it hears why.
    setAttribute(send, "aria-disabled", String(reason !== ""));
  }
}

/**
 * @param {import("../state/slippage.js").Expected | null} expected
 * @param {bigint} own At most so much of it would be with own orders.
 * @param {import("../state/entry.js").Entry} entry
 * @param {import("../state/entry.js").Instrument} instrument
 * @returns {string} What would happen at once, by the book as it is now.
 */
function wordsOf(expected, own, entry, instrument) {
  if (expected === null) return "";
  const { filled, missing, average, slippage } = expected;
  const isLimit = entry.type === "limit";
  if (filled === 0n) {
    if (isLimit) return "It would rest in the book.";
    return "Nothing rests on the other side: all of it would be cancelled.";
  }
  const amount = (/** @type {bigint} */ units) => amountText(units, instrument);
  const price = grouped(trimmed(fromUnits(average, instrument.priceScale + 2), 0));
  const away = fromUnits(slippage, 2);
  const mark = isGrave(slippage) ? "Far away! " : isWarning(slippage) ? "Careful: " : "";
  const rest = missing && `; ${amount(missing)} would ${isLimit ? "rest" : "be cancelled"}`;
  const self = own > 0n ? ` Up to ${amount(own)} of it would be with your own orders.` : "";
  const worse = slippage > 0n ? `, ${away} % worse than the best price` : "";
  return `${mark}${amount(filled)} would trade at about ${price}${worse}${rest || ""}.${self}`;
}
