// One small map per layer, and one for all together.

function buildStrip(select) {
  const { layers, kinds, over } = method();
  const maps = [0, ...layers.map((_, k) => k + 1)].map((block) => {
    const short = block === 0 ? over : String(layers[block - 1]), kind = kinds?.[block - 1];
    const button = element("button", { type: "button", title: `Enlarge ${layerName(block)}` },
      element("canvas"), element("span", { textContent: kind ? `${short} ${kind}` : short }));
    button.setAttribute("aria-label", layerName(block));
    button.addEventListener("click", () => select(block));
    return button;
  });
  const box = document.getElementById("strip");
  box.replaceChildren(...maps);
  roveButtons(box);
}

function drawStrip() {
  const { pixels } = colours(), rows = Math.min(method().targets.length, RESULT.thumbnail), columns = Math.min(TOKENS, RESULT.thumbnail);
  const codes = method().thumbs;
  [...document.getElementById("strip").children].forEach((button, block) => {
    const canvas = button.firstChild, image = new ImageData(columns, rows), words = new Uint32Array(image.data.buffer);
    canvas.width = columns;
    canvas.height = rows;
    for (let at = 0; at < words.length; at++) words[at] = pixels[codes[block * words.length + at] + CODES];
    canvas.getContext("2d").putImageData(image, 0, 0);
  });
}
