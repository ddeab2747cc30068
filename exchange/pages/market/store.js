// The page's state, and when it is drawn: once in a frame, however many messages came before.
// Charts draw in the frame after they were told. It is left to them, so that none has the work of
// both; thirty times a second are more than anybody reads.

/**
 * @template S
 * @param {S} begin
 * @param {(state: S) => void} draw
 */
export function storeOf(begin, draw) {
  let state = begin;
  let isDue = false;
  let isTurn = true; // of the page, not of the charts

  function paint() {
    isDue = false;
    isTurn = false;
    draw(state);
    requestAnimationFrame(() => {
      isTurn = true;
      if (isDue) requestAnimationFrame(paint);
    });
  }

  return {
    /** @returns {S} */
    get: () => state,
    /** @param {Partial<S>} changes */
    set(changes) {
      state = { ...state, ...changes };
      if (!isDue) {
        isDue = true;
        if (isTurn) requestAnimationFrame(paint);
      }
    },
  };
}
