// How far to trust the scores, and the command that makes them again.

function showEvidence(method) {
  const list = document.getElementById("evidence"), facts = method.diagnostics, entries = [];
  const add = (name, ...content) => entries.push(element("dt", { textContent: name }), element("dd", {}, ...content));
  const model = method.model;
  add("model", `${model.name}: ${model.class_name}, family ${model.family}, ${model.layers} layers, width ${model.hidden_size}`);
  add("method", method.name);
  if (facts.reconstruction_error !== undefined) {
    add("reconstruction error", `${small(facts.reconstruction_error)}: the largest relative error with which the operators `
      + "behind these scores rebuilt what the explained layers computed");
  }
  const perLayer = facts.reconstruction_error_per_layer;
  if (Array.isArray(perLayer) && perLayer.length === method.layers.length) {
    const lines = perLayer.map((error, k) => element("li", { textContent: `layer ${method.layers[k]}: ${small(error)}` }));
    add("… layer by layer", element("ol", {}, ...lines));
  }
  if (facts.seconds !== undefined) add("time taken", `${Number(Number(facts.seconds).toPrecision(3))} s`);
  for (const [key, value] of Object.entries(facts)) {
    const told = ["reconstruction_error", "reconstruction_error_per_layer", "seconds", "command", "written", "text", "layer_kinds"];
    const number = typeof value === "number" ? String(Number(value.toPrecision(4))) : null;
    if (!told.includes(key)) add(key.replaceAll("_", " "), number ?? (typeof value === "string" ? value : JSON.stringify(value)));
  }
  add("numbers in this page", `the top ${TOP} sources of every target are exact; other scores (≈) are rounded to about 1 % `
    + "of their row's largest. A share is a score's size over the sum of all sizes in its row.");
  add("made by", RESULT.command ? element("pre", { textContent: RESULT.command }) : "a call from Python; no command was recorded");
  list.replaceChildren(...entries);
}

const small = (error) => (typeof error === "number" ? error.toExponential(1) : String(error));
