// What of the text's page can be kept: the row that is shown, as numbers, and the view, in the address.

// Every source of the shown row, and what the row is.
function shownSources() {
  const { data, t } = shownRow();
  return Array.from({ length: data.lengths[t] }, (_, j) => {
    const { score, exact } = scoreAt(data, t, j);
    return { position: j, token: RESULT.tokens[j], score, exact: exact && !data.rounded };
  });
}

function rowFacts() {
  const rows = state.rows ? anchors().slice(state.rows[0], state.rows[1] + 1) : [focused()];
  return { model: method().model.name, method: method().name, layer: layerName(state.block), targets: rows, asked: about().asked, value: about().value };
}

// ---- the view in the address: method and layer by number (layer 0 is all), the pinned token, rows, and the map's place ----

function currentView() {
  const zoomed = view.inner && view.zoom > 1;
  return {
    method: state.method > 0 ? state.method + 1 : null,
    layer: state.block > 0 ? state.block : null,
    token: state.pinned !== null && !single() ? state.pinned : null,
    rows: state.rows ? state.rows.join(",") : null,
    removed: typeof removal === "undefined" ? null : removal.source,
    contrast: byId("contrast").value === "row" ? "row" : null,
    map: zoomed ? [view.x, view.y, 100 * view.zoom].map(Math.round).join(",") : null,
    ...Object.assign({}, ...keepers.map(({ view: own }) => own())),
  };
}

async function goToNamedView() {
  const [index] = addressed("method"), [block] = addressed("layer"), [token] = addressed("token"), rows = addressed("rows");
  if (index >= 1 && index <= RESULT.methods.length && index - 1 !== state.method) await chooseMethod(index - 1);
  if (isTarget(token)) { state.pinned = token; roam(token); bringIntoView(token); }
  if (address().get("contrast") === "row") byId("contrast").value = "row";
  await chooseBlock(block <= method().layers.length && layered() ? block : state.block);
  if (rows.length === 2 && rows[1] < anchors().length) explainTogether(rows);
  if (typeof removal !== "undefined" && addressed("removed").length && removal.source !== addressed("removed")[0]) remove(addressed("removed")[0]);
  for (const { restore } of keepers) await restore();
  const [x, y, zoom] = addressed("map");
  if (zoom && view.inner) { Object.assign(view, { x, y, zoom: zoom / 100 }); clampView(); drawMapSoon(); }
}
