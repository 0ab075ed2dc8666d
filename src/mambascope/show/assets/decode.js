// The packed scores: what pack.py wrote, read back one layer at a time and only when it is looked at.

const RESULT = JSON.parse(document.getElementById("result").textContent);
const TOP = RESULT.top, CODES = RESULT.codes, CACHE_BYTES = 128e6;
const TOKENS = RESULT.tokens.length;
const cache = new Map();

// A token as it is shown: invisible characters made visible.
const shown = (j) => RESULT.shown[j] ?? RESULT.tokens[j];
// A token by name: one that continues a character says which part of which character it is.
const named = (j) => RESULT.parts?.[j] ?? shown(j);
const quoted = (j) => `‘${named(j)}’`;

async function inflate(id) {
  const packed = atob(document.getElementById(id).textContent);
  const bytes = Uint8Array.from(packed, (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

// How many sources each target's row holds, and where in the codes it starts.
function rowPlaces({ causal, targets }) {
  const lengths = causal ? targets.map((position) => position + 1) : targets.map(() => TOKENS);
  const starts = new Float64Array(lengths.length + 1);
  lengths.forEach((length, t) => { starts[t + 1] = starts[t] + length; });
  return { lengths, starts, targets };
}

// Block 0 is all layers, their mean or their sum; block k + 1 is the k-th explained layer.
async function loadBlock(methodIndex, block) {
  const key = `${methodIndex}-${block}`;
  if (!cache.has(key)) {
    if ([...cache.values()].reduce((sum, entry) => sum + entry.bytes, 0) > CACHE_BYTES) cache.clear();
    const method = RESULT.methods[methodIndex];
    method.places ??= rowPlaces(method);
    const buffer = await inflate(`block-${key}`);
    cache.set(key, { bytes: buffer.byteLength, ...unpack(buffer, method.places) });
  }
  return cache.get(key);
}

function unpack(buffer, places) {
  const { targets } = places, rows = targets.length, codesEnd = places.starts[rows], count = rows * TOP;
  const Behind = TOKENS > 0x7fff ? Uint32Array : Uint16Array, range = 2 ** (8 * Behind.BYTES_PER_ELEMENT);
  const behind = new Behind(fromPlanes(buffer, codesEnd, count, Behind.BYTES_PER_ELEMENT));
  const byRank = new Float32Array(fromPlanes(buffer, codesEnd + behind.byteLength, count, 4));
  // The file holds every row's best, then every row's second; here a row's top sources are together.
  const order = new Uint32Array(count), exact = new Float32Array(count);
  for (let t = 0; t < rows; t++) {
    for (let k = 0; k < TOP; k++) {
      order[t * TOP + k] = (targets[t] - behind[k * rows + t] + range) % range;
      exact[t * TOP + k] = byRank[k * rows + t];
    }
  }
  const scales = Float32Array.from({ length: rows }, (_, t) => Math.abs(exact[t * TOP]));
  return { codes: new Int8Array(buffer, 0, codesEnd), order, exact, scales, ...places };
}

// Numbers stored as planes (all lowest bytes, then all next ones) back in one piece.
function fromPlanes(buffer, start, count, width) {
  const planes = new Uint8Array(buffer, start, count * width), merged = new Uint8Array(count * width);
  for (let plane = 0; plane < width; plane++) {
    for (let k = 0; k < count; k++) merged[width * k + plane] = planes[plane * count + k];
  }
  return merged.buffer;
}

// The score of source j for the t-th target: exact for the row's top sources, else to about 1 % of the row's largest.
function scoreAt(block, t, j) {
  if (j >= block.lengths[t]) return { score: 0, exact: true };
  for (let k = t * TOP; k < (t + 1) * TOP; k++) {
    if (block.order[k] === j && block.exact[k] !== 0) return { score: block.exact[k], exact: true };
  }
  const code = block.codes[block.starts[t] + j];
  return { score: Math.sign(code) * (code / CODES) ** 2 * block.scales[t], exact: false };
}

// The t-th target's top sources, best first, as Attribution.top gives them.
function topSources(block, t, total) {
  const count = Math.min(TOP, block.lengths[t]);
  return Array.from({ length: count }, (_, k) => {
    const score = block.exact[t * TOP + k];
    return { position: block.order[t * TOP + k], score, share: total > 0 ? Math.abs(score) / total : 0 };
  });
}

function formatScore(score) {
  if (score === 0) return "0";
  const size = Math.abs(score);
  const text = size >= 1e5 || size < 1e-4 ? size.toExponential(3) : String(Number(size.toPrecision(4)));
  return score < 0 ? `\u2212${text}` : text;
}

function formatShare(share) {
  if (share > 0 && share < 0.001) return "<0.1 %";
  return `${(100 * share).toFixed(share >= 0.9995 ? 0 : 1)} %`;
}
