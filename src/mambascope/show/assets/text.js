// The text: one span per token, shaded by the scores of the target in focus.

const textBox = document.getElementById("text");
let spans = [];

function buildText() {
  spans = RESULT.tokens.map((token, j) => {
    const span = document.createElement("span");
    span.className = "token";
    span.textContent = shown(j);
    span.dataset.position = j;
    span.tabIndex = -1;
    span.setAttribute("role", "option");
    if (token === "") {
      span.classList.add("odd");
      span.title = "an empty token";
    }
    textBox.append(span);
    if (token.endsWith("\n")) textBox.append(document.createElement("br"));
    return span;
  });
  textBox.classList.toggle("small", TOKENS > 400);
}

// Shade every token by its share of the target's row; tokens the target cannot see stay pale.
function shadeText(block, t) {
  const { css, ink } = colours(), start = block.starts[t], length = block.lengths[t];
  spans.forEach((span, j) => {
    const code = j < length ? block.codes[start + j] : 0, faint = Math.abs(code) < 3;
    span.style.backgroundColor = faint ? "" : css[code + CODES];
    span.style.color = faint ? "" : ink[code + CODES];
    span.classList.toggle("future", j >= length);
  });
}

function markTarget(position, pinned) {
  for (const name of ["target", "pinned"]) textBox.querySelector(`.${name}`)?.classList.remove(name);
  textBox.querySelector("[aria-selected=true]")?.setAttribute("aria-selected", "false");
  const span = spans[position];
  span.classList.add("target");
  span.classList.toggle("pinned", pinned);
  span.setAttribute("aria-selected", "true");
}

// Underline the tokens that have a row of their own, where not all have one.
function markRows(has) {
  spans.forEach((span, j) => span.classList.toggle("asked", has(j)));
}

// Bring a token into view inside its box, without moving the page: so far down the box.
function bringIntoView(j, share = 0.7) {
  const box = textBox.getBoundingClientRect(), word = spans[j].getBoundingClientRect();
  if (word.top < box.top || word.bottom > box.bottom) textBox.scrollTop += word.top - box.top - box.height * share;
}

function roam(j) {
  textBox.querySelector("[tabindex='0']")?.setAttribute("tabindex", "-1");
  spans[j].tabIndex = 0;
}

function positionOf(event) {
  const span = event.target.closest?.(".token");
  return span ? Number(span.dataset.position) : null;
}

// ---- how the table of sources names tokens, and points at them -------------------------------------------------------

const sourceName = (j) => quoted(j);
const sourcePlace = (j) => ` ${j}`;
const targetName = (position) => `${quoted(position)} (position ${position})`;
const goTo = (j) => `Go to position ${j}`;
const mark = (j, on) => spans[j].classList.toggle("mark", on);
const unmark = () => textBox.querySelectorAll(".mark").forEach((span) => span.classList.remove("mark"));
