// The market page begins here.

import { parseExact } from "../shared/amounts.js";
import { element, keyed } from "../shared/dom.js";

const response = await fetch("./instruments");
const { instruments } = parseExact(await response.text());

keyed(
  /** @type {Element} */ (document.getElementById("instruments")),
  instruments,
  (instrument) => instrument.instrument,
  (instrument) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, instrument.instrument),
      element("td", {}, String(instrument.tick_size)),
      element("td", {}, String(instrument.lot_size)),
    ),
  () => {},
);
