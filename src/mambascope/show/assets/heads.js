// The heads of a layer, or its groups of channels: a small map of each, with what it does.

const GALLERY = RESULT.gallery, SPREADS = ["local", "diffuse"];
const gallery = { mixer: 0, chosen: null, codes: null, turn: 0 };
const mixer = () => GALLERY.mixers[gallery.mixer];
const headName = (head) => (mixer().channels ? `group ${head.number}` : `head ${head.number}`);
const labelPlace = (name) => GALLERY.labels.findIndex((one) => one.name === name);
const shareOf = (head) => (head.label ? head.shares[labelPlace(head.label)] : null);
const tokensFar = (distance) => distance.toFixed(1);
const liftOf = (lift) => (lift >= 1000 ? ">999" : lift.toFixed(lift < 10 ? 1 : 0));

const ORDERS = {
  number: (head) => head.number,
  label: (head) => (head.label ? labelPlace(head.label) : head.spread ? GALLERY.labels.length + SPREADS.indexOf(head.spread) : Infinity),
  distance: (head) => head.distance,
  share: (head) => -(shareOf(head) ?? -1),
};

function sortedHeads() {
  const key = ORDERS[document.getElementById("heads-order").value];
  const apart = (a, b) => (key(a) === key(b) ? a.number - b.number : key(a) < key(b) ? -1 : 1);
  return [...mixer().heads].sort(apart);
}

async function chooseMixer(index) {
  const turn = ++gallery.turn;
  const codes = new Int8Array(await inflate(`heads-${index}`));
  if (turn !== gallery.turn) return;  // another choice overtook this one
  Object.assign(gallery, { mixer: index, codes, chosen: null });
  document.getElementById("heads-layer").value = index;
  const { channels, heads } = mixer();
  document.getElementById("heads-how").textContent = (channels
    ? `Each small map is the mean over ${countOf(channels)} channels whose memory is of like length, from group 0, the shortest, to group ${heads.length - 1}.`
    : "Each small map is one head.")
    + " One row per target token, one column per source token; the stronger the colour, the larger the share of |α| that the target gives the source. "
    + "Click a map to enlarge it; there, arrow keys read it cell by cell.";
  buildHeads();
  enlargeHead(null);
  noteView(currentView);
}

// The gallery's part of the address: its layer by number, its order, the head that is open. `textview.js` asks for it as one of the `keepers`.
function headsView() {
  const order = document.getElementById("heads-order").value;
  return { heads: gallery.mixer || null, sort: order === "number" ? null : order, head: gallery.chosen };
}

async function restoreHeads() {
  const [index] = addressed("heads"), [head] = addressed("head"), order = address().get("sort");
  if (order !== null && Object.hasOwn(ORDERS, order)) document.getElementById("heads-order").value = order;
  if (["heads", "head", "sort"].every((key) => !address().has(key))) return;
  await chooseMixer(index < GALLERY.mixers.length ? index : gallery.mixer);
  if (mixer().heads.some(({ number }) => number === head)) enlargeHead(head);
}

// The small maps with their labels, as they are sorted.
function headsScene() {
  const wide = 110, high = 122, across = 8, ink = variable("--ink"), items = [], tiles = [...document.getElementById("heads").children];
  tiles.forEach((tile, k) => {
    const x = 10 + (k % across) * wide, y = 10 + Math.floor(k / across) * high, box = { x: x + 14, y, width: 62, height: 62 };
    items.push({ kind: "image", canvas: tile.firstChild, clip: box, ...box }, { kind: "rect", ...box, stroke: variable("--line") });
    const lines = [...tile.querySelectorAll("span")].map(({ textContent }) => textContent).filter(Boolean);
    lines.forEach((string, n) => items.push({ kind: "text", x: x + 45, y: y + 76 + 12 * n, string, fill: ink, size: 10, anchor: "middle" }));
  });
  return { width: 20 + Math.min(tiles.length, across) * wide, height: 20 + Math.ceil(tiles.length / across) * high, ground: variable("--ground"), items };
}

const countOf = (sizes) => {
  const least = Math.min(...sizes), most = Math.max(...sizes);
  return least === most ? String(least) : `${least} or ${most}`;
};

// The layer that the page shows is shown here too; `page.js` calls this where it exists.
function followLayer(layer) {
  const index = GALLERY.mixers.findIndex((one) => one.layer === layer);
  if (index >= 0 && mixer().layer !== layer) chooseMixer(index);
}

function buildHeads() {
  const box = document.getElementById("heads");
  box.replaceChildren(...sortedHeads().map((head) => {
    const share = shareOf(head), far = tokensFar(head.distance), kind = head.label ? "label" : "spread";
    const measured = share === null ? "" : `${formatShare(share)}, lift ${liftOf(head.lifts[labelPlace(head.label)])}`;
    const distance = head.label || head.spread !== "local" ? `distance ${far}` : `memory ${far}`;
    const button = element("button", { type: "button" }, element("canvas"), ...[
      ["", headName(head)], [kind, head.label ?? head.spread ?? "–"], ["", measured], ["", distance],
    ].map(([className, textContent]) => element("span", { className, textContent })));
    button.dataset.head = head.number;
    button.setAttribute("aria-label", [headName(head), head.label ?? head.spread ?? "no label", measured, distance].filter(Boolean).join(", "));
    button.setAttribute("aria-pressed", String(head.number === gallery.chosen));
    button.addEventListener("click", () => {
      enlargeHead(head.number === gallery.chosen ? null : head.number);
      noteView(currentView);
    });
    drawThumbnail(button.firstChild, head.number);
    return button;
  }));
  roveButtons(box);
}

// At most so many cells across and down, each the largest code of its area.
function drawThumbnail(canvas, number) {
  const { side } = mixer(), size = Math.min(side, RESULT.thumbnail), { pixels } = colours(), most = new Int8Array(size * size);
  for (let i = 0; i < side; i++) {
    for (let j = 0; j < side; j++) {
      const at = Math.floor((i * size) / side) * size + Math.floor((j * size) / side);
      most[at] = Math.max(most[at], gallery.codes[(number * side + i) * side + j]);
    }
  }
  canvas.width = canvas.height = size;
  const image = new ImageData(size, size), words = new Uint32Array(image.data.buffer);
  most.forEach((code, at) => { words[at] = pixels[code + CODES]; });
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function startHeads() {
  const several = (layer) => GALLERY.mixers.filter((one) => one.layer === layer).length > 1;
  const mixed = new Set(GALLERY.mixers.map((one) => one.kind)).size > 1;
  document.getElementById("heads-layer").replaceChildren(...GALLERY.mixers.map(({ layer, kind }, value) => {
    return element("option", { value, textContent: mixed || several(layer) ? `${layer} ${kind}` : String(layer) });
  }));
  document.getElementById("heads-layer").addEventListener("change", (event) => chooseMixer(Number(event.target.value)));
  document.getElementById("heads-order").addEventListener("change", () => { buildHeads(); noteView(currentView); });
  const [rows, span] = GALLERY.rows, marks = GALLERY.read === null ? "" : `; separator on the text ‘${GALLERY.read}’`;
  document.getElementById("heads-measured").textContent = `What heads do is not measured on this page’s text, but on ${rows} rows of ${span} random tokens, written twice${marks}. `
    + `A label needs a lift of ${GALLERY.lift}: each such source has so many times the weight of its neighbours; and a share of the weight: `
    + `${GALLERY.labels.map(({ name, share, sources }) => `${name}, ${sources}, ${Math.round(100 * share)} %`).join("; ")}. `
    + "A head without a label may be local: 90 % of its weight on the nearest third of the tokens that a target sees, its memory the mean distance; "
    + "or diffuse: as many tokens share the weight as half of those. Untrained heads may be either. Distance is the mean from target to source, weighted, in tokens.";
  darkness.addEventListener("change", () => { buildHeads(); drawHead(); });
  listenToHead();
  offerPictures(document.getElementById("heads-save"), headsScene, () => `heads-layer${mixer().layer}`);
  return chooseMixer(0);
}

keepers.push({ view: headsView, restore: restoreHeads });
startHeads();
