// What is shown beside the text or the picture: what the method shows, the top sources in numbers, each layer's part.

const element = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};

// top: what `topSources` gives for the target at a position, of `count` sources in all; place: the target's position.
function showSources(position, top, count, follow, place = position) {
  const { verified, conservation_error: adds } = method().diagnostics, removable = typeof offerRemoval === "function";
  if (removable) offerRemoval(verified?.find((one) => one.position === place), typeof adds === "number");
  const table = document.getElementById("sources"), largest = Math.abs(top[0]?.score ?? 0);
  table.dataset.target = position;
  document.getElementById("sources-title").textContent = `Top sources of ${targetName(position)}`;
  const rows = top.map(({ position: j, score, share }, rank) => {
    const name = element("button", { type: "button", textContent: sourceName(j), title: goTo(j) });
    name.addEventListener("click", () => follow(j));
    const bar = element("div", { className: score < 0 ? "minus" : "" });
    bar.style.width = `${largest > 0 ? (100 * Math.abs(score)) / largest : 0}%`;
    const row = element("tr", {},
      element("td", { textContent: rank + 1 }),
      element("td", {}, name, element("span", { className: "place", textContent: sourcePlace(j) })),
      element("td", { className: "number", textContent: formatScore(score), title: String(score) }),
      element("td", { className: "number", textContent: formatShare(share) }),
      element("td", { className: "bar" }, bar), removable ? removeButton(j) : element("td"));
    Object.assign(row.dataset, { position: j, score: String(score), share: String(share) });
    row.addEventListener("mouseenter", () => mark(j, true));
    row.addEventListener("mouseleave", () => mark(j, false));
    return row;
  });
  const others = count - top.length;
  if (others > 0) {
    const rest = Math.max(0, 1 - top.reduce((sum, { share }) => sum + share, 0));
    rows.push(element("tr", { className: "rest" },
      element("td"), element("td", { textContent: `${others} other${others > 1 ? "s" : ""}` }), element("td"),
      element("td", { className: "number", textContent: formatShare(rest) }), element("td"), element("td")));
  }
  unmark();
  table.tBodies[0].replaceChildren(...rows);
  if (removable && removal.entry) showRemoval();
}

// What a method's scores mean, and the caution about them, if any.
function showMethod({ name, title, paper, diagnostics }) {
  document.getElementById("method-says").textContent = title ? `${name}: ${title} (${paper}).` : name;
  const caution = document.getElementById("caution");
  caution.hidden = !diagnostics.caution;
  caution.textContent = diagnostics.caution ? `Caution: ${diagnostics.caution}.` : "";
}

// A method as the list of methods names it: those that explain every position say so.
const methodOption = ({ name, targets }) => (targets.length === 1 ? name : `${name}, ${targets.length === TOKENS ? "every position" : `${targets.length} positions`}`);

function buildBars(select) {
  const { layers } = method(), step = Math.ceil(layers.length / 24);
  const bars = layers.map((layer, k) => {
    const bar = element("button", { type: "button" }, element("div"),
      element("span", { textContent: k % step === 0 ? layer : "" }));
    bar.addEventListener("click", () => select(k + 1));
    return bar;
  });
  const box = document.getElementById("bars");
  box.replaceChildren(...bars);
  roveButtons(box);
}

// totals: blocks × targets, the sum of absolute scores of every row, of which those from first to last are added up;
// block 0 is the mean and has no bar.
function showBars(totals, first, last, block) {
  const { layers, targets } = method(), rows = Array.from({ length: last - first + 1 }, (_, k) => first + k);
  const masses = layers.map((_, k) => rows.reduce((sum, t) => sum + totals[(k + 1) * targets.length + t], 0));
  const sum = masses.reduce((a, b) => a + b, 0) || 1, largest = Math.max(...masses) || 1;
  [...document.getElementById("bars").children].forEach((bar, k) => {
    const says = `${layerName(k + 1)}: ${formatShare(masses[k] / sum)} of what all layers carried (${formatScore(masses[k])})`;
    bar.firstChild.style.height = `${Math.max(1, (72 * masses[k]) / largest)}px`;
    bar.title = says;
    bar.setAttribute("aria-label", says);
    bar.setAttribute("aria-pressed", String(block === k + 1));
    bar.dataset.mass = String(masses[k]);
  });
}

function layerName(block) {
  const { layers, kinds, over } = method(), kind = kinds?.[block - 1];
  if (layers.length === 1) return layers[0] === "all" ? "whole model" : `layer ${layers[0]}`;
  if (block === 0) return `${over} of ${layers.length} layers`;
  return `layer ${layers[block - 1]}${kind ? ` (${kind})` : ""}`;
}

// One stop for the Tab key in a row of buttons; the arrow keys move along it.
function roveButtons(box) {
  const buttons = [...box.children];
  buttons.forEach((button, k) => { button.tabIndex = k ? -1 : 0; });
  box.onkeydown = (event) => {
    const at = buttons.indexOf(document.activeElement);
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (at < 0 || to === undefined || !buttons[to]) return;
    buttons[at].tabIndex = -1;
    buttons[to].tabIndex = 0;
    buttons[to].focus();
    event.preventDefault();
    event.stopPropagation();
  };
}
