// Scores as ink over the picture: its colours multiplied by white for no score, by a deeper colour for a larger one.

const grounds = { pale: null, full: null };  // the picture in pale grey, and as it is

async function loadPicture() {
  const image = new Image();
  image.src = `data:${RESULT.picture.mime};base64,${document.getElementById("picture").textContent}`;
  await image.decode();
  for (const name of ["full", "pale"]) {
    const canvas = document.createElement("canvas"), context = canvas.getContext("2d");
    canvas.width = RESULT.picture.width;
    canvas.height = RESULT.picture.height;
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    if (name === "pale") {
      const pixels = context.getImageData(0, 0, canvas.width, canvas.height), { data } = pixels;
      for (let at = 0; at < data.length; at += 4) {
        const grey = 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2];
        data[at] = data[at + 1] = data[at + 2] = 255 * RESULT.palest + (1 - RESULT.palest) * grey;
      }
      context.putImageData(pixels, 0, 0);
    }
    grounds[name] = canvas;
  }
}

// For every pixel along an axis the two cells it lies between, and how far from the first: between the patches' centres,
// as overlay.py does, or between the centres of the pixels that the model read.
function cellsBetween(pixels, cells, patches, smooth) {
  const covered = patches ? GRID.patch + (cells - 1) * GRID.stride : cells;
  const middle = patches ? GRID.patch / 2 : 0.5, step = patches ? GRID.stride : 1;
  return Array.from({ length: pixels }, (_, k) => {
    const at = Math.min(Math.max((((k + 0.5) * covered) / pixels - middle) / step, 0), cells - 1);
    if (!smooth) return { low: Math.round(at), high: Math.round(at), share: 0 };
    const low = Math.min(Math.floor(at), Math.max(cells - 2, 0));
    return { low, high: Math.min(low + 1, cells - 1), share: at - low };
  });
}

// The code of a score's colour: zero for no colour.
function codeOf(score, largest, smallest) {
  const share = largest > smallest ? (smallest > 0 ? Math.max(score - smallest, 0) : score) / (largest - smallest) : 0;
  return Math.round(Math.sign(share) * Math.min(Math.sqrt(Math.abs(share)), 1) * CODES);
}

// The colours of scores at every pixel of a canvas.
function ink({ values, rows, columns, largest, smallest }, width, height, smooth) {
  const canvas = document.createElement("canvas"), patches = rows === GRID.rows && columns === GRID.columns;
  canvas.width = width;
  canvas.height = height;
  const image = new ImageData(width, height), words = new Uint32Array(image.data.buffer), { pixels } = colours();
  const across = cellsBetween(width, columns, patches, smooth), down = cellsBetween(height, rows, patches, smooth);
  down.forEach(({ low: top, high: bottom, share: y }, row) => {
    across.forEach(({ low, high, share: x }, column) => {
      const above = values[top * columns + low] * (1 - x) + values[top * columns + high] * x;
      const below = values[bottom * columns + low] * (1 - x) + values[bottom * columns + high] * x;
      const score = above * (1 - y) + below * y;
      words[row * width + column] = pixels[codeOf(score, largest, smallest) + CODES];
    });
  });
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

// Draw picture and ink on a context that has this many units across and down.
function layOver(context, scores, width, height, { smooth, grey, opacity }) {
  const ground = grey ? grounds.pale : grounds.full;
  context.imageSmoothingEnabled = ground.width * 2 > width;  // a tiny picture shows its pixels
  context.drawImage(ground, 0, 0, width, height);
  context.imageSmoothingEnabled = true;
  context.globalCompositeOperation = "multiply";
  context.globalAlpha = opacity;
  context.drawImage(ink(scores, Math.round(width), Math.round(height), smooth), 0, 0, width, height);
  context.globalCompositeOperation = "source-over";
  context.globalAlpha = 1;
}

function outline(context, place, width, height, strokes) {
  const right = width / GRID.size[1], down = height / GRID.size[0];
  const box = [place.column * GRID.stride * right, place.row * GRID.stride * down, GRID.patch * right, GRID.patch * down];
  for (const [stroke, thick] of strokes) {
    context.strokeStyle = stroke;
    context.lineWidth = thick;
    context.strokeRect(...box);
  }
}

// The patch whose centre is nearest to a point, in shares of the picture.
function patchUnder(x, y) {
  const nearest = (share, cells, covered) => Math.min(Math.max(Math.round((share * covered - GRID.patch / 2) / GRID.stride), 0), cells - 1);
  return { row: nearest(y, GRID.rows, GRID.size[0]), column: nearest(x, GRID.columns, GRID.size[1]) };
}
