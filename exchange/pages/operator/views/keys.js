// Clients and their keys: accounts are made, clients suspended, keys issued and revoked.

import { element, setText } from "../../shared/dom.js";
import { newKey } from "../../shared/new_key.js";
import { ask, change } from "../requests.js";
import { moment, tableOf } from "./cells.js";

const SCOPES = ["read", "trade", "cancel", "audit", "admin"];
const USUAL = SCOPES.slice(0, 3);

/**
 * @param {Element} root
 * @param {() => any} state As `/state` tells it.
 * @returns {(query: URLSearchParams) => Promise<boolean>} Shows it; whether it could.
 */
export function mount(root, state) {
  const said = element("p", { role: "status" });
  const clients = tableOf("Clients", ["client", "account since", "suspended on shards", ""]);
  const keys = tableOf("Keys", ["key", "scopes", "state", "issued", "from", "label", ""]);
  const title = element("h3");
  const secret = element("div");
  const name = input("new-client", "A new client's id");
  const label = input("key-label", "Label");
  const boxes = SCOPES.map((scope) => box(scope));
  const create = element(
    "form",
    { submit: (event) => void makeAccount(event) },
    ...name.parts,
    element("button", {}, "Make an account"),
  );
  const issue = element(
    "form",
    { submit: (event) => void makeKey(event) },
    element("fieldset", {}, element("legend", {}, "Scopes"), ...boxes.flatMap((one) => one.parts)),
    ...label.parts,
    element("button", {}, "Issue a key"),
  );
  const chosen = element("div", {}, title, keys.table, issue, secret);
  chosen.hidden = true;
  root.append(element("h2", {}, "Clients and keys"), said, clients.table, create, chosen);
  let client = "";

  /** Do something, say what was done or why not, and show what is so now. @param {() => Promise<any>} work */
  async function doing(work) {
    setText(said, "Asked …");
    try {
      const { message } = await work();
      await show();
      setText(said, message);
    } catch (error) {
      setText(said, /** @type {Error} */ (error).message);
    }
  }

  /** @param {Event} event */
  function makeAccount(event) {
    event.preventDefault();
    const body = { client_id: name.field.value.trim() };
    return doing(() => change("/accounts", body));
  }

  /** @param {Event} event */
  function makeKey(event) {
    event.preventDefault();
    const scopes = boxes.filter(({ field }) => field.checked).map(({ field }) => field.value);
    return doing(async () => {
      const made = await newKey();
      const fields = { client_id: client, scopes, label: label.field.value };
      const told = await change("/keys", { ...fields, public_key: made.publicKey });
      secret.replaceChildren(...shownOnce(told.key_id, made.fileOf(told.key_id)));
      return told;
    });
  }

  /** @param {any} one */
  function clientRow(one) {
    const at = one.suspended.join(", ");
    const [word, path] = at ? ["Resume", "resume"] : ["Suspend", "suspend"];
    const will = at ? "It may place orders again." : "It places no more orders; cancels pass.";
    const act = sure(`${word} ${one.client_id}`, will, () =>
      doing(() => change(`/accounts/${encodeURIComponent(one.client_id)}/${path}`, {})),
    );
    const link = element(
      "a",
      { href: `#keys?${new URLSearchParams({ client: one.client_id })}` },
      one.client_id,
    );
    return {
      key: `${one.client_id} ${at}`,
      cells: [link, moment(one.created_at) || "none", at, mayChange() ? act : ""],
    };
  }

  /** @param {any} one */
  function keyRow(one) {
    const hasEnded = one.state.startsWith("ended");
    const will = "It is refused everywhere within 5 s, for ever.";
    const act = sure(`Revoke ${one.key_id.slice(0, 8)}`, will, () =>
      doing(() => change(`/keys/${one.key_id}/revoke`, {})),
    );
    const from = one.addresses.join(" ") || "anywhere";
    const { key_id: id, state, label: called } = one;
    const cells = [id, one.scopes.join(" "), state, moment(one.issued_at), from, called];
    return { key: `${id} ${state}`, cells: [...cells, hasEnded || !mayChange() ? "" : act] };
  }

  function mayChange() {
    return state()?.allows_changes === true;
  }

  async function show() {
    create.hidden = issue.hidden = !mayChange();
    const found = await ask("/accounts");
    clients.draw(found.accounts.map(clientRow));
    chosen.hidden = client === "";
    if (!client) return;
    setText(title, client);
    const told = await ask(`/accounts/${encodeURIComponent(client)}/keys`);
    keys.draw(told.keys.map(keyRow));
  }

  return async function shown(query) {
    client = query.get("client") ?? "";
    secret.replaceChildren();
    try {
      await show();
      setText(said, "");
      return true;
    } catch (error) {
      setText(said, /** @type {Error} */ (error).message);
      return false;
    }
  };
}

/**
 * Show the file of a new key, which nobody has but this page.
 * @param {string} keyId
 * @param {string} text
 */
function shownOnce(keyId, text) {
  const href = URL.createObjectURL(new Blob([`${text}\n`], { type: "application/json" }));
  const shown = element("textarea", { readonly: true, rows: "3", "aria-label": "Key file" }, text);
  const file = element("a", { href, download: `${keyId}.json` }, "Save the key file");
  return [element("p", { class: "bad" }, "Its secret is shown this once."), shown, file];
}

/**
 * A button that is pressed twice: it says first what will be.
 * @param {string} word
 * @param {string} will
 * @param {() => void} act
 */
function sure(word, will, act) {
  const told = element("span", { class: "quiet" });
  const button = element("button", { type: "button", click: pressed }, word);
  const place = element("div", {}, button, " ", told);
  let isAsked = false;
  function pressed() {
    if (isAsked) act();
    isAsked = !isAsked;
    setText(told, isAsked ? `${will} Press again.` : "");
  }
  return place;
}

/**
 * @param {string} id
 * @param {string} words
 */
function input(id, words) {
  const given = { id, maxlength: "64", autocomplete: "off", spellcheck: "false" };
  const field = /** @type {HTMLInputElement} */ (element("input", given));
  return { field, parts: [element("label", { for: id }, words), field] };
}

/** @param {string} scope */
function box(scope) {
  const id = `scope-${scope}`;
  const given = { id, type: "checkbox", value: scope, checked: USUAL.includes(scope) };
  const field = /** @type {HTMLInputElement} */ (element("input", given));
  return { field, parts: [field, element("label", { for: id }, scope)] };
}
