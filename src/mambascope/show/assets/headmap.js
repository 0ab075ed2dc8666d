// One head's map, enlarged: with the tokens' names where they fit, and a cell at a time in words.

const headCanvas = document.getElementById("head-map");
const headView = { cursor: null, left: 0, top: 6, cell: 0, width: 0 };
const wholeMap = () => mixer().side === TOKENS;
const headNamed = () => wholeMap() && headView.cell >= SMALLEST_LETTERS;

function enlargeHead(number) {
  gallery.chosen = number;
  headView.cursor = null;
  for (const button of document.getElementById("heads").children) button.setAttribute("aria-pressed", String(Number(button.dataset.head) === number));
  document.getElementById("head-detail").hidden = number === null;
  if (number === null) return;
  const head = mixer().heads[number], far = tokensFar(head.distance), at = labelPlace(head.label);
  const near = `90 % of its weight is on the nearest ${formatShare(head.near)} of the tokens that a target sees`;
  const even = `as many tokens share its weight as ${formatShare(head.even)} of those that a target sees`;
  const does = head.label
    ? `${head.label}: ${formatShare(head.shares[at])} of its weight is on ${GALLERY.labels[at].sources}, ${liftOf(head.lifts[at])} times that of their neighbours. Its distance is ${far} tokens.`
    : head.spread === "local" ? `local, with a memory of ${far} tokens: ${near}.`
      : head.spread === "diffuse" ? `diffuse: ${even}. Its distance is ${far} tokens.` : `no label. Its distance is ${far} tokens; ${near}, and ${even}.`;
  document.getElementById("head-says").textContent = `Layer ${mixer().layer}, ${headName(head)}: ${does}`;
  const measured = GALLERY.labels.map(({ name }, k) => (head.shares[k] === null ? null : `${name} ${formatShare(head.shares[k])} (lift ${liftOf(head.lifts[k])})`));
  document.getElementById("head-shares").textContent = `All shares: ${measured.filter(Boolean).join(", ")}.`;
  drawHead();
  sayHead();
}

// Room for names is taken only where a cell is as high as a letter.
function layOutHead() {
  const context = headCanvas.getContext("2d"), width = Math.max(240, headCanvas.clientWidth), { side } = mixer();
  context.font = `11px ${SANS}`;
  const widths = wholeMap() ? RESULT.tokens.map((_, j) => context.measureText(clipName(named(j), LONGEST_NAME)).width) : [];
  const room = Math.ceil(Math.max(24, ...widths)) + 10, fits = wholeMap() && (width - room) / side >= SMALLEST_LETTERS;
  headView.left = fits ? room : 6;
  headView.cell = Math.min((width - headView.left - 6) / side, FITTED_CELL);
  headView.width = width;
  headView.height = headView.cell * side + headView.top + (fits ? room : 6);
  const ratio = window.devicePixelRatio || 1;
  headCanvas.width = Math.round(width * ratio);
  headCanvas.height = Math.round(headView.height * ratio);
  headCanvas.style.aspectRatio = `${width} / ${headView.height}`;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}

function drawHead() {
  if (gallery.chosen === null) return;
  const context = layOutHead(), { side } = mixer(), { pixels } = colours(), { left, top, cell, cursor } = headView;
  const small = element("canvas", { width: side, height: side }), image = new ImageData(side, side), words = new Uint32Array(image.data.buffer);
  for (let at = 0; at < words.length; at++) words[at] = pixels[gallery.codes[gallery.chosen * side * side + at] + CODES];
  small.getContext("2d").putImageData(image, 0, 0);
  context.imageSmoothingEnabled = false;
  context.fillStyle = variable("--ground");
  context.fillRect(0, 0, headView.width, headView.height);
  context.drawImage(small, left, top, side * cell, side * cell);
  context.strokeStyle = variable("--line");
  context.strokeRect(left - 0.5, top - 0.5, side * cell + 1, side * cell + 1);
  if (headNamed()) drawHeadNames(context);
  if (!cursor) return;
  context.strokeStyle = variable("--accent");
  context.lineWidth = 2;
  context.strokeRect(left + cursor.column * cell, top + cursor.row * cell, cell, cell);
}

function drawHeadNames(context) {
  const { left, top, cell } = headView, size = Math.min(11, cell * 0.95);
  context.font = `${size}px ${SANS}`;
  context.fillStyle = variable("--quiet");
  context.textAlign = "right";
  context.textBaseline = "middle";
  for (let j = 0; j < TOKENS; j++) {
    const name = clipName(named(j), LONGEST_NAME), middle = (j + 0.5) * cell;
    context.fillText(name, left - 4, top + middle);
    context.save();
    context.translate(left + middle, top + TOKENS * cell + 4);
    context.rotate(-Math.PI / 2);
    context.fillText(name, 0, 0);
    context.restore();
  }
}

// The tokens of a cell: one, or where the map is smaller than the text, those from the first to the last.
function tokensOf(cell) {
  const { side } = mixer(), first = Math.floor((cell * TOKENS) / side), last = Math.ceil(((cell + 1) * TOKENS) / side) - 1;
  return first === last ? `${quoted(first)} (${first})` : `tokens ${first} to ${last}`;
}

function sayHead() {
  const { cursor } = headView, { side, scales } = mixer();
  let says = "";
  if (cursor) {
    const code = gallery.codes[(gallery.chosen * side + cursor.row) * side + cursor.column];
    const share = (code / CODES) ** 2 * scales[gallery.chosen], target = tokensOf(cursor.row), source = tokensOf(cursor.column);
    const weight = code === 0 ? "none" : `≈ ${formatShare(share)}`;
    says = wholeMap() ? `${target} gives ${source} ${weight} of its weight` : `of ${target}, none gives one of ${source} more than ${code === 0 ? "0 %" : weight} of its weight`;
  }
  document.getElementById("head-readout").textContent = says;
}

function pointInHead(event) {
  const box = headCanvas.getBoundingClientRect(), stretch = headView.width / box.width, { left, top, cell } = headView;
  const column = Math.floor(((event.clientX - box.left) * stretch - left) / cell), row = Math.floor(((event.clientY - box.top) * stretch - top) / cell);
  const inside = (at) => at >= 0 && at < mixer().side;
  headView.cursor = inside(row) && inside(column) ? { row, column } : null;
}

function listenToHead() {
  const look = () => { drawHead(); sayHead(); };
  headCanvas.addEventListener("pointermove", (event) => { pointInHead(event); look(); });
  headCanvas.addEventListener("pointerdown", (event) => { pointInHead(event); look(); });
  headCanvas.addEventListener("pointerleave", () => { headView.cursor = null; look(); });
  headCanvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!step) return;
    const last = mixer().side - 1, from = headView.cursor ?? { row: last, column: last }, [down, right] = headView.cursor ? step : [0, 0];
    const within = (at) => Math.min(Math.max(at, 0), last);
    headView.cursor = { row: within(from.row + down), column: within(from.column + right) };
    look();
    event.preventDefault();
  });
  new ResizeObserver(() => { if (gallery.chosen !== null && headCanvas.clientWidth !== headView.width) drawHead(); }).observe(document.getElementById("heads-section"));
}
