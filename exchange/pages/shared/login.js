// Logging in: with the file of a key, which stays in this tab.

import { element, setText } from "./dom.js";
import { login, logout } from "./door.js";
import { Refused, request } from "./requests.js";

const TIMEOUT_MS = 10_000;
const FILE_BYTES_MAX = 4_096; // the exchange takes no larger one for a key file

/** @typedef {{client_id: string, key_id: string, scopes: string[]}} Who */

/**
 * Make the form. It tells who has logged in, and null when they have logged out.
 * @param {(who: Who | null) => void} changed
 * @returns {HTMLElement}
 */
export function loginForm(changed) {
  const file = /** @type {HTMLInputElement} */ (
    element("input", { id: "key-file", type: "file", accept: ".json,application/json" })
  );
  const text = /** @type {HTMLInputElement} */ (
    element("input", {
      id: "key-text",
      type: "password", // nobody reads it over a shoulder
      autocomplete: "off",
      maxlength: String(FILE_BYTES_MAX),
      "aria-describedby": "key-why key-said",
    })
  );
  const why = element("p", { id: "key-why", class: "problem", role: "alert" });
  const now = element("p", { id: "key-now", role: "status" }, "Nobody is logged in.");
  const leave = element("button", { type: "button", click: left }, "Log out");
  const form = element(
    "form",
    { class: "row", submit },
    element("label", { for: "key-file" }, "Key file"),
    file,
    element("label", { for: "key-text" }, "or its text"),
    text,
    element("button", {}, "Log in"),
  );
  const said = element(
    "p",
    { id: "key-said", class: "quiet" },
    "The key stays in this tab: the browser signs with it and sends it to nobody. Closing or " +
      "reloading the page logs out.",
  );

  /** @param {Event} event */
  async function submit(event) {
    event.preventDefault();
    setText(why, "");
    try {
      const chosen = file.files?.[0];
      if (!text.value && chosen && chosen.size > FILE_BYTES_MAX)
        throw new Error(`${chosen.name} is too large for the file of a key.`);
      await login(text.value || (await chosen?.text()) || "");
      const answer = await request("./whoami", {}, TIMEOUT_MS);
      if (!answer.ok) throw new Refused(answer.body, answer.status);
      entered(answer.body);
    } catch (error) {
      logout();
      setText(why, /** @type {Error} */ (error).message);
    }
  }

  /** @param {Who} who */
  function entered(who) {
    text.value = "";
    file.value = "";
    form.hidden = true;
    leave.hidden = false;
    const { client_id: client, key_id: key, scopes } = who;
    setText(now, `Logged in as ${client} with key ${key.slice(0, 8)}… (${scopes.join(", ")}).`);
    changed(who);
  }

  function left() {
    logout();
    form.hidden = false;
    leave.hidden = true;
    setText(now, "Nobody is logged in.");
    changed(null);
  }

  leave.hidden = true;
  return element("div", { class: "login" }, now, form, leave, why, said);
}
