// Who acts: a client id that a person chooses, which is no login, or that of the key they log in with.

import { element, setText } from "../../shared/dom.js";
import { loginForm } from "../../shared/login.js";
import { whyNoClient } from "../settings.js";

/**
 * @param {Element} root
 * @param {{choose: (chosen: {client: string}) => void, typeClient: (typed: string) => void,
 *   enter: (who: import("../../shared/login.js").Who | null) => void}} actions
 * @param {string} door Who keeps it.
 */
export function mount(root, actions, door) {
  const now = element("strong");
  const input = /** @type {HTMLInputElement} */ (
    element("input", {
      id: "client-id",
      autocomplete: "off",
      spellcheck: "false",
      maxlength: "64",
      "aria-describedby": "client-why client-said",
      input: () => actions.typeClient(input.value.trim()),
    })
  );
  root.append(element("p", {}, "Trading as ", now));
  if (door === "keys") root.append(loginForm(actions.enter));
  else root.append(...choice(input, actions));

  let drawn = "";
  /** @param {{settings: {client: string}}} state */
  return function draw({ settings: { client } }) {
    setText(now, client || "nobody yet");
    if (drawn === client) return;
    drawn = client;
    input.value = client;
  };
}

/**
 * @param {HTMLInputElement} input
 * @param {{choose: (chosen: {client: string}) => void}} actions
 */
function choice(input, actions) {
  const why = element("p", { id: "client-why", class: "problem" });
  /** @param {Event} event */
  function submit(event) {
    event.preventDefault();
    const client = input.value.trim();
    setText(why, whyNoClient(client));
    if (!whyNoClient(client)) actions.choose({ client });
  }
  const label = element("label", { for: "client-id" }, "Client id");
  const form = element(
    "form",
    { class: "row", submit },
    label,
    input,
    element("button", {}, "Use"),
  );
  const said = element(
    "p",
    { id: "client-said", class: "loud" },
    "This is not a login: whoever types this id acts as this client. The exchange asks for no " +
      "password and no key.",
  );
  return [form, why, said];
}
