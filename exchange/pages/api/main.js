// The page of the interface begins here: one document over HTTP, and beside it that of the stream.
// Both are shown by programs of others; what is ours is which of them is seen, and the search.

import { element, setText } from "../shared/dom.js";
import { proofOf, setClock } from "../shared/door.js";
import { loginForm } from "../shared/login.js";
import { request } from "../shared/requests.js";
import { folding } from "./folding.js";
import { keys, marked, renewing } from "./keys.js";
import { links } from "./links.js";
import { found } from "./search.js";

// No element has the id of an address: Swagger UI would scroll there in place of the browser.
const HTTP = "#/";
const STREAM = "#stream";
const OPENAPI = new URL("./openapi.json", document.baseURI).href;
const ASYNCAPI = "./asyncapi.json";
const STREAM_PATH = "./stream";
const TIME = "/time";
const TIMEOUT_MS = 10_000;
const AGAIN_MS = 2_000;
const MARKET = "./";

/** @param {string} id */
const byId = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

const MARK = crypto.getRandomValues(new Uint32Array(1))[0].toString(16).padStart(8, "0");

let isLoaded = false;
const dark = matchMedia("(prefers-color-scheme: dark)");

function colour() {
  document.documentElement.classList.toggle("dark-mode", dark.matches);
}

/** Show the document that the address names: all anchors of the stream's begin alike. */
function show() {
  const tabs = [...byId("documents").children];
  const streamed = tabs.length > 1 && location.hash.startsWith(STREAM);
  byId("over-http").hidden = streamed;
  byId("over-stream").hidden = !streamed;
  for (const tab of tabs) {
    const current = tab.getAttribute("href") === (streamed ? STREAM : HTTP);
    tab.setAttribute("aria-current", String(current));
  }
  if (streamed && byId("over-stream").childElementCount === 0)
    byId("over-stream").append(address(), viewer());
}

/** @returns {Element} where the stream is: on this gateway, whose name only the browser knows */
function address() {
  const url = new URL(STREAM_PATH, document.baseURI);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return element("p", { class: "address" }, "A WebSocket at ", element("code", {}, url.href));
}

/** @returns {Element} what draws the document of the stream */
function viewer() {
  return element("asyncapi-viewer", {
    id: "stream-document", // its anchors begin with it
    src: ASYNCAPI,
    sidebar: true,
    "send-label": "GET",
    "receive-label": "SEND",
  });
}

/**
 * Sign what is tried here, if somebody is logged in.
 * @param {any} asked As Swagger UI has it.
 */
async function signed(asked) {
  const url = new URL(asked.url, document.baseURI);
  if (url.origin === location.origin) Object.assign(asked.headers, await proofOf(url, asked));
  return asked;
}

/** Offer a login where one is needed to try anything; a gateway that is busy is asked again. */
async function meetDoor() {
  try {
    const { body } = await request(`.${TIME}`, {}, TIMEOUT_MS);
    setClock(body.unix_ms);
    if (body.door === "keys") byId("login").append(loginForm(() => {}));
  } catch {
    setTimeout(meetDoor, AGAIN_MS);
  }
}

/** @param {any} answer The document; those of "Execute" stay as they are. */
function withOwnKeys(answer) {
  if (!isLoaded && answer.url === OPENAPI && answer.ok)
    answer.text = JSON.stringify(marked(JSON.parse(answer.text), MARK));
  return answer;
}

function started() {
  isLoaded = true;
  const described = ui.specSelectors.specJson().toJS();
  if (!described.info) return; // it could not be had, which its place tells
  setText(byId("title"), described.info.title);
  document.title = described.info.title;
  document
    .querySelector(".operation-filter-input")
    ?.setAttribute("placeholder", "Search: words of path, method, name, tag or summary");
  const streamed = "/asyncapi.json" in described.paths;
  byId("documents").append(
    element("a", { href: HTTP }, "HTTP"),
    ...(streamed ? [element("a", { href: STREAM }, "Stream")] : []),
  );
  if (TIME in described.paths) void meetDoor();
  if (streamed) byId("away").append(element("a", { href: MARKET }, "Market page"));
  show();
}

colour();
dark.addEventListener("change", colour);
addEventListener("hashchange", () => {
  show();
  ui.layoutActions.parseDeepLinkHash(location.hash);
});

// @ts-expect-error: a script before this one defines it.
const ui = globalThis.SwaggerUIBundle({
  domNode: byId("over-http"),
  url: OPENAPI,
  responseInterceptor: withOwnKeys,
  deepLinking: true,
  displayOperationId: true,
  displayRequestDuration: true,
  requestInterceptor: signed,
  defaultModelsExpandDepth: 0,
  filter: true,
  plugins: [{ fn: { opsFilter: found } }, links, folding, keys(renewing(MARK))],
  validatorUrl: null, // it would be another host
  onComplete: started,
});
