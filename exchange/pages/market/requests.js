// Commands over HTTP, until it is known what became of each.
//
// A click makes one command with one idempotency key, and every later try of it sends the same
// bytes, so it takes effect at most once. It is kept in the browser before it is first sent, and
// forgotten when its outcome is known: a page that is closed meanwhile asks again when it is opened.
//
// An outcome that is not known is no failure. For half a minute the command is sent again: who
// clicked still means it. Later, only a cancel is that touches no newer order; an order is asked for
// by its id.

import { request } from "../shared/requests.js";
import { outcomeOf, unknown } from "./state/outcome.js";
import { drop, keep, kept } from "./trading/kept.js";

/** @typedef {import("./trading/kept.js").Command} Command */
/** @typedef {import("./state/outcome.js").Known} Known */

const ORDERS_MAX = 50; // that wait for an outcome; a person cannot watch more
const KEPT_MAX = 200; // with as many cancels as a page has orders, several times; 200 kB
const MEANT_MS = 30_000; // an order that comes into the market later than this would surprise
const ANSWER_MS_MAX = 30_000; // a gateway answers within seconds: then the connection is dead
const PAUSE_MS_MIN = 500;
const PAUSE_MS_MAX = 10_000;

/** @returns {string} 32 hex digits; a page that is not on localhost or TLS has no randomUUID. */
export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * @param {object} given
 * @param {Storage} given.storage
 * @param {(command: Command, outcome: Known) => void} given.settled
 * @param {() => void} given.changed
 */
export function commands({ storage, settled, changed }) {
  /** @type {Map<string, Command>} */
  const waiting = new Map();
  /** @type {Map<string, () => void>} */
  const wake = new Map();

  /** @param {Command} command */
  async function pursue(command) {
    for (let tries = 0; waiting.has(command.key); tries += 1) {
      const answer = await ask(command);
      if (!waiting.has(command.key)) return; // somebody has forgotten it meanwhile
      if (answer.known) {
        forget(command.key);
        settled(command, answer);
        return;
      }
      const { says, location, detail } = answer;
      Object.assign(command, { says, location, detail, inDoubt: true });
      keep(storage, command);
      changed();
      const doubled = PAUSE_MS_MIN * 2 ** Math.min(tries, 8);
      await pause(command.key, Math.min(Math.max(doubled, answer.pauseMs), PAUSE_MS_MAX));
    }
  }

  /** @param {Command} command */
  function ask(command) {
    if (command.location) return tell(command, `.${command.location}`, {});
    const age = Date.now() - command.since;
    const isMeant = age >= 0 && age < MEANT_MS;
    // A cancel of all that the exchange has taken up goes on with the orders that were open then.
    const isOld = command.what === "cancel_all" && command.says === "pending";
    if (isMeant || isOld || command.what === "cancel" || !command.inDoubt) return post(command);
    if (command.what === "place") return tell(command, `./orders/${command.key}`, {});
    return Promise.resolve(unknown("Newer orders would be cancelled too.", "", 0));
  }

  /** @param {Command} command */
  function post(command) {
    const type = { "Content-Type": "application/json" };
    return tell(command, command.path, { method: "POST", body: command.body, headers: type });
  }

  /**
   * @param {Command} command
   * @param {string} path
   * @param {RequestInit} options
   */
  async function tell(command, path, options) {
    try {
      const asked = { ...options, cache: /** @type {const} */ ("no-store") };
      const answer = await request(path, asked, ANSWER_MS_MAX);
      const seconds = Number(answer.headers.get("retry-after") ?? 0);
      const location = answer.status === 202 ? (answer.headers.get("location") ?? "") : "";
      return outcomeOf(answer.status, answer.body, command, location, seconds * 1000 || 0);
    } catch {
      return outcomeOf(0, null, command, "", 0); // no connection, or no whole answer
    }
  }

  /**
   * @param {string} key
   * @param {number} ms
   */
  function pause(key, ms) {
    const { promise, resolve } = Promise.withResolvers();
    const timer = setTimeout(resolve, ms);
    wake.set(key, () => {
      clearTimeout(timer);
      resolve(undefined);
    });
    return promise;
  }

  /** @param {string} key */
  function forget(key) {
    waiting.delete(key);
    wake.get(key)?.();
    wake.delete(key);
    drop(storage, key);
    changed();
  }

  /** @param {Command} command */
  function begin(command) {
    waiting.set(command.key, command);
    void pursue(command);
  }

  return {
    /** Commands whose outcome is not known, oldest first. */
    pending: () => [...waiting.values()],

    /** Say why no more can be sent; "" if one can. */
    why: () => (waiting.size < ORDERS_MAX ? "" : `${ORDERS_MAX} commands wait for an outcome`),

    /** @param {Pick<Command, "key" | "what" | "path" | "words"> & {body: object}} given */
    send({ body, ...given }) {
      const fresh = { says: "sending", location: "", detail: "", inDoubt: false };
      const text = JSON.stringify(body);
      const command = /** @type {Command} */ ({
        ...given,
        ...fresh,
        body: text,
        since: Date.now(),
      });
      keep(storage, command);
      begin(command);
      changed();
    },

    /**
     * Send it again, since a person says so: it is the same command still.
     * @param {string} key
     */
    again(key) {
      const command = waiting.get(key);
      if (!command) return;
      Object.assign(command, { since: Date.now(), location: "" });
      wake.get(key)?.();
    },

    /** Wait no longer for it. */
    forget,

    /**
     * Go on with what an earlier page did not come to know.
     * @param {(command: Command) => boolean} isMine
     */
    resume(isMine) {
      for (const command of kept(storage, KEPT_MAX))
        if (!waiting.has(command.key) && isMine(command)) begin(command);
      changed();
    },

    /** Leave all of them to a later login; they stay kept. */
    rest() {
      const keys = [...waiting.keys()];
      waiting.clear();
      for (const key of keys) wake.get(key)?.();
      wake.clear();
      changed();
    },
  };
}
