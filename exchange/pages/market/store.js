// The page's state, and when it is drawn: once in a frame, however many messages came before.

/**
 * @template S
 * @param {S} begin
 * @param {(state: S) => void} draw
 */
export function storeOf(begin, draw) {
  let state = begin;
  let isDue = false;

  function paint() {
    isDue = false;
    draw(state);
  }

  return {
    /** @returns {S} */
    get: () => state,
    /** @param {Partial<S>} changes */
    set(changes) {
      state = { ...state, ...changes };
      if (!isDue) {
        isDue = true;
        requestAnimationFrame(paint);
      }
    },
  };
}
