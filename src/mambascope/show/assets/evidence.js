// How far to trust the scores, and the command that reproduces them.

// Facts that have an entry of their own, or appear elsewhere on the page.
const TOLD = [
  "reconstruction_error", "reconstruction_error_per_layer", "conservation_error", "completeness_error", "terms", "biases_per_layer",
  "pixel_share", "residual", "caution", "seconds", "seconds_capture", "seconds_in_all", "value", "command", "written", "text", "layer_kinds", "direct_by_kind", "share_by_kind", "verified", "seconds_verified", "lens",
];

function showEvidence(method) {
  const list = document.getElementById("evidence"), facts = method.diagnostics, entries = [];
  const add = (name, ...content) => entries.push(element("dt", { textContent: name }), element("dd", {}, ...content));
  const model = method.model;
  add("model", `${model.name}: ${model.class_name}, family ${model.family}, ${model.layers} layers, width ${model.hidden_size}`);
  add("method", method.title ? `${method.name}: ${method.title}. ${method.paper}` : method.name);
  add("measured", element("ul", {}, ...method.evidence.map((clause) => element("li", { textContent: clause }))));
  if (facts.caution) add("caution", facts.caution);
  const perLayer = (name, says, values, format) => {
    if (!Array.isArray(values) || !values.length) return;
    const layers = values.length === method.layers.length ? method.layers : values.map((_, k) => k);
    add(name, says, element("ol", {}, ...values.map((value, k) => element("li", { textContent: `layer ${layers[k]}: ${format(value)}` }))));
  };
  perLayer("biases, layer by layer", "the part of the number explained that is due to each layer's biases", facts.biases_per_layer, formatScore);
  perLayer("rebuilt, layer by layer", "the relative error with which each layer's output was rebuilt", facts.reconstruction_error_per_layer, small);
  add("time taken", method.time);
  for (const [key, value] of Object.entries(facts)) {
    const number = typeof value === "number" ? String(Number(value.toPrecision(4))) : null;
    if (!TOLD.includes(key)) add(key.replaceAll("_", " "), number ?? (typeof value === "string" ? value : JSON.stringify(value)));
  }
  add("numbers in this page", `the top ${TOP} sources of every target are exact; other scores (≈) are rounded to about 1 % `
    + "of their row's largest.");
  add("made by", RESULT.command ? element("pre", { textContent: RESULT.command }) : "a call from Python; no command was recorded",
    ` The page opens with ${RESULT.methods[0].name}.${mapHint()}${removalHint()}`);
  list.replaceChildren(...entries);
}

// Where no method shows every position, the command says how to get them.
function mapHint() {
  const every = RESULT.methods.some(({ targets }) => targets.length === TOKENS);
  return every || !RESULT.command ? "" : " For the sources of every position add --positions all.";
}

// Where nothing was measured by removing sources, the command says how to.
function removalHint() {
  const measured = RESULT.methods.some(({ diagnostics }) => diagnostics.verified || diagnostics.merged || "stage" in diagnostics);
  return measured || !RESULT.command ? "" : " For what is lost without the top sources add --verify 8.";
}

const small = (error) => (typeof error === "number" ? error.toExponential(1) : String(error));
