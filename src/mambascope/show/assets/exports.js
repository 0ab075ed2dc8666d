// Saving what is shown: pictures as PNG, SVG or PDF, and the scores of one target as CSV or JSON.

const KINDS = { PNG: savePng, SVG: saveSvg, PDF: savePdf };

// Fill a place with a button for each kind of picture. scene, name: return the picture, or promise it, and its file's name.
function offerPictures(place, scene, name) {
  place.append("Save as ", ...Object.entries(KINDS).flatMap(([kind, save]) => {
    const button = element("button", { type: "button", textContent: kind, id: `${place.id}-${kind.toLowerCase()}` });
    button.addEventListener("click", async () => save(await scene(), name()));
    return [button, " "];
  }));
}

// The same for the row in focus. row: returns its sources, each a position, a token, a score, and whether it is exact.
function offerRow(place, row, facts, name) {
  const kinds = {
    CSV: () => [csvOf(row()), "text/csv"],
    JSON: () => [`${JSON.stringify({ ...facts(), sources: row() }, null, 1)}\n`, "application/json"],
  };
  place.append("Save these scores as ", ...Object.entries(kinds).flatMap(([kind, made]) => {
    const button = element("button", { type: "button", textContent: kind, id: `row-${kind.toLowerCase()}` });
    button.addEventListener("click", () => {
      const [text, type] = made();
      download(new Blob([text], { type }), `${name()}.${kind.toLowerCase()}`);
    });
    return [button, " "];
  }));
}

function csvOf(row) {
  const field = (value) => (/[",\r\n]/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : String(value));
  return [["position", "token", "score", "exact"], ...row.map((one) => [one.position, one.token, one.score, one.exact])]
    .map((line) => line.map(field).join(",")).join("\r\n") + "\r\n";
}

function savePng(scene, name) {
  painted(scene, 2).toBlob((blob) => download(blob, `${name}.png`));
}

function saveSvg(scene, name) {
  download(new Blob([scene.svg ?? toSvg(scene)], { type: "image/svg+xml" }), `${name}.svg`);
}

async function savePdf(scene, name) {
  download(new Blob([await toPdf(scene)], { type: "application/pdf" }), `${name}.pdf`);
}

// The bars of the layers.
function barsScene() {
  const wide = 30, high = 90, ink = variable("--ink"), items = [];
  [...document.getElementById("bars").children].forEach((bar, k) => {
    const tall = parseFloat(bar.firstChild.style.height), x = 12 + k * wide;
    items.push({ kind: "rect", x, y: high - tall, width: wide - 4, height: tall, fill: getComputedStyle(bar.firstChild).backgroundColor },
      { kind: "text", x: x + (wide - 4) / 2, y: high + 14, string: bar.lastChild.textContent, fill: ink, size: 11, anchor: "middle" });
  });
  const { children } = document.getElementById("bars");
  items.push({ kind: "text", x: 12, y: high + 32, string: "layer", fill: ink, size: 11 });
  return { width: Math.max(24 + children.length * wide, 120), height: high + 40, ground: variable("--ground"), items };
}

function painted(scene, scale) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(scene.width * scale);
  canvas.height = Math.round(scene.height * scale);
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  paint(context, scene);
  return canvas;
}

// One page that holds the picture, four dots to the pixel of the screen: letters of any script look as they do here.
async function toPdf(scene) {
  const canvas = painted(scene, 4), { width, height } = canvas;
  const { data } = canvas.getContext("2d").getImageData(0, 0, width, height), colours = new Uint8Array(3 * width * height);
  for (let at = 0; at < width * height; at++) colours.set(data.subarray(4 * at, 4 * at + 3), 3 * at);
  const packing = new Blob([colours]).stream().pipeThrough(new CompressionStream("deflate"));
  const packed = new Uint8Array(await new Response(packing).arrayBuffer());
  const [wide, high] = [scene.width, scene.height].map((pixels) => (0.75 * pixels).toFixed(2));
  const drawing = `${wide} 0 0 ${high} 0 0 cm /Picture Do`;
  const objects = [
    ["<< /Type /Catalog /Pages 2 0 R >>"],
    ["<< /Type /Pages /Kids [3 0 R] /Count 1 >>"],
    [`<< /Type /Page /Parent 2 0 R /MediaBox [0 0 ${wide} ${high}] /Contents 4 0 R /Resources << /XObject << /Picture 5 0 R >> >> >>`],
    [`<< /Length ${drawing.length} >>\nstream\n${drawing}\nendstream`],
    [`<< /Type /XObject /Subtype /Image /Width ${width} /Height ${height} /ColorSpace /DeviceRGB /BitsPerComponent 8 /Filter /FlateDecode `
      + `/Length ${packed.length} >>\nstream\n`, packed, "\nendstream"],
  ];
  const parts = [], places = [], add = (part) => { parts.push(typeof part === "string" ? new TextEncoder().encode(part) : part); };
  const length = () => parts.reduce((sum, part) => sum + part.length, 0);
  add("%PDF-1.4\n");
  objects.forEach((object, k) => {
    places.push(length());
    add(`${k + 1} 0 obj\n`);
    object.forEach(add);
    add("\nendobj\n");
  });
  const table = length(), entry = (place) => `${String(place).padStart(10, "0")} 00000 n \n`;
  add(`xref\n0 ${objects.length + 1}\n0000000000 65535 f \n${places.map(entry).join("")}trailer\n<< /Size ${objects.length + 1} /Root 1 0 R >>\nstartxref\n${table}\n%%EOF\n`);
  return new Blob(parts);
}

function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
