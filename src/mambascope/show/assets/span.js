// Several tokens at once: selected as any text is, they are summed as sources, or explained together as targets.

// The first and last token of the page's selection, if it lies in the text.
function selectedTokens() {
  const chosen = window.getSelection();
  if (!chosen.rangeCount || chosen.isCollapsed) return null;
  const range = chosen.getRangeAt(0), tokenOf = (node) => (node.nodeType === Node.TEXT_NODE ? node.parentElement : node).closest?.(".token");
  const [first, last] = [tokenOf(range.startContainer), tokenOf(range.endContainer)];
  if (!first || !last || !textBox.contains(first) || !textBox.contains(last)) return null;
  let [from, to] = [first, last].map((span) => Number(span.dataset.position));
  if (from < to && range.startOffset >= first.textContent.length) from += 1;
  if (from < to && range.endOffset === 0) to -= 1;
  return { from, to };
}

// The sum of the scores of sources from one token to another, for one target, and whether all of them are exact.
function sumOfSources(block, t, { from, to }) {
  let sum = 0, size = 0, exact = true;
  for (let j = from; j <= Math.min(to, block.lengths[t] - 1); j++) {
    const one = scoreAt(block, t, j);
    sum += one.score;
    size += Math.abs(one.score);
    exact &&= one.exact;
  }
  return { sum, size, exact };
}

// Rows added up, as a block with one row; its numbers are sums of rounded ones. total: of their absolute values.
function rowsTogether(block, from, to) {
  const length = Math.max(...block.lengths.slice(from, to + 1)), scores = new Float64Array(length);
  for (let t = from; t <= to; t++) {
    for (let j = 0; j < block.lengths[t]; j++) {
      const code = block.codes[block.starts[t] + j];
      scores[j] += Math.sign(code) * (code / CODES) ** 2 * block.scales[t];
    }
    for (let k = t * TOP; k < (t + 1) * TOP; k++) {
      if (block.exact[k] === 0) continue;
      const j = block.order[k], code = block.codes[block.starts[t] + j];
      scores[j] += block.exact[k] - Math.sign(code) * (code / CODES) ** 2 * block.scales[t];
    }
  }
  const best = Array.from(scores.keys()).sort((a, b) => Math.abs(scores[b]) - Math.abs(scores[a]) || a - b).slice(0, TOP);
  const scale = Math.abs(scores[best[0]]) || 0, share = (score) => (scale > 0 ? Math.sqrt(Math.abs(score) / scale) : 0);
  const padded = (values, none) => [...values, ...Array(TOP - values.length).fill(none)];
  return {
    codes: Int8Array.from(scores, (score) => Math.sign(score) * Math.round(CODES * share(score))),
    order: Uint32Array.from(padded(best, 0)), exact: Float32Array.from(padded(best.map((j) => scores[j]), 0)),
    scales: Float32Array.of(scale), lengths: [length], starts: [0, length], rounded: true,
    total: scores.reduce((sum, score) => sum + Math.abs(score), 0),
  };
}

// Generated tokens have a line above that is the stronger the likelier they were.
function markGenerated(rows) {
  for (const span of spans) { span.style.borderTop = ""; span.title &&= span.classList.contains("odd") ? span.title : ""; }
  for (const { generated, next_tokens: likely } of rows ?? []) {
    if (generated === null || generated === undefined || !likely.length) continue;
    const [[, share]] = likely;
    spans[generated].style.borderTop = "3px solid";
    spans[generated].style.borderTopColor = `color-mix(in srgb, var(--bar) ${Math.round(100 * share)}%, var(--line))`;
    spans[generated].title = `generated, with a probability of ${formatShare(share)}`;
  }
}
