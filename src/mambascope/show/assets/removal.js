// Removing a source: what its score predicts, beside what the number explained lost when the source was removed.

const CUTS = [
  { key: "knockout", name: "cut", says: "the mixers pass nothing from it" },
  { key: "occlusion", name: "zeroed", says: "its embedding is zero" },
];
const removal = { entry: null, source: null, adds: false };
const removalBox = document.createElement("div");
Object.assign(removalBox, { id: "removal", hidden: true });
document.getElementById("sources").after(removalBox);

// entry: what was measured for the target in focus, if anything; adds: whether scores add up to the number, so that
// they predict its drop in its own unit.
function offerRemoval(entry, adds) {
  removal.entry = entry ?? null;
  removal.adds = adds;
  removalBox.hidden = !entry;
  document.getElementById("sources").classList.toggle("removable", Boolean(entry));
  if (!entry) return;
  if (!entry.sources.includes(removal.source)) removal.source = null;
  showRemoval();
}

const canRemove = (j) => Boolean(removal.entry?.sources.includes(j));

function remove(j) {
  if (!canRemove(j)) return;
  removal.source = removal.source === j ? null : j;
  showRemoval();
  noteView(currentView);
}

function removeButton(j) {
  const cell = element("td");
  if (!canRemove(j)) return cell;
  const button = element("button", { type: "button", className: "remove", textContent: "remove" });
  button.setAttribute("aria-label", `Remove ${sourceName(j)} at ${sourcePlace(j).trim()}`);
  button.addEventListener("click", () => remove(j));
  cell.append(button);
  return cell;
}

function showRemoval() {
  const { entry, source } = removal, k = entry.sources.indexOf(source);
  document.querySelectorAll("#sources .remove").forEach((button) => {
    const on = Number(button.closest("tr").dataset.position) === source;
    button.textContent = on ? "put back" : "remove";
    button.setAttribute("aria-pressed", String(on));
  });
  const says = element("p", { id: "removal-says" });
  says.setAttribute("role", "status");
  says.textContent = k < 0 ? `Remove a source to see what the ${entry.asked} loses without it.` : lossSays(entry, k);
  const parts = [element("h3", { textContent: "Predicted and measured" }), says];
  if (k >= 0) parts.push(lossBars(entry, k));
  parts.push(lossPlot(entry), element("p", { className: "how", textContent: agreementSays(entry) }));
  removalBox.replaceChildren(...parts);
}

const falls = (drop) => (drop === null ? "cannot be measured" : `${drop < 0 ? "rises" : "falls"} by ${formatScore(Math.abs(drop))}`);

function lossSays(entry, k) {
  const j = entry.sources[k], score = entry.scores[k];
  const predicted = removal.adds ? `its score predicts that the ${entry.asked} ${falls(score)}` : `its score is ${formatScore(score)}`;
  const measured = CUTS.map(({ key, says }) => `where ${says}, it ${falls(entry[key][k])}`);
  return `Without ${sourceName(j)}${sourcePlace(j)}: ${predicted}; measured, ${measured.join("; ")}.`;
}

// Bars to the left or right of zero: the prediction and both measurements, on one scale if they have one unit.
function lossBars(entry, k) {
  const lines = [{ name: "predicted", value: entry.scores[k], all: entry.scores, own: !removal.adds },
    ...CUTS.map(({ key, name }) => ({ name, value: entry[key][k], all: entry[key], own: false }))];
  const most = (values) => Math.max(...values.map((value) => Math.abs(value ?? 0)), 1e-30);
  const shared = most(lines.filter(({ own }) => !own).flatMap(({ all }) => all));
  const list = element("dl", { className: "losses" });
  for (const { name, value, all, own } of lines) {
    const bar = element("div", { className: value < 0 ? "minus" : "" }), share = Math.abs(value ?? 0) / (own ? most(all) : shared);
    bar.style.width = `${50 * share}%`;
    bar.style.marginLeft = `${value < 0 ? 50 - 50 * share : 50}%`;
    list.append(element("dt", { textContent: name }), element("dd", {}, bar),
      element("dd", { className: "number", textContent: value === null ? "–" : formatScore(value) }));
  }
  return list;
}

const PLOT = 150, EDGE = 8;

// One dot for each removed source: its score to the right, what was lost without it upwards.
function lossPlot(entry) {
  const drops = CUTS.flatMap(({ key }) => entry[key]).filter((one) => one !== null);
  const across = scaled(entry.scores), upwards = scaled(drops);
  const x = (value) => EDGE + across(value) * (PLOT - 2 * EDGE), y = (value) => PLOT - EDGE - upwards(value) * (PLOT - 2 * EDGE);
  const root = drawn("svg", { viewBox: `0 0 ${2 * PLOT} ${PLOT}`, role: "img", "aria-label": plotSays(entry), class: "losses-plot" });
  drawn("line", { x1: x(0), x2: x(0), y1: 0, y2: PLOT }, root);
  drawn("line", { x1: 0, x2: PLOT, y1: y(0), y2: y(0) }, root);
  entry.sources.forEach((j, k) => {
    for (const { key, name } of CUTS) {
      if (entry[key][k] === null) continue;
      const at = { cx: x(entry.scores[k]), cy: y(entry[key][k]), r: j === removal.source ? 6 : 4, class: `${name}${j === removal.source ? " chosen" : ""}` };
      const dot = drawn("circle", at, root);
      drawn("title", {}, dot).textContent = `${sourceName(j)}${sourcePlace(j)}: score ${formatScore(entry.scores[k])}, ${name} ${formatScore(entry[key][k])}`;
      dot.addEventListener("click", () => remove(j));
    }
  });
  CUTS.forEach(({ name }, k) => {
    drawn("circle", { cx: PLOT + 14, cy: 20 + 20 * k, r: 4, class: name }, root);
    drawn("text", { x: PLOT + 24, y: 24 + 20 * k }, root).textContent = `lost when ${name}`;
  });
  drawn("text", { x: PLOT + 8, y: 74 }, root).textContent = "→ score";
  drawn("text", { x: PLOT + 8, y: 94 }, root).textContent = `↑ ${formatScore(Math.max(...drops, 0))}`;
  drawn("text", { x: PLOT + 8, y: 112 }, root).textContent = `↓ ${formatScore(Math.min(...drops, 0))}`;
  return root;
}

// From values, zero among them, to 0 … 1.
function scaled(values) {
  const least = Math.min(...values, 0), most = Math.max(...values, 0);
  return (value) => (most > least ? (value - least) / (most - least) : 0.5);
}

const plotSays = ({ sources }) => `What ${sources.length} removed sources predicted, to the right, and what was lost without them, upwards`;

function agreementSays({ sources, rank_correlation: agreement }) {
  const known = CUTS.filter(({ key }) => agreement[key] !== null).map(({ key, name }) => `${name} ${agreement[key].toFixed(2).replace("-", "\u2212")}`);
  const where = removal.adds ? "" : " The score is in a unit of its own.";
  return `${sources.length} sources were removed, one at a time${known.length ? `; rank correlation with the scores: ${known.join(", ")}` : ""}.${where}`;
}
