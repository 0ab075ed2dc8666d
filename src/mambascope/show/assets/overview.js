// A long text as one strip above its box: where its strongest sources are, and which part is in view. A click goes there.

const overview = document.getElementById("overview");
const OVERVIEW = { height: 30, marks: 9 };

// Show the strip where the text is longer than its box.
function layOutOverview() {
  overview.hidden = textBox.scrollHeight <= textBox.clientHeight + 2;
  if (overview.hidden) return;
  const ratio = window.devicePixelRatio || 1, width = overview.clientWidth;
  overview.width = Math.round(width * ratio);
  overview.height = Math.round(OVERVIEW.height * ratio);
  overview.setAttribute("aria-valuemax", String(TOKENS - 1));
}

// Each column has the colour of the strongest score among its tokens; marks point to the top sources.
function drawOverview(block, t, top, position) {
  layOutOverview();
  if (overview.hidden) return;
  const context = overview.getContext("2d"), { width, height } = overview, { css } = colours();
  const marks = Math.round((OVERVIEW.marks / OVERVIEW.height) * height), start = block.starts[t], length = block.lengths[t];
  context.clearRect(0, 0, width, height);
  context.fillStyle = variable("--panel");
  context.fillRect(0, marks, width, height - marks);
  const strongest = new Int16Array(width);
  for (let j = 0; j < length; j++) {
    const x = columnOf(j), code = block.codes[start + j];
    if (Math.abs(code) > Math.abs(strongest[x])) strongest[x] = code;
  }
  const wide = Math.max(1, Math.floor(width / TOKENS));
  strongest.forEach((code, x) => {
    if (Math.abs(code) < 3) return;
    context.fillStyle = css[code + CODES];
    context.fillRect(x, marks, Math.max(wide, 2), height - marks);
  });
  const mark = (j, colour) => {
    const x = columnOf(j) + wide / 2, half = marks / 2;
    context.fillStyle = colour;
    context.beginPath();
    context.moveTo(x - half, 0);
    context.lineTo(x + half, 0);
    context.lineTo(x, marks);
    context.fill();
  };
  top.filter(({ score }) => score !== 0).forEach(({ position: j, score }) => mark(j, variable(score < 0 ? "--bar-minus" : "--bar")));
  mark(position, variable("--ink"));
  outlineView(context);
  overview.setAttribute("aria-valuenow", String(position));
  overview.setAttribute("aria-valuetext", top.length ? `the strongest source is ${quoted(top[0].position)} at position ${top[0].position}` : "no source");
}

const columnOf = (j) => Math.min(overview.width - 1, Math.floor((j / TOKENS) * overview.width));

function outlineView(context) {
  const seen = spans.map((span, j) => j).filter((j) => inBox(spans[j]));
  if (!seen.length) return;
  const from = columnOf(seen[0]), to = columnOf(seen[seen.length - 1]) + 2;
  context.strokeStyle = variable("--quiet");
  context.lineWidth = 1;
  context.strokeRect(from + 0.5, 0.5, Math.max(to - from, 3), overview.height - 1);
}

function inBox(span) {
  const top = span.offsetTop - textBox.offsetTop - textBox.scrollTop;
  return top >= 0 && top < textBox.clientHeight;
}

// go: brings a token into view; sources: the positions of the top sources, best first.
function listenToOverview({ go, redraw, sources }) {
  let at = -1;
  overview.addEventListener("click", (event) => {
    const box = overview.getBoundingClientRect();
    const j = Math.min(TOKENS - 1, Math.floor(((event.clientX - box.left) / box.width) * TOKENS)), reach = TOKENS / 60;
    const near = sources().filter((one) => Math.abs(one - j) <= reach);
    go(near.length ? near[0] : j);
  });
  overview.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key], found = [...sources()].sort((a, b) => a - b);
    if (by === undefined || !found.length) return;
    at = Math.min(Math.max(at + by, 0), found.length - 1);
    go(found[at]);
    event.preventDefault();
    event.stopPropagation();
  });
  textBox.addEventListener("scroll", redraw);
}
