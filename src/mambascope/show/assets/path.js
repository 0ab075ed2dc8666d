// The path of the answer: tokens at the left, layers in the middle, the number explained at the right, and what flows
// between them; beside it what the residual stream predicts after each layer.

const PATH = { width: 640, left: 110, middle: 340, right: 520, row: 24, thickest: 11 };

function showPath(t, position, layer, choose) {
  const graph = method().path?.[t], lens = RESULT.methods[0].diagnostics.lens?.find((one) => one.position === position);
  const section = document.getElementById("path-title").closest("section");
  section.hidden = !graph && !lens;
  document.getElementById("path-save").hidden = !graph;
  document.getElementById("path-graph").replaceChildren(...(graph ? [pathPicture(graph, layer, choose)] : []));
  document.getElementById("path-says").textContent = graph ? pathSays(graph) : elsewhere();
  document.getElementById("lens").hidden = !lens;
  if (lens) showLens(lens);
}

// Where the method shown has no path, another one of the page may.
function elsewhere() {
  const other = RESULT.methods.find(({ path, targets }) => path && targets.length === method().targets.length) ?? RESULT.methods.find(({ path }) => path);
  return other ? `${method().name} has no parts per layer that add up; choose ${other.name} to see the path.` : "";
}

function pathSays({ layers, terms, number, asked, error }) {
  const strongest = layers.reduce((a, b) => (Math.abs(b.value) > Math.abs(a.value) ? b : a));
  return `The ${asked}, ${formatScore(number)}, is the sum of what the layers add (layer ${strongest.layer} most: ${formatScore(strongest.value)}) `
    + `and of ${terms.map(([name, value]) => `${name} (${formatScore(value)})`).join(", ")}; they add up to within ${error.toExponential(1)}. `
    + "Blue adds, orange takes away; click a layer to see it alone.";
}

function pathPicture(graph, chosen, choose) {
  const { width, left, middle, right, row, thickest } = PATH;
  const names = [...graph.tokens.map((j) => named(j)), ...(graph.others > 0 ? [`${graph.others} others`] : [])];
  const stops = [...graph.layers.map(({ value }) => value), ...graph.terms.map(([, value]) => value)];
  const rows = Math.max(names.length, stops.length), height = rows * row + 20;
  const spread = (count, k) => 10 + ((k + 0.5) * rows * row) / count;
  const tokenY = (k) => spread(names.length, k), stopY = (k) => spread(stops.length, k), end = height / 2;
  const most = Math.max(...stops.map(Math.abs), ...graph.layers.flatMap(({ edges, rest }) => [...edges, rest].map(Math.abs)), 1e-30);
  const root = drawn("svg", { viewBox: `0 0 ${width} ${height}`, class: "path", role: "img", "aria-labelledby": "path-says" });
  const flow = (x1, y1, x2, y2, weight, says) => {
    if (Math.abs(weight) < most / 400) return;
    const half = (x1 + x2) / 2;
    const line = drawn("path", {
      d: `M${x1} ${y1}C${half} ${y1} ${half} ${y2} ${x2} ${y2}`, class: weight < 0 ? "flow minus" : "flow",
      "stroke-width": (Math.max(0.6, (thickest * Math.abs(weight)) / most)).toFixed(2),
    }, root);
    drawn("title", {}, line, `${says}: ${formatScore(weight)}`);
  };
  graph.layers.forEach(({ layer, edges, rest }, k) => {
    [...edges, rest].forEach((weight, from) => {
      if (from < names.length) flow(left, tokenY(from), middle - 44, stopY(k), weight, `${names[from]} → layer ${layer}`);
    });
  });
  const label = (k) => (k < graph.layers.length ? `layer ${graph.layers[k].layer}` : graph.terms[k - graph.layers.length][0]);
  stops.forEach((value, k) => flow(middle + 44, stopY(k), right, end, value, `${label(k)} → ${graph.asked}`));
  names.forEach((name, k) => drawn("text", { x: left - 6, y: tokenY(k) + 4, "text-anchor": "end" }, root, clipName(name, 13)));
  stops.forEach((value, k) => {
    const own = graph.layers[k], box = drawn("g", own ? { class: `stop${chosen === k + 1 ? " chosen" : ""}`, tabindex: 0, role: "button" } : { class: "term" }, root);
    drawn("rect", { x: middle - 44, y: stopY(k) - 9, width: 88, height: 18, rx: 4 }, box);
    drawn("text", { x: middle, y: stopY(k) + 4, "text-anchor": "middle" }, box, own ? `${own.layer}${own.kind ? ` ${own.kind}` : ""}` : clipName(label(k), 14));
    drawn("title", {}, box, `${label(k)}${own?.kind ? ` (${own.kind})` : ""}: ${formatScore(value)}`);
    if (!own) return;
    box.setAttribute("aria-label", `layer ${own.layer} adds ${formatScore(value)}`);
    box.addEventListener("click", () => choose(k + 1));
    box.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { choose(k + 1); event.preventDefault(); event.stopPropagation(); } });
  });
  drawn("text", { x: right + 8, y: end - 2, class: "number" }, root, formatScore(graph.number));
  drawn("text", { x: right + 8, y: end + 14 }, root, clipName(graph.asked, 18));
  return root;
}

// The drawing with its style in it, as text and as a picture.
const DRAWN = ["fill", "stroke", "stroke-width", "stroke-opacity", "font-size", "font-weight", "font-family"];
async function pathScene() {
  const shown = document.querySelector(".path"), copy = shown.cloneNode(true), { width, height } = shown.viewBox.baseVal;
  const own = [shown, ...shown.querySelectorAll("*")];
  [copy, ...copy.querySelectorAll("*")].forEach((element, k) => {
    const style = getComputedStyle(own[k]);
    for (const name of DRAWN) element.setAttribute(name, style.getPropertyValue(name));
    for (const name of ["class", "tabindex", "role", "aria-label", "aria-labelledby"]) element.removeAttribute(name);
  });
  copy.setAttribute("width", width);
  copy.setAttribute("height", height);
  const svg = new XMLSerializer().serializeToString(copy), picture = new Image(width * 4, height * 4);
  picture.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  await picture.decode();
  const canvas = document.createElement("canvas"), box = { x: 0, y: 0, width, height };
  Object.assign(canvas, { width: width * 4, height: height * 4 });
  canvas.getContext("2d").drawImage(picture, 0, 0, width * 4, height * 4);
  return { width, height, svg, ground: variable("--ground"), items: [{ kind: "image", canvas, clip: box, ...box }] };
}

function showLens({ layers, likeliest, explained, rank }) {
  const rows = layers.map((layer, k) => {
    const [[best, share], ...others] = likeliest[k];
    const from = k === 0 ? "embeddings" : `after layer ${layers[k - 1]}`;
    const bar = element("div");
    bar.style.width = `${100 * (explained ? explained[k] : share)}%`;
    return element("tr", {}, element("td", { textContent: from }),
      element("td", { textContent: `‘${best}’ ${formatShare(share)}`, title: others.map(([token, p]) => `‘${token}’ ${formatShare(p)}`).join(", ") }),
      element("td", { className: "number", textContent: explained ? `${formatShare(explained[k])} (#${rank[k]})` : "" }),
      element("td", { className: "bar" }, bar));
  });
  document.getElementById("lens-explained").textContent = explained ? "the token explained" : "";
  document.getElementById("lens").tBodies[0].replaceChildren(...rows);
}
