// The large map: targets down, sources across (for a single target: layers down), with zoom, pan and a cursor.

const mapCanvas = document.getElementById("map");
const LONGEST_NAME = 13;
const MARGIN = { left: 0, top: 10, right: 12, bottom: 0 };  // the zeros are set when the names are known
const SMALLEST_LETTERS = 9, LARGEST_CELL = 60, FITTED_CELL = 34;
const FUTURE = -128;
const view = { x: 0, y: 0, zoom: 1, cursor: null, grid: null, fitX: 1, fitY: 1, inner: null };

// A grid is what the map draws: its size, and for every row its codes, how many there are, and its largest score.
function matrixGrid(block) {
  const { targets } = method();
  return {
    rows: targets.length, columns: TOKENS, square: true,
    row: (t) => ({ codes: block.codes, start: block.starts[t], length: block.lengths[t], scale: block.scales[t] }),
    rowName: (t) => named(anchors()[t]), rowNumber: (t) => anchors()[t],
    score: (t, j) => scoreAt(block, t, j),
  };
}

function stripGrid(blocks) {
  const { layers } = method();
  return {
    rows: blocks.length, columns: TOKENS, square: false,
    row: (k) => ({ codes: blocks[k].codes, start: 0, length: blocks[k].lengths[0], scale: blocks[k].scales[0] }),
    rowName: (k) => `layer ${layers[k]}`, rowNumber: (k) => layers[k],
    score: (k, j) => scoreAt(blocks[k], 0, j),
  };
}

// Room for the longest name that may be beside or below the map.
function marginForNames() {
  const context = mapCanvas.getContext("2d");
  context.font = `12px ${SANS}`;
  const widths = RESULT.tokens.map((_, j) => context.measureText(clipName(named(j), LONGEST_NAME)).width);
  return Math.ceil(widths.reduce((most, width) => Math.max(most, width), 24)) + 14;
}

function layOut() {
  MARGIN.bottom ||= marginForNames();
  MARGIN.left = Math.max(MARGIN.bottom, 60);
  const { grid } = view, width = Math.max(280, mapCanvas.clientWidth);
  const across = width - MARGIN.left - MARGIN.right;
  view.fitX = across / grid.columns;
  view.fitY = grid.square ? view.fitX : Math.min(26, Math.max(3, 420 / grid.rows));
  if (grid.square && view.fitX > FITTED_CELL) view.fitX = view.fitY = FITTED_CELL;
  const down = Math.min(grid.rows * view.fitY, across);
  view.inner = { x: MARGIN.left, y: MARGIN.top, width: Math.min(across, grid.columns * view.fitX), height: Math.max(down, 12) };
  view.width = width;
  view.height = Math.round(view.inner.height + MARGIN.top + MARGIN.bottom);
  const ratio = window.devicePixelRatio || 1;
  mapCanvas.width = Math.round(view.width * ratio);
  mapCanvas.height = Math.round(view.height * ratio);
  mapCanvas.style.aspectRatio = `${view.width} / ${view.height}`;
}

const cellWidth = () => view.fitX * view.zoom;
const cellHeight = () => view.fitY * view.zoom;

function clampView() {
  const { grid, inner } = view, most = Math.max(1, LARGEST_CELL / Math.min(view.fitX, view.fitY));
  view.zoom = Math.min(Math.max(view.zoom, 1), most);
  view.x = Math.min(Math.max(view.x, 0), Math.max(0, grid.columns - inner.width / cellWidth()));
  view.y = Math.min(Math.max(view.y, 0), Math.max(0, grid.rows - inner.height / cellHeight()));
  mapCanvas.classList.toggle("zoomed", view.zoom > 1);
}

// The visible cells as one small picture: one dot per cell, or where cells are smaller than pixels, per group of cells,
// with the score of largest absolute value.
function cellsImage(contrast) {
  const { grid, inner } = view, ratio = window.devicePixelRatio || 1, { pixels, future } = colours();
  const firstRow = Math.floor(view.y), lastRow = Math.min(grid.rows, Math.ceil(view.y + inner.height / cellHeight()));
  const firstColumn = Math.floor(view.x), lastColumn = Math.min(grid.columns, Math.ceil(view.x + inner.width / cellWidth()));
  const rows = lastRow - firstRow, columns = lastColumn - firstColumn;
  const high = Math.min(rows, Math.ceil(inner.height * ratio)), wide = Math.min(columns, Math.ceil(inner.width * ratio));
  const strongest = new Int16Array(wide * high).fill(FUTURE);
  const largest = largestScale(grid);
  for (let i = firstRow; i < lastRow; i++) {
    const { codes, start, length, scale } = grid.row(i), end = Math.min(length, lastColumn);
    const factor = contrast === "row" ? 1 : Math.sqrt(scale / largest);
    const line = Math.floor(((i - firstRow) * high) / rows) * wide;
    for (let j = firstColumn; j < end; j++) {
      const code = Math.round(codes[start + j] * factor);
      const at = line + Math.floor(((j - firstColumn) * wide) / columns), held = strongest[at];
      if (held === FUTURE || Math.abs(code) > Math.abs(held)) strongest[at] = code;
    }
  }
  const canvas = document.createElement("canvas");
  canvas.width = wide;
  canvas.height = high;
  const image = new ImageData(wide, high), words = new Uint32Array(image.data.buffer);
  strongest.forEach((code, at) => { words[at] = code === FUTURE ? future : pixels[code + CODES]; });
  canvas.getContext("2d").putImageData(image, 0, 0);
  return {
    kind: "image", canvas, clip: inner,
    x: inner.x + (firstColumn - view.x) * cellWidth(), y: inner.y + (firstRow - view.y) * cellHeight(),
    width: columns * cellWidth(), height: rows * cellHeight(),
  };
}

function largestScale(grid) {
  grid.largest ??= Math.max(...Array.from({ length: grid.rows }, (_, i) => grid.row(i).scale)) || 1;
  return grid.largest;
}

function mapScene(contrast, focus) {
  const { grid, inner } = view, line = variable("--line"), ink = variable("--ink");
  const items = [cellsImage(contrast), { kind: "rect", ...inner, stroke: line }];
  items.push(...rowLabels(), ...columnLabels());
  const outline = (i, j, width, stroke) => {
    const y = inner.y + (i - view.y) * cellHeight(), x = inner.x + (j - view.x) * cellWidth();
    const top = Math.max(y, inner.y), bottom = Math.min(y + cellHeight(), inner.y + inner.height);
    const left = Math.max(x, inner.x), right = Math.min(x + width, inner.x + inner.width);
    if (bottom > top && right > left) items.push({ kind: "rect", x: left, y: top, width: right - left, height: bottom - top, stroke });
  };
  if (focus !== null) outline(focus, 0, grid.columns * cellWidth(), ink);
  if (view.cursor) outline(view.cursor.row, view.cursor.column, cellWidth(), variable("--accent"));
  return { width: view.width, height: view.height, ground: variable("--ground"), items };
}

// Names where they fit, else numbers at round steps.
function places(first, last, cell) {
  const named = cell >= SMALLEST_LETTERS;
  let step = 1;
  if (!named) step = [2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000].find((size) => size * cell >= 36) ?? 10000;
  const numbers = [];
  for (let at = Math.ceil(first / step) * step; at < last; at += step) numbers.push(at);
  return { named, numbers };
}

const clipName = (name, letters) => ([...name].length > letters ? `${[...name].slice(0, letters - 1).join("")}…` : name);

function rowLabels() {
  const { grid, inner } = view, cell = cellHeight(), fill = variable("--quiet");
  const { named, numbers } = places(view.y, Math.min(grid.rows, view.y + inner.height / cell), cell);
  const size = Math.min(12, named ? Math.max(cell * 0.95, 8.5) : 11);
  return numbers.map((i) => ({
    kind: "text", x: inner.x - 6, y: inner.y + (i + 0.5 - view.y) * cell + size * 0.36, size, fill, anchor: "end",
    string: named ? clipName(grid.rowName(i), LONGEST_NAME) : String(grid.rowNumber(i)),
  })).filter(({ y }) => y > inner.y && y < inner.y + inner.height + size);
}

function columnLabels() {
  const { grid, inner } = view, cell = cellWidth(), fill = variable("--quiet"), y = inner.y + inner.height;
  const { named, numbers } = places(view.x, Math.min(grid.columns, view.x + inner.width / cell), cell);
  const size = Math.min(12, named ? Math.max(cell * 0.95, 8.5) : 11);
  const inside = ({ x }) => x > inner.x && x < inner.x + inner.width + 1;
  return numbers.map((j) => {
    const x = inner.x + (j + 0.5 - view.x) * cell;
    if (!named) return { kind: "text", x, y: y + 15, size, fill, anchor: "middle", string: String(j) };
    return { kind: "text", x: x + size * 0.36, y: y + 6, size, fill, anchor: "end", turn: -90, string: clipName(shown(j), LONGEST_NAME) };
  }).filter(inside);
}

function cellAt(event) {
  const box = mapCanvas.getBoundingClientRect(), { grid, inner } = view, stretch = view.width / box.width;
  const x = (event.clientX - box.left) * stretch - inner.x, y = (event.clientY - box.top) * stretch - inner.y;
  if (x < 0 || y < 0 || x >= inner.width || y >= inner.height) return null;
  const row = Math.floor(view.y + y / cellHeight()), column = Math.floor(view.x + x / cellWidth());
  return row < grid.rows && column < grid.columns ? { row, column, x, y } : null;
}

// Zoom so that the point under the pointer (or the middle) stays where it is.
function zoomBy(factor, point) {
  const { inner } = view, x = point?.x ?? inner.width / 2, y = point?.y ?? inner.height / 2;
  const column = view.x + x / cellWidth(), row = view.y + y / cellHeight();
  view.zoom *= factor;
  clampView();
  view.x = column - x / cellWidth();
  view.y = row - y / cellHeight();
  clampView();
}

function showCursor() {
  const { grid, inner } = view, { row, column } = view.cursor;
  view.x = Math.min(Math.max(view.x, column + 1 - inner.width / cellWidth()), column);
  view.y = Math.min(Math.max(view.y, row + 1 - inner.height / cellHeight()), row);
  clampView();
  return grid;
}
