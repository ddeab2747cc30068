// Who acts: a client id that a person chooses, and no login.

import { element, setText } from "../../shared/dom.js";
import { whyNoClient } from "../settings.js";

/**
 * @param {Element} root
 * @param {{choose: (chosen: {client: string}) => void, typeClient: (typed: string) => void}} actions
 */
export function mount(root, actions) {
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
  const why = element("p", { id: "client-why", class: "problem" });
  const now = element("strong");
  const form = element(
    "form",
    {
      class: "row",
      submit(event) {
        event.preventDefault();
        const client = input.value.trim();
        setText(why, whyNoClient(client));
        if (!whyNoClient(client)) actions.choose({ client });
      },
    },
    element("label", { for: "client-id" }, "Client id"),
    input,
    element("button", {}, "Use"),
  );
  const said = element(
    "p",
    { id: "client-said", class: "loud" },
    "This is not a login: whoever types this id acts as this client. The exchange asks for no " +
      "password and no key.",
  );
  root.append(element("p", {}, "Trading as ", now), form, why, said);

  let drawn = "";
  /** @param {{settings: {client: string}}} state */
  return function draw({ settings: { client } }) {
    setText(now, client || "nobody yet");
    if (drawn === client) return;
    drawn = client;
    input.value = client;
  };
}
