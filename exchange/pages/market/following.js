// What is followed on a connection, and whether the gateway has confirmed all of it.
//
// Before that nothing may count as the present: the gateway's heartbeats tell how far those
// channels are that are followed already, and the book on the page may still be an old one.

/** @typedef {import("./state/sequences.js").Seen} Seen */

const BOOK = ["orderbook", "ticker"];
const AGAIN_MS = 2_000; // what was refused is asked for again: a store that is away comes back

export class Following {
  /** @type {string | null} */
  #client = null;
  /** @type {Map<string, string[]>} Channels by the id of the message that asks for them. */
  #asked = new Map();
  /** @type {string[]} Ids of the messages that were refused. */
  #refused = [];
  #againAtMs = 0;
  #number = 0;

  /** @param {string} instrument */
  constructor(instrument) {
    this.instrument = instrument;
  }

  /** Whether everything that was asked for is followed. */
  get isWhole() {
    return this.#asked.size === 0;
  }

  /**
   * Tell whether a message is of a channel as it is followed now, and not as it was before.
   * @param {string} channel
   */
  has(channel) {
    return ![...this.#asked.values()].some((channels) => channels.includes(channel));
  }

  /**
   * Ask for everything on a connection that has just begun.
   * @param {WebSocket} socket
   * @param {Seen} seen
   */
  begin(socket, seen) {
    this.#asked.clear();
    this.#refused = [];
    this.#ask(socket, ["trades", ...BOOK, "orders"], seen);
  }

  /**
   * Follow the orders of another client, or of none.
   * @param {WebSocket | null} socket The connection, if there is one.
   * @param {string | null} client
   * @param {Seen} seen
   */
  follow(socket, client, seen) {
    const { instrument } = this;
    if (socket && this.#client !== null)
      socket.send(JSON.stringify({ type: "unsubscribe", channels: ["orders"], instrument }));
    this.#client = client;
    if (socket) this.#orders(socket, seen);
  }

  /** @param {string | undefined} id Of the message that the gateway has confirmed. */
  confirmed(id) {
    this.#asked.delete(id ?? "");
  }

  /**
   * Return the channels that a refusal is about, null if it is about something else.
   * @param {string | undefined} id
   * @param {number} nowMs
   */
  refused(id, nowMs) {
    const channels = this.#asked.get(id ?? "");
    if (id === undefined || !channels) return null;
    this.#refused.push(id);
    this.#againAtMs = nowMs + AGAIN_MS;
    return channels;
  }

  /**
   * Ask again for what was refused, when it is time.
   * @param {WebSocket} socket
   * @param {Seen} seen
   * @param {number} nowMs
   */
  again(socket, seen, nowMs) {
    if (this.#refused.length === 0 || nowMs < this.#againAtMs) return;
    const channels = this.#refused.flatMap((id) => this.#asked.get(id) ?? []);
    for (const id of this.#refused) this.confirmed(id);
    this.#refused = [];
    this.#ask(socket, channels, seen);
  }

  /**
   * @param {WebSocket} socket
   * @param {string[]} channels
   * @param {Seen} seen
   */
  #ask(socket, channels, seen) {
    if (channels.includes("trades"))
      this.#subscribe(socket, ["trades"], { from_sequence: seen.trades });
    if (channels.includes("orderbook")) this.#subscribe(socket, BOOK, {});
    if (channels.includes("orders")) this.#orders(socket, seen);
  }

  /**
   * @param {WebSocket} socket
   * @param {Seen} seen
   */
  #orders(socket, seen) {
    for (const [id, channels] of this.#asked) if (channels.includes("orders")) this.confirmed(id);
    if (this.#client === null) return;
    this.#subscribe(socket, ["orders"], { client_id: this.#client, from_sequence: seen.orders });
  }

  /**
   * @param {WebSocket} socket
   * @param {string[]} channels
   * @param {Record<string, unknown>} more
   */
  #subscribe(socket, channels, more) {
    this.#number += 1;
    const id = `follow-${this.#number}`;
    this.#asked.set(id, channels);
    const { instrument } = this;
    socket.send(JSON.stringify({ type: "subscribe", channels, instrument, id, ...more }));
  }
}
