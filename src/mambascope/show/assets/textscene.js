// The text as the page shows it, as a picture to save.

function textScene() {
  const frame = textBox.getBoundingClientRect(), ink = variable("--ink"), items = [];
  const size = parseFloat(getComputedStyle(textBox).fontSize);
  for (const span of spans) {
    const fill = span.style.backgroundColor, target = span.classList.contains("target");
    for (const { rect, string } of lineParts(span)) {
      const x = rect.left - frame.left, y = rect.top - frame.top + textBox.scrollTop, { width, height } = rect;
      if (fill) items.push({ kind: "rect", x, y, width, height, fill });
      if (target) items.push({ kind: "rect", x, y: y + height - 2, width, height: 2, fill: ink });
      items.push({ kind: "text", x, y: y + height * 0.76, string, fill: span.style.color || ink, size });
    }
  }
  return { width: Math.ceil(frame.width), height: Math.ceil(textBox.scrollHeight + 4), ground: variable("--ground"), items };
}

// A token's pieces line by line: most tokens are on one line, long ones may break.
function lineParts(span) {
  const rects = [...span.getClientRects()].filter(({ width }) => width > 0), whole = span.textContent;
  if (rects.length <= 1) return rects.map((rect) => ({ rect, string: whole }));
  const parts = rects.map((rect) => ({ rect, string: "" })), range = document.createRange();
  let at = 0;
  for (const letter of whole) {
    range.setStart(span.firstChild, at);
    range.setEnd(span.firstChild, (at += letter.length));
    const middle = range.getBoundingClientRect(), y = (middle.top + middle.bottom) / 2;
    const part = parts.find(({ rect }) => y >= rect.top && y <= rect.bottom);
    if (part) part.string += letter;
  }
  return parts;
}
