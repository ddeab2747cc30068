// The instruments there are, offered in a form's field while one types.

import { instrumentsKnown } from "./travel.js";

/** @param {{offer: (name: string, choices: string[]) => void}} fields */
export function instrumentsFor(fields) {
  let isOffered = false;

  /** Offer those there are now, and return them. */
  async function now() {
    const known = await instrumentsKnown();
    isOffered = known.length > 0;
    fields.offer("instrument", known);
    return known;
  }

  return {
    now,
    /** Offer them unless some are offered already. */
    once() {
      if (!isOffered) void now();
    },
  };
}
