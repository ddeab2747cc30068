// Opens the endpoint that the address names. Swagger UI does so too, but takes `_` in names for a
// space first, and complains about it on the console.

/** @param {string} hash such as `#/trading/place_order` */
function placesOf(hash) {
  const [tag, operation] = hash.replace(/^#\//, "").split("/");
  if (!tag) return [];
  const shown = [["operations-tag", tag]];
  if (operation) shown.push(["operations", tag, operation]);
  return shown;
}

export const links = {
  statePlugins: {
    layout: {
      wrapActions: {
        parseDeepLinkHash:
          (/** @type {unknown} */ _original, /** @type {any} */ system) =>
          (/** @type {string} */ hash) => {
            const places = hash.startsWith("#/") ? placesOf(hash) : [];
            for (const place of places) system.layoutActions.show(place, true);
            if (places.length > 0) system.layoutActions.scrollTo(places[places.length - 1]);
          },
      },
    },
  },
};
