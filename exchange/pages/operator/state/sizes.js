// How much something takes, in words.

/**
 * Tell a size: a few bytes are not "0 kB", and a build that has written nothing says so.
 * @param {number | null} bytes Null if its store does not tell.
 */
export function sized(bytes) {
  if (bytes === null) return "not measured";
  if (bytes === 0) return "nothing yet";
  if (bytes < 1e3) return `${bytes} B`;
  return bytes < 1e6 ? `${Math.round(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}
