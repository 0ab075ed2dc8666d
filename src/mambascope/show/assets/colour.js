// Colours for codes from -127 to 127, on a light or a dark background; the anchors come from palette.py.

const darkness = window.matchMedia("(prefers-color-scheme: dark)");
const theme = () => (darkness.matches ? "dark" : "light");
const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const tables = {};

const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

function between(anchors, share) {
  const at = share * (anchors.length - 1), low = Math.min(Math.floor(at), anchors.length - 2);
  const from = channels(anchors[low]), to = channels(anchors[low + 1]);
  return from.map((value, c) => Math.round(value + (to[c] - value) * (at - low)));
}

// Relative luminance decides between dark and light letters.
function letters([r, g, b]) {
  const linear = [r, g, b].map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  const luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  return luminance > 0.19 ? "#0b0e12" : "#ffffff";
}

// One theme's colours, indexed by code + CODES: css for the text, packed RGBA for canvases.
function colours() {
  const name = theme();
  if (!tables[name]) {
    const css = [], ink = [], pixels = new Uint32Array(2 * CODES + 1);
    for (let code = -CODES; code <= CODES; code++) {
      const rgb = between(RESULT.palette[name][code < 0 ? "negative" : "positive"], Math.abs(code) / CODES);
      css.push(`rgb(${rgb.join(", ")})`);
      ink.push(letters(rgb));
      pixels[code + CODES] = (255 << 24) | (rgb[2] << 16) | (rgb[1] << 8) | rgb[0];
    }
    const [r, g, b] = channels(variable("--future"));
    tables[name] = { css, ink, pixels, future: ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0 };
  }
  return tables[name];
}

// The colours from zero (signed: from the most negative score) to the largest, one pixel high.
function scaleCanvas(signed) {
  const canvas = document.createElement("canvas"), { pixels } = colours();
  const first = signed ? -CODES : 0;
  canvas.width = CODES - first + 1;
  canvas.height = 1;
  const image = new ImageData(canvas.width, 1), words = new Uint32Array(image.data.buffer);
  for (let code = first; code <= CODES; code++) words[code - first] = pixels[code + CODES];
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

function drawLegend(box, largest, signed, note, smallest = 0) {
  const canvas = scaleCanvas(signed);
  canvas.setAttribute("aria-hidden", "true");
  box.replaceChildren(formatScore(signed ? -largest : smallest), canvas, formatScore(largest) + (note ? ` ${note}` : ""));
  box.title = "The colour follows the square root of the score: half the colour is a quarter of the largest score.";
}
