// The page itself: what is in focus, and what is redrawn when it changes.

const byId = (id) => document.getElementById(id);
// pinned, looked: positions of the tokens that rows explain: targets, or what was generated after them.
// rows: the first and last row that are explained together, if several are; together: their sum.
const state = {
  method: 0, block: 0, pinned: null, looked: null, hovered: null, totals: null, data: null, drawing: 0,
  rows: null, together: null, selected: null,
};
const method = () => RESULT.methods[state.method];
const single = () => method().targets.length === 1;
const layered = () => method().layers.length > 1;
const every = ({ targets }) => targets.length === TOKENS && TOKENS > 1;
const anchors = () => method().anchors;
const isTarget = (position) => position !== null && anchors().includes(position);
const focused = () => [state.pinned, state.looked, method().target.generated ?? method().target.position].find(isTarget) ?? anchors().at(-1);
const focus = () => anchors().indexOf(focused());
const about = () => method().rows?.[focus()] ?? method().target;
const total = (t) => state.totals[state.block * method().targets.length + t];
const shownRow = () => (state.together ? { data: state.together, t: 0, sum: state.together.total } : { data: state.data, t: focus(), sum: total(focus()) });

async function chooseMethod(index) {
  state.method = index;
  state.rows = null;
  const one = method();
  one.totals ??= new Float32Array(await inflate(`totals-${index}`));
  one.thumbs ??= new Int8Array(await inflate(`thumbs-${index}`));
  state.totals = one.totals;
  const option = (value, textContent) => element("option", { value, textContent });
  byId("layer").replaceChildren(option(0, layerName(0)), ...(layered() ? one.layers.map((_, k) => option(k + 1, layerName(k + 1))) : []));
  byId("layer").parentElement.hidden = !layered();
  byId("layers-title").closest("section").hidden = !layered();
  byId("maps-title").closest("section").hidden = single() && !layered();
  byId("strip").hidden = single() || !layered();
  byId("method").value = index;
  offerOtherView();
  showMethod(one);
  markGenerated(one.rows);
  markRows((j) => !single() && !every(one) && isTarget(j));
  showHead();
  showEvidence(one);
  if (layered()) buildBars(toggleBlock);
  if (!byId("strip").hidden) { buildStrip(chooseBlock); drawStrip(); }
  await chooseBlock(layered() ? Math.min(state.block, one.layers.length) : 0);
}

async function chooseBlock(block) {
  state.block = block;
  const turn = ++state.drawing;
  const data = await loadBlock(state.method, block);
  const strip = single() ? await Promise.all(method().layers.map((_, k) => loadBlock(state.method, k + 1))) : null;
  if (turn !== state.drawing) return;  // another choice overtook this one
  state.data = data;
  addRows();
  view.grid = strip ? stripGrid(strip) : matrixGrid(data);
  byId("layer").value = block;
  if (block > 0) globalThis.followLayer?.(method().layers[block - 1]);
  for (const [k, button] of [...byId("strip").children].entries()) button.setAttribute("aria-pressed", String(k === block));
  if (!byId("maps-title").closest("section").hidden) { layOut(); clampView(); }
  showFocus();
}

// A button that switches between the page's first result and that of every position.
function offerOtherView() {
  const whole = RESULT.methods.findIndex(every), away = every(method());
  const button = byId("other-view");
  button.hidden = whole < 1;
  button.textContent = away ? "Back to the prediction" : "Show every position";
  button.onclick = () => chooseMethod(away ? 0 : whole);
}

function showHead() {
  const { model } = method(), name = (token) => `‘${token}’`;
  const { layers: explained } = method();
  const layers = explained.length === model.layers || explained[0] === "all" ? `${model.layers} layers` : `${explained.length} of ${model.layers} layers`;
  byId("model").textContent = model.name;
  byId("summary").textContent = `${method().name} · ${model.family} · ${layers} · ${TOKENS} tokens`;
  const target = about();
  const [best, ...others] = target.next_tokens.map(([token, p]) => `${name(token)} (${formatShare(p)})`);
  const asked = target.asked ? ` Explained: ${target.asked}${target.value === null ? "" : ` = ${formatScore(target.value)}`}.` : "";
  const where = `${quoted(target.position)} (position ${target.position})`;
  byId("prediction").textContent = (best ? `After ${where} the model predicts ${target.independent ? "each class by itself: " : ""}${best}${others.length ? `${target.independent ? "," : "; then"} ${others.join(", ")}` : ""}.` : `In focus: ${where}.`) + asked;
  const adds = method().signed ? "Blue adds, orange takes away; the stronger" : "The stronger";
  byId("how").textContent = single()
    ? `${adds} the colour, the more the underlined token drew from there. Point at a token for its score (← → by keyboard), select several for their sum.`
    : `Point at ${every(method()) ? "a token" : "an underlined token"} to see what it drew from: ${adds.toLowerCase()} the colour, the larger the score. Click to pin it, ← → to step, Esc to unpin. Select several to add them up.`;
  byId("layers-how").textContent = "Each layer's share of the target's absolute scores. Click a bar to isolate a layer; click again to show all.";
  byId("maps-how").textContent = single()
    ? "One row per layer, one column per source token. Click a row to see that layer. Wheel or + and − to zoom, drag to move, arrow keys to read cell by cell."
    : "One row per target token, one column per source token: a row shows what its token drew from. Click a small map to enlarge it, a row to pin its token. Wheel or + and − to zoom, drag to move, arrow keys to read cell by cell.";
}

function showFocus() {
  const { data, t, sum } = shownRow(), top = topSources(data, t, sum), [first, last] = state.rows ?? [focus(), focus()];
  if (method().rows) showHead();
  shadeText(data, t);
  markTarget(focused(), state.pinned !== null && !single());
  for (const [row, position] of anchors().entries()) spans[position].classList.toggle("together", state.rows !== null && row >= first && row <= last);
  showSources(focused(), top, data.lengths[t], follow, state.rows ? null : method().targets[t]);
  if (state.rows) byId("sources-title").textContent = `Top sources of ${rowsName()}, added up`;
  if (layered()) showBars(state.totals, first, last, state.block);
  if (typeof showPath === "function") showPath(focus(), method().targets[focus()], state.block, toggleBlock);
  drawLegend(byId("text-legend"), data.scales[t], method().signed, `(${layerName(state.block)})`);
  byId("contrast").parentElement.hidden = view.grid.rows < 2;
  drawOverviewNow();
  drawMapSoon();
  sayText();
  noteView(currentView);
}

function drawOverviewNow() {
  const { data, t, sum } = shownRow();
  drawOverview(data, t, topSources(data, t, sum), focused());
}

const rowsName = () => `${quoted(anchors()[state.rows[0]])} to ${quoted(anchors()[state.rows[1]])}`;

// Explain rows together, from one to another; null for the one in focus alone.
function explainTogether(rows) {
  state.rows = rows && rows[0] < rows[1] ? rows : null;
  addRows();
  showFocus();
}

function addRows() {
  state.together = state.rows ? rowsTogether(state.data, ...state.rows) : null;
}

function describe(score, exact, share, from, to) {
  if (from > to && score === 0) return `${quoted(from)} (${from}) comes after ${quoted(to)} (${to}), which cannot see it`;
  return `${quoted(to)} (${to}) drew from ${quoted(from)} (${from}): ${exact ? "" : "≈ "}${formatScore(score)}, ${formatShare(share)} of its total`;
}

function sayText() {
  const { data, t, sum } = shownRow(), position = focused(), j = state.hovered;
  byId("explain-together").hidden = true;
  if (state.selected) { saySelected(data, t, sum); return; }
  if (state.rows) {
    const at = j ?? topSources(data, t, sum)[0].position, { score } = scoreAt(data, t, at);
    byId("readout").textContent = `${rowsName()} together drew ≈ ${formatScore(score)} from ${quoted(at)} (${at}), ${formatShare(sum > 0 ? Math.abs(score) / sum : 0)} of their total${j === null ? ", most of all" : ""}. Esc ends this.`;
    return;
  }
  const asks = j !== null && j !== position && (state.pinned !== null || !isTarget(j));
  if (asks) {
    const { score, exact } = scoreAt(data, t, j);
    byId("readout").textContent = describe(score, exact, sum > 0 ? Math.abs(score) / sum : 0, j, position);
    return;
  }
  const [best] = topSources(data, t, sum);
  const pinned = state.pinned !== null && !single() ? "pinned: " : "";
  byId("readout").textContent = best.score === 0 ? `${pinned}${quoted(position)} (${position}) drew from nothing here.`
    : `${pinned}${describe(best.score, true, best.share, best.position, position)}, most of all`;
}

// What the selected tokens hold together as sources; if several of them are targets, these can be explained together.
function saySelected(data, t, sum) {
  const { from, to } = state.selected, found = sumOfSources(data, t, state.selected), whom = state.rows ? rowsName() : quoted(focused());
  const where = from === to ? `${quoted(from)} (${from})` : `${quoted(from)} to ${quoted(to)} (${from} to ${to})`;
  byId("readout").textContent = `${whom} drew from ${where} ${from === to ? "" : "together "}${found.exact && !data.rounded ? "" : "≈ "}${formatScore(found.sum)}; `
    + `${formatShare(sum > 0 ? found.size / sum : 0)} of its total, counted by size.`;
  const rows = anchors().map((position, row) => ({ position, row })).filter(({ position }) => position >= from && position <= to);
  const button = byId("explain-together");
  button.hidden = rows.length < 2;
  button.textContent = `Explain these ${rows.length} together`;
  button.onclick = () => {
    window.getSelection().removeAllRanges();
    state.selected = null;
    explainTogether([rows[0].row, rows.at(-1).row]);
  };
}

function sayMap() {
  const cell = view.cursor;
  if (!cell) { byId("map-readout").textContent = ""; return; }
  const { score, exact } = view.grid.score(cell.row, cell.column);
  const { targets } = method(), t = single() ? 0 : cell.row, block = single() ? cell.row + 1 : state.block;
  const sum = state.totals[block * targets.length + t], share = sum > 0 ? Math.abs(score) / sum : 0;
  byId("map-readout").textContent = `${layerName(block)}: ${describe(score, exact, share, cell.column, anchors()[t])}`;
}

function drawMap() {
  if (!view.inner || byId("maps-title").closest("section").hidden) return;
  const context = mapCanvas.getContext("2d"), ratio = mapCanvas.width / view.width, contrast = byId("contrast").value;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  paint(context, mapScene(contrast, mapFocus()));
  const largest = mapLargest();
  byId("map-legend").hidden = largest === null;
  if (largest !== null) drawLegend(byId("map-legend"), largest, method().signed, single() ? "" : `(${layerName(state.block)})`);
}

const mapLargest = () => (byId("contrast").value === "row" ? null : largestScale(view.grid));
const mapFocus = () => (single() ? (state.block > 0 ? state.block - 1 : null) : focus());
let mapPending = false;
function drawMapSoon() {
  if (mapPending) return;
  mapPending = true;
  requestAnimationFrame(() => { mapPending = false; drawMap(); });
  noteView(currentView);
}

// ---- what readers do -------------------------------------------------------------------------------------------------

function pin(position) {
  state.pinned = position;
  state.rows = state.together = null;
  roam(position);
  bringIntoView(position);
  showFocus();
}

function follow(j) {
  bringIntoView(j, 0.4);
  mark(j, true);
  if (!single() && isTarget(j)) pin(j); else drawOverviewNow();
}
function toggleBlock(block) { chooseBlock(block === state.block && layered() ? 0 : block); }

function step(by) {
  if (single()) {
    const j = Math.min(Math.max((state.hovered ?? anchors()[0]) + by, 0), TOKENS - 1);
    roam(j);
    spans[j].focus();
    return;
  }
  state.rows = state.together = null;
  const position = anchors()[Math.min(Math.max(focus() + by, 0), anchors().length - 1)];
  if (state.pinned !== null) state.pinned = position; else state.looked = position;
  roam(position);
  spans[position].focus();
  state.hovered = null;
  showFocus();
}

function look(j) {
  if (state.hovered === j) return;
  state.hovered = j;
  if (j !== null && state.pinned === null && !state.rows && !single() && isTarget(j)) { state.looked = j; showFocus(); } else sayText();
}

function listen() {
  textBox.addEventListener("mouseover", (event) => look(positionOf(event)));
  textBox.addEventListener("mouseleave", () => look(null));
  textBox.addEventListener("focusin", (event) => look(positionOf(event)));
  textBox.addEventListener("click", (event) => {
    const j = positionOf(event);
    if (single() && typeof remove === "function") remove(j);
    if (!isTarget(j) || single() || state.selected) return;
    if (state.pinned === j && !state.rows) { state.pinned = null; state.looked = j; showFocus(); } else pin(j);
  });
  document.addEventListener("keydown", onKey);
  document.addEventListener("selectionchange", () => { state.selected = selectedTokens(); sayText(); });
  byId("method").addEventListener("change", (event) => chooseMethod(Number(event.target.value)));
  byId("layer").addEventListener("change", (event) => chooseBlock(Number(event.target.value)));
  byId("contrast").addEventListener("change", drawMapSoon);
  const title = () => `${method().model.name}: ${method().name}, ${layerName(state.block)}, target ${focused()} ${quoted(focused())}`;
  const name = () => `${method().name}-${state.block === 0 ? "model" : `layer${method().layers[state.block - 1]}`}-${focused()}`;
  const textPicture = () => withCaption(textScene(), title(), state.data.scales[focus()], method().signed);
  const mapPicture = () => withCaption(mapScene(byId("contrast").value, mapFocus()), title(), mapLargest(), method().signed);
  offerPictures(byId("text-save"), textPicture, () => `text-${name()}`);
  offerPictures(byId("map-save"), mapPicture, () => `map-${name()}`);
  offerPictures(byId("layers-save"), barsScene, () => `layers-${name()}`);
  if (byId("path-save")) offerPictures(byId("path-save"), pathScene, () => `path-${name()}`);
  offerRow(byId("row-save"), shownSources, rowFacts, () => `row-${name()}`);
  listenToMap({ redraw: drawMapSoon, say: sayMap, choose: (row) => (single() ? toggleBlock(row + 1) : pin(anchors()[row])) });
  const strongest = () => {
    const { data, t, sum } = shownRow();
    return topSources(data, t, sum).filter(({ score }) => score !== 0).map(({ position }) => position);
  };
  listenToOverview({ go: follow, redraw: drawOverviewNow, sources: strongest });
  window.addEventListener("hashchange", goToNamedView);
  darkness.addEventListener("change", () => { if (!byId("strip").hidden) drawStrip(); chooseBlock(state.block); });
  new ResizeObserver(drawOverviewNow).observe(textBox);
  new ResizeObserver(() => { if (view.grid && mapCanvas.clientWidth !== view.width) { layOut(); clampView(); drawMapSoon(); } }).observe(byId("map-frame"));
}

function onKey(event) {
  const inText = textBox.contains(document.activeElement);
  if (!inText && document.activeElement !== document.body) return;
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const by = { ArrowLeft: -1, ArrowRight: 1, Home: -TOKENS, End: TOKENS }[event.key];
  if (by !== undefined && event.shiftKey && inText && !single()) {
    const [first, last] = state.rows ?? [focus(), focus()];
    explainTogether([first, Math.min(Math.max(last + by, first), anchors().length - 1)]);
  } else if (by !== undefined && (inText || Math.abs(by) === 1)) step(by);
  else if (event.key === "Escape") { state.rows = state.together = null; state.looked = focused(); state.pinned = null; state.hovered = null; showFocus(); }
  else if ((event.key === "Enter" || event.key === " ") && inText) document.activeElement.click();
  else return;
  event.preventDefault();
}

async function start() {
  byId("method").replaceChildren(...RESULT.methods.map((one, k) => element("option", { value: k, textContent: methodOption(one) })));
  byId("method-choice").hidden = RESULT.methods.length === 1;
  buildText();
  byId("main").hidden = false;
  state.pinned = focused();
  roam(state.pinned);
  await chooseMethod(0);
  bringIntoView(state.pinned);
  listen();
  await goToNamedView();
  drawOverviewNow();
  document.body.dataset.ready = "true";
}

start().catch((error) => {
  byId("problem").hidden = false;
  byId("problem").textContent = typeof DecompressionStream === "undefined"
    ? "This page needs a browser of 2023 or later (one that has DecompressionStream)."
    : `This page could not draw its result: ${error.message}`;
});
