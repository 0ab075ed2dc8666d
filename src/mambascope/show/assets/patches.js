// Where the patches lie, what they are called, and one target's scores over them.

const GRID = RESULT.grid, CLASS = GRID.class_position;
const MEAN = TOKENS;  // the target after the last: the mean of all
const POSITIONS = RESULT.tokens.map((_, j) => j).filter((j) => j !== CLASS);

const patchAt = ({ row, column }) => POSITIONS[row * GRID.columns + column];

function placeOf(position) {
  if (position === CLASS || position === MEAN) return null;
  const at = position - (CLASS !== null && position > CLASS ? 1 : 0);
  return { row: Math.floor(at / GRID.columns), column: at % GRID.columns };
}

const sourceName = (j) => (j === CLASS ? "class token" : `patch ${RESULT.tokens[j]}`);
const sourcePlace = () => "";
const targetName = (position) => (position === MEAN ? `the mean of ${TOKENS} tokens` : position === CLASS ? "the class token" : sourceName(position));
const goTo = (j) => (method().targets.includes(j) ? `Explain ${sourceName(j)}` : sourceName(j));

// One block, with the class token's scores, which are packed separately because they are so much larger.
async function loadScores(index, block) {
  const one = RESULT.methods[index], data = await loadBlock(index, block), rows = one.targets.length;
  if (CLASS !== null) {
    one.ofClass ??= new Float32Array(await inflate(`class-${index}`));
    data.ofClass = one.ofClass.subarray(block * rows, (block + 1) * rows);
  }
  return data;
}

const scoreOf = (data, t, j) => (j === CLASS ? { score: data.ofClass[t], exact: true } : scoreAt(data, t, j));

function topOf(data, t, total) {
  const top = topSources(data, t, total).filter(({ position }) => position !== CLASS);
  if (CLASS !== null) {
    const score = data.ofClass[t];
    top.push({ position: CLASS, score, share: total > 0 ? Math.abs(score) / total : 0 });
  }
  return top.sort((a, b) => Math.abs(b.score) - Math.abs(a.score) || a.position - b.position).slice(0, Math.min(TOP, TOKENS));
}

// The scores of one target's patches, row by row, with both ends of their scale.
function patchScores(data, t) {
  const start = data.starts[t], scale = data.scales[t], values = new Float32Array(POSITIONS.length);
  POSITIONS.forEach((j, k) => { const code = data.codes[start + j]; values[k] = Math.sign(code) * (code / CODES) ** 2 * scale; });
  const places = new Map(POSITIONS.map((j, k) => [j, k]));
  for (let k = t * TOP; k < (t + 1) * TOP; k++) if (data.exact[k] !== 0) values[places.get(data.order[k])] = data.exact[k];
  return { values, rows: GRID.rows, columns: GRID.columns, ...ends(values) };
}

// The score without colour and the one in full colour, as in overlay.py's `ends`.
function ends(values) {
  const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const least = method().signed ? 0 : values.reduce((least, value) => Math.min(least, value), Infinity);
  return { largest, smallest: least > RESULT.floor * largest && least < largest ? least : 0 };
}

// The scores of every pixel that the model read.
async function pixelScores(index) {
  const { rows, columns, largest } = RESULT.methods[index].pixels, codes = new Int8Array(await inflate(`pixels-${index}`));
  return { values: Float32Array.from(codes, (code) => Math.sign(code) * (code / CODES) ** 2 * largest), rows, columns, largest, smallest: 0 };
}
