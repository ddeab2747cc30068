// The operators' desk begins here: what is watched, what is drawn, and which part is shown.

import { setAttribute, setText } from "../shared/dom.js";
import { loginForm } from "../shared/login.js";
import { watch } from "./connection.js";
import { ask } from "./requests.js";
import { readPlaces, told } from "./state/places.js";
import { fold, lineOf, NOTHING } from "./state/seen.js";
import { confirmIn } from "./views/confirm.js";
import * as failures from "./views/failures.js";
import * as health from "./views/health.js";
import * as keys from "./views/keys.js";
import * as log from "./views/log.js";
import * as models from "./views/models.js";
import * as operations from "./views/operations.js";
import * as order from "./views/order.js";
import * as shards from "./views/shards.js";
import * as time from "./views/time.js";

const AGAIN_MS = 5_000; // a part that could not be shown is asked for again

/** @param {string} id */
const by = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

let seen = NOTHING;
let isDue = false;
let failedMs = 0; // when the part that is shown could not be asked for; 0 if it could

const act = confirmIn(/** @type {HTMLDialogElement} */ (by("confirm")), {
  name: () => seen.state?.operator ?? "",
  warning: () => {
    const line = lineOf(seen, Date.now());
    return line.isLive ? "" : `${line.text}. What no longer fits will be refused.`;
  },
});
const views = [
  health.mount(by("health")),
  failures.mount(by("failures"), { act }),
  models.mount(by("models"), { act }),
  shards.mount(by("shards")),
  operations.mount(by("operations")),
];

/** Where the logs ended when they were last looked at, by shard. */
const heads = () =>
  new Map((seen.state?.logs ?? []).map((/** @type {any} */ one) => [one.shard, one.position]));

/** Ask where the logs end now: an order may be newer than the last look. */
async function ends() {
  const found = await ask("/events", { limit: 1, after: told(heads()) });
  return readPlaces(found.sequence);
}
/** @type {Record<string, (query: URLSearchParams) => Promise<boolean>>} */
const parts = {
  log: log.mount(by("log"), ends, () => seen.state),
  order: order.mount(by("order"), ends),
  time: time.mount(by("time"), ends),
  keys: keys.mount(by("keys"), () => seen.state),
};

function paint() {
  isDue = false;
  const { isLive, text } = lineOf(seen, Date.now());
  setAttribute(document.documentElement, "data-stale", !isLive);
  setText(by("line"), text);
  if (seen.state !== null) for (const draw of views) draw({ seen: seen.state });
}

function due() {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(paint);
}

/** Show the part that the address names, in the words after `#`. */
async function route() {
  const [name, query] = location.hash.slice(1).split("?");
  const part = name in parts ? name : "status";
  /** @type {HTMLElement} */ for (const one of document.querySelectorAll("main > [data-part]"))
    one.hidden = one.id !== part;
  for (const link of document.querySelectorAll("nav a"))
    setAttribute(link, "aria-current", link.getAttribute("href") === `#${part}` ? "page" : false);
  failedMs = 0;
  if (seen.state === null || part === "status") return;
  const isShown = await parts[part](new URLSearchParams(query));
  if (!isShown && location.hash.slice(1).startsWith(part)) failedMs = Date.now();
}

const look = watch(
  (state, reason) => {
    const isFirst = seen.state === null;
    seen = fold(seen, state, reason, Date.now());
    due();
    const isAgain = failedMs > 0 && Date.now() - failedMs > AGAIN_MS && state !== null;
    // Other parts ask about where the logs end.
    if ((isFirst && state) || isAgain) void route();
  },
  () => {
    if (by("login").childElementCount === 0) by("login").append(loginForm(() => look()));
  },
);
setInterval(due, 1_000);
addEventListener("hashchange", () => void route());
void route();
