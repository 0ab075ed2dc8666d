// A picture as a list of items (rect, text, image), painted on a canvas or written as SVG: one description, two media.

function paint(context, scene) {
  context.fillStyle = scene.ground;
  context.fillRect(0, 0, scene.width, scene.height);
  for (const item of scene.items) PAINTERS[item.kind](context, item);
}

const PAINTERS = {
  rect(context, { x, y, width, height, fill, stroke }) {
    if (fill) { context.fillStyle = fill; context.fillRect(x, y, width, height); }
    if (stroke) { context.strokeStyle = stroke; context.lineWidth = 1.5; context.strokeRect(x, y, width, height); }
  },
  text(context, { x, y, string, fill, size, anchor = "start", turn = 0, font }) {
    context.save();
    context.translate(x, y);
    context.rotate((turn * Math.PI) / 180);
    context.font = `${size}px ${font ?? SANS}`;
    context.textAlign = { start: "left", middle: "center", end: "right" }[anchor];
    context.textBaseline = "alphabetic";
    context.fillStyle = fill;
    context.fillText(string, 0, 0);
    context.restore();
  },
  image(context, { x, y, width, height, canvas, clip }) {
    context.save();
    context.beginPath();
    context.rect(clip.x, clip.y, clip.width, clip.height);
    context.clip();
    context.imageSmoothingEnabled = false;
    context.drawImage(canvas, x, y, width, height);
    context.restore();
  },
};

const SANS = 'system-ui, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif';
const CELLS_AS_SHAPES = 5000;

// An element of a drawing.
function drawn(name, attributes, parent, text) {
  const made = document.createElementNS(document.getElementById("drawing").namespaceURI, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent?.append(made);
  return made;
}

function toSvg(scene) {
  const root = drawn("svg", { width: scene.width, height: scene.height, viewBox: `0 0 ${scene.width} ${scene.height}` });
  drawn("rect", { width: "100%", height: "100%", fill: scene.ground }, root);
  for (const item of scene.items) {
    if (item.kind === "rect") {
      const { x, y, width, height, fill = "none", stroke } = item;
      drawn("rect", { x, y, width, height, fill, ...(stroke && { stroke, "stroke-width": 1.5 }) }, root);
    } else if (item.kind === "text") {
      const { x, y, string, fill, size, anchor = "start", turn = 0, font = SANS } = item;
      const text = drawn("text", { fill, "font-size": size, "font-family": font, "text-anchor": anchor }, root);
      text.setAttribute("transform", `translate(${x} ${y}) rotate(${turn})`);
      text.style.whiteSpace = "pre";
      text.textContent = string.replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g, "\ufffd");
    } else {
      svgImage(root, item);
    }
  }
  return new XMLSerializer().serializeToString(root);
}

// A map of few cells stays vector; one of many becomes a picture with one dot per cell.
function svgImage(root, { x, y, width, height, canvas, clip }) {
  const frame = drawn("svg", { ...clip, viewBox: `${clip.x} ${clip.y} ${clip.width} ${clip.height}` }, root);
  if (canvas.width * canvas.height > CELLS_AS_SHAPES) {
    const image = { x, y, width, height, href: canvas.toDataURL(), preserveAspectRatio: "none", "image-rendering": "pixelated" };
    drawn("image", image, frame);
    return;
  }
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const wide = width / canvas.width, high = height / canvas.height;
  for (let row = 0; row < canvas.height; row++) {
    for (let column = 0; column < canvas.width; column++) {
      const at = 4 * (row * canvas.width + column);
      if (data[at + 3] === 0) continue;
      const fill = `rgb(${data[at]}, ${data[at + 1]}, ${data[at + 2]})`;
      drawn("rect", { x: x + column * wide, y: y + row * high, width: wide, height: high, fill, "shape-rendering": "crispEdges" }, frame);
    }
  }
}

// The picture with two lines below it: what it shows, and its scale (largest is null where every row has its own).
function withCaption(scene, title, largest, signed, smallest = 0) {
  const ink = variable("--ink"), y = scene.height, line = { kind: "text", size: 12, fill: ink };
  const items = [...scene.items, { ...line, x: 10, y: y + 14, string: title }];
  if (largest === null) items.push({ ...line, x: 10, y: y + 34, string: "each row on its own scale" });
  else {
    const bar = { x: 84, y: y + 24, width: 140, height: 11 };
    items.push({ ...line, x: 78, y: y + 34, anchor: "end", string: formatScore(signed ? -largest : smallest) },
      { kind: "image", canvas: scaleCanvas(signed), clip: bar, ...bar }, { kind: "rect", ...bar, stroke: variable("--line") },
      { ...line, x: 230, y: y + 34, string: formatScore(largest) });
  }
  return { ...scene, height: y + 46, items };
}
