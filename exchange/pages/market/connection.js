// The stream: one connection that is resumed where it ended, and says what it knows of itself.
//
// Trades and a client's orders are asked for from the last sequence that was seen. Book and ticker
// begin anew. A message that does not follow the one before is a gap: counted, mended by resuming.

import { parseExact } from "../shared/amounts.js";
import { Following } from "./following.js";
import { introduced, isOpen, opened, retryMs } from "./socket.js";
import { answered, BEGIN, ended, STALE_MS } from "./state/line.js";
import { after, beaten, isResumed, kept, verdict } from "./state/sequences.js";

const CHANNELS = new Set(["trades", "orders", "orderbook", "ticker"]);
const TICK_MS = 250;
const PING_EVERY_MS = 5_000;
const SILENT_MS = 2 * STALE_MS; // a connection that says nothing for so long is given up
const CONNECT_MS = 5_000;

export class Connection {
  /** @type {WebSocket | null} */
  #socket = null;
  #line = BEGIN;
  /** @type {import("./state/sequences.js").Seen} */
  #seen = {};
  #attempts = 0;
  #retryAtMs = 0;
  #isGreeted = false; // nothing may be sent before
  #openedMs = 0;
  #pingedMs = 0;
  #tickedMs = Date.now();

  /**
   * @param {string} instrument
   * @param {{message: (message: any) => void, line: (line: import("./state/line.js").Line) => void,
   *   resumed: (sequence: number) => void}} listener
   */
  constructor(instrument, listener) {
    this.instrument = instrument;
    this.listener = listener;
    this.following = new Following(instrument);
  }

  /** @param {Record<string, number>} seen Sequences that the page has already, by channel. */
  start(seen) {
    this.#seen = { ...this.#seen, ...seen };
    setInterval(() => this.#tick(), TICK_MS);
    for (const name of ["online", "pageshow"]) addEventListener(name, () => this.#wake());
    for (const name of ["visibilitychange", "resume"])
      document.addEventListener(name, () => this.#wake());
    this.#open();
  }

  /**
   * Follow the orders of another client, or of none.
   * @param {string | null} client
   * @param {number} sequence Up to which the page has its orders.
   */
  follow(client, sequence) {
    this.#seen = { ...this.#seen, orders: sequence };
    this.following.follow(this.#isGreeted ? this.#socket : null, client, this.#seen);
  }

  /** Begin anew, since somebody has logged in or out. */
  identify() {
    this.#lost("the login changed", 0);
    this.#open();
  }

  /** @param {number} latencyMs From sending an order to its answer. */
  answered(latencyMs) {
    this.#tell(answered(this.#line, latencyMs));
  }

  #open() {
    this.#retryAtMs = 0;
    this.#openedMs = Date.now();
    const isMine = (/** @type {WebSocket} */ socket) => socket === this.#socket;
    this.#socket = opened(
      (text, of) => isMine(of) && this.#hear(parseExact(text)),
      ({ reason, code }, of) => isMine(of) && this.#lost(reason, code),
    );
  }

  /** @param {any} message */
  #hear(message) {
    const nowMs = Date.now();
    this.#line = { ...this.#line, heardMs: nowMs };
    if (message.type === "connected") void this.#greeted();
    else if (message.type === "authenticated") this.#begin();
    else if (message.type === "subscribed") this.following.confirmed(message.id);
    else if (message.type === "pong") this.#tell({ pingMs: nowMs - this.#pingedMs });
    else if (message.type === "heartbeat") this.#beat(message.sequences[this.instrument], nowMs);
    else if (message.type === "error") this.#refused(message);
    else if (CHANNELS.has(message.type)) this.#take(message);
  }

  async #greeted() {
    const socket = this.#socket;
    if (socket && !(await introduced(socket)) && socket === this.#socket) this.#begin();
  }

  #begin() {
    if (!this.#socket) return;
    this.#isGreeted = true;
    if (this.#line.reconnects) {
      this.listener.resumed(this.#seen.trades);
      this.#tell({ word: "resuming", why: "the rest is being read" });
    }
    this.following.begin(this.#socket, this.#seen);
  }

  /**
   * @param {number | undefined} reached Up to which all was sent; without it something is missing.
   * @param {number} nowMs
   */
  #beat(reached, nowMs) {
    if (reached === undefined || !this.following.isWhole) return;
    this.#attempts = 0;
    this.#seen = beaten(this.#seen, reached);
    const sequence = Math.max(this.#line.sequence, reached);
    this.#tell({ word: "live", why: "", sequence, beatMs: nowMs });
  }

  /** @param {any} message A subscription that is refused ends nothing: it is asked for again. */
  #refused({ id, detail, title }) {
    const channels = this.following.refused(id, Date.now());
    if (channels === null) this.#lost(detail ?? title, 0);
    else this.#tell({ word: "stale", why: `${channels.join(", ")}: ${detail ?? title}` });
  }

  /** @param {any} message Of a channel. */
  #take(message) {
    const { type, sequence } = message;
    if (!this.following.has(type)) return;
    const found = verdict(this.#seen, message);
    if (found === "gap") {
      this.#line = { ...this.#line, gaps: this.#line.gaps + 1 };
      this.#lost(`${type} after ${this.#seen[type]} are missing`, 0);
    }
    if (found !== "news") return;
    this.#seen = after(this.#seen, message);
    this.listener.message(message);
    const again = this.#line.word === "resuming" && isResumed(type) ? 1 : 0;
    const furthest = Math.max(this.#line.sequence, sequence);
    this.#tell({ sequence: furthest, resumed: this.#line.resumed + again });
  }

  /**
   * @param {string} reason
   * @param {number} code
   */
  #lost(reason, code) {
    const socket = this.#socket;
    this.#socket = null;
    this.#isGreeted = false;
    socket?.close();
    this.#retryAtMs = Date.now() + retryMs(this.#attempts);
    this.#attempts += 1;
    this.#seen = kept(this.#seen);
    this.#tell(ended(this.#line, code, reason, this.#attempts, navigator.onLine));
  }

  #tick() {
    const nowMs = Date.now();
    const slept = nowMs - this.#tickedMs > STALE_MS;
    this.#tickedMs = nowMs;
    if (slept) this.#wake();
    else if (this.#socket === null) {
      if (nowMs >= this.#retryAtMs) this.#open();
    } else if (!isOpen(this.#socket)) {
      if (nowMs - this.#openedMs > CONNECT_MS) this.#lost("the gateway does not answer", 0);
    } else if (nowMs - (this.#line.heardMs ?? this.#openedMs) > SILENT_MS)
      this.#lost("the gateway says nothing", 0);
    else {
      this.following.again(this.#socket, this.#seen, nowMs);
      if (nowMs - this.#pingedMs > PING_EVERY_MS) {
        this.#pingedMs = nowMs;
        this.#socket.send('{"type":"ping"}');
      }
    }
    this.listener.line(this.#line); // its age moved
  }

  /** Look at once after a sleep, and do not trust a connection that was silent meanwhile. */
  #wake() {
    if (document.visibilityState === "hidden") return;
    const silentMs = Date.now() - (this.#line.heardMs ?? 0);
    if (this.#socket === null) this.#open();
    else if (isOpen(this.#socket) && silentMs > STALE_MS) {
      this.#lost("this page was asleep", 0);
      this.#open();
    }
    this.listener.line(this.#line);
  }

  /** @param {Partial<import("./state/line.js").Line>} changes */
  #tell(changes) {
    this.#line = { ...this.#line, ...changes };
    this.listener.line(this.#line);
  }
}
