// The page of a picture: what is in focus, and what is redrawn when it changes. The page's address can name a view:
// #method=2&layer=3&patch=4,5&scores=pixels (the second method's third layer, …; layer 0 is all).

const byId = (id) => document.getElementById(id);
const state = { method: 0, block: 0, position: null, cursor: null, marked: null, data: null, drawing: 0 };
const WIDEST = 660, HIGHEST = 620, SMALL = 172;
const method = () => RESULT.methods[state.method];
const target = () => method().targets.indexOf(state.position);
const total = () => method().totals[state.block * method().targets.length + target()];
const every = () => method().targets.length > 1;
const canvas = byId("view");
const capital = (text) => text[0].toUpperCase() + text.slice(1);

const mark = (j, on) => { state.marked = on ? j : null; drawSoon(); };
const unmark = () => { state.marked = null; };

function stageSize() {
  const { width, height } = RESULT.picture, scale = Math.min(WIDEST / width, HIGHEST / height);
  return { width: Math.max(Math.round(width * scale), 40), height: Math.max(Math.round(height * scale), 40) };
}

async function chooseMethod(index) {
  state.method = index;
  const one = method();
  one.totals ??= new Float32Array(await inflate(`totals-${index}`));
  if (one.pixels) one.pixelScores ??= await pixelScores(index);
  if (!one.targets.includes(state.position)) state.position = one.targets[one.focus];
  byId("grain-choice").hidden = !one.pixels;
  if (!one.pixels) byId("grain").value = "patches";
  byId("layer").max = one.layers.length > 1 ? one.layers.length : 0;
  byId("layer").disabled = one.layers.length < 2;
  byId("layers-title").closest("section").hidden = one.layers.length < 2;
  buildBars(toggleBlock);
  buildStrip();
  showMethod(one);
  showEvidence(one);
  await chooseBlock(Math.min(state.block, Number(byId("layer").max)));
}

async function chooseBlock(block) {
  state.block = block;
  const turn = ++state.drawing, blocks = method().layers.length > 1 ? method().layers.map((_, k) => k + 1) : [];
  const [data, ...layers] = await Promise.all([block, ...blocks].map((one) => loadScores(state.method, one)));
  if (turn !== state.drawing) return;  // another choice overtook this one
  Object.assign(state, { data, layers });
  byId("layer").value = block;
  byId("layer-name").textContent = layerName(block);
  byId("layer").setAttribute("aria-valuetext", layerName(block));
  showFocus();
}

const toggleBlock = (block) => chooseBlock(block === state.block ? 0 : block);

function explainPosition(position) {
  if (!method().targets.includes(position)) return;
  state.position = position;
  showFocus();
}

// ---- what is shown ---------------------------------------------------------------------------------------------------

const grain = () => byId("grain").value;
const scoresNow = () => (grain() === "pixels" ? method().pixelScores : patchScores(state.data, target()));

function showFocus() {
  const t = target(), one = method();
  showHead();
  showSources(state.position, topOf(state.data, t, total()), TOKENS, explainPosition);
  showBars(one.totals, t, t, state.block);
  showClassToken(t);
  [...byId("strip").children].forEach((button, k) => button.setAttribute("aria-pressed", String(k + 1 === state.block)));
  const { largest, smallest } = scoresNow();
  drawLegend(byId("legend"), largest, one.signed, grain() === "pixels" ? "(pixels)" : `(${layerName(state.block)})`, smallest);
  canvas.dataset.target = state.position;
  Object.assign(canvas.dataset, { largest, smallest });
  drawStrip(t);
  drawSoon();
  say();
  noteView(currentView);
}

function currentView() {
  const place = placeOf(state.position), moved = state.position !== method().targets[method().focus];
  return {
    method: state.method > 0 ? state.method + 1 : null,
    layer: state.block > 0 ? state.block : null,
    patch: moved && place ? `${place.row},${place.column}` : null,
    scores: grain() === "pixels" ? "pixels" : null,
  };
}

function showHead() {
  const { model, target: asked, name, layers } = method();
  const shownLayers = layers.length === model.layers || layers[0] === "all" ? `${model.layers}` : `${layers.length} of ${model.layers}`;
  byId("model").textContent = model.name;
  byId("summary").textContent = `${name} · ${model.family} · ${shownLayers} layer${model.layers === 1 ? "" : "s"} · ${GRID.rows} x ${GRID.columns} patches of ${RESULT.picture.name}`;
  const value = asked.value === null ? "" : ` = ${formatScore(asked.value)}`;
  const from = state.position === method().targets[method().focus] ? targetName(state.position) : null;
  byId("prediction").textContent = from && asked.asked ? `Explained: ${asked.asked}${value}, read from ${from}.` : `Explained: ${targetName(state.position)}.`;
  const adds = method().signed ? "Blue adds, orange takes away; the deeper" : "The deeper";
  byId("how").textContent = `${adds} the colour, the larger the score, scaled to the largest patch. Point at a patch for its score (arrow keys). `
    + (every() ? "Click a patch (Enter) to see what it drew from itself; Esc goes back." : "This method explains one thing at a time, so a click changes nothing.");
}

function showClasses() {
  const { next_tokens: classes, asked, independent } = RESULT.methods[0].target;
  byId("classes").hidden = classes.length === 0;
  byId("classes").caption.textContent = independent ? "Prediction, each class by itself" : "Prediction";
  byId("classes").tBodies[0].replaceChildren(...classes.map(([name, share]) => {
    const bar = element("div");
    bar.style.width = `${100 * share}%`;
    const row = element("tr", { className: asked.includes(`class '${name}'`) ? "asked" : "" }, element("td", { textContent: name }),
      element("td", { className: "number", textContent: formatShare(share) }), element("td", { className: "bar" }, bar));
    row.dataset.share = share;
    return row;
  }));
}

function showClassToken(t) {
  const button = byId("class-token"), whole = method().targets[method().focus];
  const position = CLASS ?? (method().targets.includes(MEAN) ? MEAN : null);
  button.hidden = position === null;
  if (position === null) return;
  const { largest, smallest } = scoresNow(), score = CLASS === null ? 0 : state.data.ofClass[t];
  const code = codeOf(score, largest, smallest);
  const { css, ink: letters } = colours();
  button.textContent = CLASS === null ? capital(targetName(MEAN)) : classTokenSays(score);
  button.style.backgroundColor = CLASS === null ? "" : css[code + CODES];
  button.style.color = CLASS === null ? "" : letters[code + CODES];
  button.disabled = !method().targets.includes(position);
  button.setAttribute("aria-pressed", String(state.position === position));
  button.title = button.disabled ? "" : `Explain ${targetName(position)}`;
  button.onclick = () => explainPosition(position === CLASS ? CLASS : whole);
}

// How much the class token and the patches hold: the colours of the patches are scaled to their own largest.
function classTokenSays(score) {
  if (!(total() > 0)) return `Class token ${formatScore(score)}`;
  const share = Math.abs(score) / total();
  return `Class token ${formatScore(score)} (${formatShare(share)}), patches together ${formatShare(1 - share)}`;
}

function say() {
  const t = target(), j = state.cursor ? patchAt(state.cursor) : null;
  const [best] = topOf(state.data, t, total());
  const { score, exact } = j === null ? { score: best.score, exact: true } : scoreOf(state.data, t, j);
  const share = total() > 0 ? Math.abs(score) / total() : 0, source = j ?? best.position, from = source === state.position ? "itself" : sourceName(source);
  byId("readout").textContent = `${capital(targetName(state.position))} drew from ${from}: ${exact ? "" : "≈ "}${formatScore(score)}, `
    + `${formatShare(share)} of its total${j === null ? ", most of all" : ""}`;
}

// ---- drawing ---------------------------------------------------------------------------------------------------------

const settings = () => ({ smooth: byId("smooth").checked, grey: byId("grey").checked, opacity: byId("opacity").value / 100 });

function drawView(context, width, height, hints) {
  layOver(context, scoresNow(), width, height, settings());
  const here = placeOf(state.position), accent = "#e8590c";
  if (here) outline(context, here, width, height, [["#ffffff", 4], ["#000000", 1.6]]);
  if (!hints) return;
  const marked = state.marked === null ? null : placeOf(state.marked);
  if (marked) outline(context, marked, width, height, [["#ffffff", 4], [accent, 2]]);
  if (state.cursor) outline(context, state.cursor, width, height, [["#ffffff", 3], ["#444444", 1.2]]);
}

function draw() {
  const { width, height } = stageSize(), ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.maxWidth = `${width}px`;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  drawView(context, width, height, true);
}

let pending = false;
function drawSoon() {
  if (pending) return;
  pending = true;
  requestAnimationFrame(() => { pending = false; draw(); });
}

function buildStrip() {
  const { layers, kinds } = method(), small = Math.round((SMALL * RESULT.picture.height) / RESULT.picture.width);
  byId("strip").replaceChildren(...(layers.length < 2 ? [] : layers.map((layer, k) => {
    const button = element("button", { type: "button", title: `Show ${layerName(k + 1)}` },
      element("canvas", { width: SMALL, height: small }), element("span", { textContent: kinds?.[k] ? `${layer} ${kinds[k]}` : String(layer) }));
    button.setAttribute("aria-label", layerName(k + 1));
    button.addEventListener("click", () => toggleBlock(k + 1));
    return button;
  })));
  roveButtons(byId("strip"));
}

function drawStrip(t) {
  [...byId("strip").children].forEach((button, k) => {
    const small = button.firstChild;
    layOver(small.getContext("2d"), patchScores(state.layers[k], t), small.width, small.height, { smooth: true, grey: true, opacity: 1 });
  });
}

// ---- what readers do -------------------------------------------------------------------------------------------------

function pointAt(event) {
  const box = canvas.getBoundingClientRect();
  const x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
  return x < 0 || y < 0 || x >= 1 || y >= 1 ? null : patchUnder(x, y);
}

function moveCursor(place) {
  state.cursor = place;
  drawSoon();
  say();
}

function onKey(event) {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  const from = state.cursor ?? placeOf(state.position) ?? { row: Math.floor(GRID.rows / 2), column: Math.floor(GRID.columns / 2) };
  if (steps[event.key]) {
    const [down, right] = state.cursor ? steps[event.key] : [0, 0], within = (at, count) => Math.min(Math.max(at, 0), count - 1);
    moveCursor({ row: within(from.row + down, GRID.rows), column: within(from.column + right, GRID.columns) });
  } else if ((event.key === "Enter" || event.key === " ") && state.cursor) explainPosition(patchAt(state.cursor));
  else if (event.key === "Escape") { state.cursor = null; explainPosition(method().targets[method().focus]); }
  else return;
  event.preventDefault();
}

function savedScene() {
  const { width, height } = stageSize(), scale = 2, drawn = document.createElement("canvas"), box = { x: 0, y: 0, width, height };
  drawn.width = width * scale;
  drawn.height = height * scale;
  const context = drawn.getContext("2d");
  context.scale(scale, scale);
  drawView(context, width, height, false);
  const scene = { width, height, ground: variable("--ground"), items: [{ kind: "image", canvas: drawn, clip: box, ...box }] };
  const title = `${method().model.name}: ${method().name}, ${grain() === "pixels" ? "pixels" : layerName(state.block)}, ${targetName(state.position)}`;
  return withCaption(scene, title, scoresNow().largest, method().signed, scoresNow().smallest);
}

function shownSources() {
  return RESULT.tokens.map((token, j) => ({ position: j, token, ...scoreOf(state.data, target(), j) }));
}

function listen() {
  const name = () => `${method().name}-${state.block === 0 ? "model" : `layer${method().layers[state.block - 1]}`}-${targetName(state.position).replaceAll(/\W+/g, "-")}`;
  byId("method").addEventListener("change", (event) => chooseMethod(Number(event.target.value)));
  byId("layer").addEventListener("input", (event) => chooseBlock(Number(event.target.value)));
  byId("grain").addEventListener("change", showFocus);
  for (const id of ["opacity", "smooth", "grey"]) byId(id).addEventListener("input", drawSoon);
  offerPictures(byId("picture-save"), savedScene, name);
  offerPictures(byId("layers-save"), barsScene, () => `layers-${name()}`);
  offerRow(byId("row-save"), shownSources, () => ({ model: method().model.name, method: method().name, layer: layerName(state.block), target: targetName(state.position) }), name);
  canvas.addEventListener("pointermove", (event) => moveCursor(pointAt(event)));
  canvas.addEventListener("pointerleave", () => moveCursor(null));
  canvas.addEventListener("click", (event) => { const place = pointAt(event); if (place) explainPosition(patchAt(place)); });
  canvas.addEventListener("keydown", onKey);
  canvas.addEventListener("blur", () => moveCursor(null));
  window.addEventListener("hashchange", goToNamedView);
  darkness.addEventListener("change", showFocus);
}

// The view that the address names; what it does not name stays.
async function goToNamedView() {
  const [index] = addressed("method"), [block] = addressed("layer"), [row, column] = addressed("patch");
  if (index >= 1 && index <= RESULT.methods.length && index - 1 !== state.method) await chooseMethod(index - 1);
  byId("method").value = state.method;
  if (row >= 0 && row < GRID.rows && column >= 0 && column < GRID.columns) explainPosition(patchAt({ row, column }));
  if (address().get("scores") === "pixels" && method().pixels) byId("grain").value = "pixels";
  await chooseBlock(block <= Number(byId("layer").max) ? block : state.block);
}

async function start() {
  byId("method").replaceChildren(...RESULT.methods.map((one, k) => element("option", { value: k, textContent: methodOption(one) })));
  byId("method-choice").hidden = RESULT.methods.length === 1;
  await loadPicture();
  byId("main").hidden = false;
  showClasses();
  await chooseMethod(0);
  await goToNamedView();
  listen();
  draw();
  document.body.dataset.ready = "true";
}

start().catch((error) => {
  byId("problem").hidden = false;
  byId("problem").textContent = typeof DecompressionStream === "undefined"
    ? "This page needs a browser of 2023 or later (one that has DecompressionStream)."
    : `This page could not draw its result: ${error.message}`;
});
