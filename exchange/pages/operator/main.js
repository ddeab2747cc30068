// The operators' desk begins here: what is watched, what is drawn, and which part is shown.

import { setAttribute, setText } from "../shared/dom.js";
import { watch } from "./connection.js";
import { ask } from "./requests.js";
import { readPlaces, told } from "./state/places.js";
import { confirmIn } from "./views/confirm.js";
import * as failures from "./views/failures.js";
import * as health from "./views/health.js";
import * as log from "./views/log.js";
import * as models from "./views/models.js";
import * as operations from "./views/operations.js";
import * as order from "./views/order.js";
import * as shards from "./views/shards.js";
import * as time from "./views/time.js";

const STALE_MS = 6_000; // a look takes a second or two while a model is behind

/** @param {string} id */
const by = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

/** @type {any} */
let seen = null;
let why = "it was not asked yet";
let heardMs = 0;
let isDue = false;

const act = confirmIn(/** @type {HTMLDialogElement} */ (by("confirm")), () => seen?.operator ?? "");
const views = [
  health.mount(by("health")),
  failures.mount(by("failures"), { act }),
  models.mount(by("models"), { act }),
  shards.mount(by("shards")),
  operations.mount(by("operations")),
];

/** Where the logs ended when they were last looked at, by shard. */
const heads = () =>
  new Map((seen?.logs ?? []).map((/** @type {any} */ one) => [one.shard, one.position]));

/** Ask where the logs end now: an order may be newer than the last look. */
async function ends() {
  const found = await ask("/events", { limit: 1, after: told(heads()) });
  return readPlaces(found.sequence);
}
/** @type {Record<string, (query: URLSearchParams) => unknown>} */
const parts = {
  log: log.mount(by("log")),
  order: order.mount(by("order"), ends),
  time: time.mount(by("time"), ends),
};

function paint() {
  isDue = false;
  const ageMs = Date.now() - heardMs;
  const isStale = seen === null || why !== "" || ageMs > STALE_MS;
  setAttribute(document.documentElement, "data-stale", isStale);
  if (seen === null) setText(by("line"), `Nothing is known yet: ${why}.`);
  else if (isStale) setText(by("line"), `STALE: as of ${Math.round(ageMs / 1000)} s ago. ${why}`);
  else setText(by("line"), `live; the exchange is ${seen.status ?? "not seen by a gateway"}`);
  if (seen !== null) for (const draw of views) draw({ seen });
}

function due() {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(paint);
}

/** Show the part that the address names, in the words after `#`. */
function route() {
  const [name, query] = location.hash.slice(1).split("?");
  const part = name in parts ? name : "status";
  /** @type {HTMLElement} */ for (const one of document.querySelectorAll("[data-part]"))
    one.hidden = one.id !== part;
  for (const link of document.querySelectorAll("nav a"))
    setAttribute(link, "aria-current", link.getAttribute("href") === `#${part}` ? "page" : false);
  if (seen !== null) parts[part]?.(new URLSearchParams(query));
}

watch((state, reason) => {
  const isFirst = seen === null;
  if (state) seen = state;
  if (state !== null) heardMs = Date.now();
  why = reason;
  due();
  if (isFirst && state) route(); // other parts ask about where the logs end
});
setInterval(due, 1_000);
addEventListener("hashchange", route);
route();
