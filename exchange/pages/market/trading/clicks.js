// What a person does to the market: send an order, cancel one, cancel all.

import { commands, newKey } from "../requests.js";
import { bodyOf, judge, wordsOf } from "../state/entry.js";
import { CANCEL, doneIn } from "../state/said.js";
import { confirmed } from "../views/ask.js";
import { browserStorage, clientOf } from "./kept.js";

/** @typedef {import("./kept.js").Command} Command */
/** @typedef {import("../state/entry.js").Entry} Entry */

/**
 * @param {object} given
 * @param {import("../trading.js").Market} given.market
 * @param {import("./lists.js").Lists} given.listed
 * @param {() => string} given.typedClient What stands in the field of the client id.
 */
export function clicks({ market, listed, typedClient }) {
  const NO_ANSWER = { text: "", isBad: false };
  let answer = NO_ANSWER;
  /** @type {Entry | null} */
  let last = null;
  const storage = browserStorage();
  const sent = commands({ storage, settled, changed: market.changed });

  /** Say why no order can be sent; "" if one can. */
  function whyNot() {
    const { client } = market.settings();
    const typed = typedClient();
    if (typed && typed !== client) return `confirm the client id ${typed} first`;
    if (!client) return market.door === "keys" ? "Log in first" : "Choose a client id first";
    return market.why() || sent.why();
  }

  /** @param {Entry} order */
  async function send(order) {
    const { instrument } = market;
    const isReady = () => !whyNot() && judge(order, instrument, market.book()).isReady;
    if (!isReady()) return;
    const words = wordsOf(order, instrument.name, instrument);
    if (market.settings().confirm && !(await confirmed(`${words}?`, "Send"))) return;
    if (!isReady()) return; // the market went on while somebody was asked
    last = order;
    answer = NO_ANSWER;
    const key = newKey();
    const body = bodyOf(order, instrument.name, market.settings().client, key);
    sent.send({ key, what: "place", path: "./orders", words, body });
  }

  /** @param {any} order */
  function cancel(order) {
    if (cancelling().has(order.order_id)) return;
    const key = newKey();
    const path = `./orders/${encodeURIComponent(order.order_id)}/cancel`;
    const { instrument: name } = order;
    const words = `${CANCEL}${wordsOf(order, name, market.instrumentOf(name))}`;
    const body = { client_id: market.settings().client, idempotency_key: key };
    sent.send({ key, what: "cancel", path, words, body });
  }

  async function cancelAll() {
    const { client } = market.settings();
    const words = `Cancel all open orders of ${client}`;
    if (!client || !(await confirmed(`${words}, of every instrument?`, "Cancel all"))) return;
    const key = newKey();
    const body = { client_id: client, idempotency_key: key };
    sent.send({ key, what: "cancel_all", path: "./orders/cancel-all", words, body });
  }

  /** @returns {Set<string>} The orders whose cancels are under way. */
  function cancelling() {
    const cancels = sent.pending().filter(({ what }) => what === "cancel");
    return new Set(cancels.map(({ path }) => decodeURIComponent(path.split("/")[2])));
  }

  /**
   * @param {Command} command
   * @param {import("../state/outcome.js").Known} outcome
   */
  function settled(command, outcome) {
    const client = clientOf(command);
    const whose = client === market.settings().client ? "" : `${client}: `;
    const words = whose + command.words; // another client may have been chosen meanwhile
    if (outcome.done) {
      if (command.what === "place" && !command.inDoubt) market.answered(Date.now() - command.since);
      listed.answered(outcome.body);
      answer = { text: whose + doneIn(command, outcome.body), isBad: false };
    } else {
      answer = { text: `${words}: not done. ${outcome.detail}`, isBad: true };
      listed.refused(answer.text);
    }
    market.changed();
  }

  return {
    send: (/** @type {Entry} */ order) => void send(order),
    cancel,
    cancelAll: () => void cancelAll(),
    /** Cancel the newest order; on an older page of the list it is not shown, so none is. */
    cancelLast() {
      if (listed.isFirst()) listed.orders().slice(0, 1).forEach(cancel);
    },
    again: sent.again,
    forget: sent.forget,
    /** Go on with what was kept; where keys are asked for, with what is of the key's client. */
    resume() {
      const { client } = market.settings();
      sent.resume((command) => market.door !== "keys" || clientOf(command) === client);
    },
    rest: sent.rest,
    shown: () => ({
      answer,
      last,
      why: whyNot(),
      pending: sent.pending(),
      cancelling: cancelling(),
    }),
    /** Return the order that was sent last; what is shown of it would be taken for the next one's. */
    takeLast() {
      answer = NO_ANSWER;
      return last;
    },
    /** Another client was chosen: what was said was said to the former one. */
    begin() {
      [answer, last] = [NO_ANSWER, null];
    },
  };
}
