// Input on the map: wheel, drag, click and keys.

function listenToMap({ redraw, say, choose }) {
  let drag = null;
  mapCanvas.addEventListener("wheel", (event) => {
    const point = cellAt(event);
    if (!point || (event.deltaY > 0 && view.zoom <= 1)) return;  // fully out: let the page scroll
    event.preventDefault();
    zoomBy(Math.exp(-event.deltaY * 0.002), point);
    redraw();
  }, { passive: false });
  mapCanvas.addEventListener("pointerdown", (event) => {
    drag = { x: event.clientX, y: event.clientY, fromX: view.x, fromY: view.y, moved: false };
    mapCanvas.setPointerCapture(event.pointerId);
  });
  mapCanvas.addEventListener("pointermove", (event) => {
    if (drag && (drag.moved || Math.hypot(event.clientX - drag.x, event.clientY - drag.y) > 4)) {
      drag.moved = true;
      const stretch = view.width / mapCanvas.getBoundingClientRect().width;
      view.x = drag.fromX - ((event.clientX - drag.x) * stretch) / cellWidth();
      view.y = drag.fromY - ((event.clientY - drag.y) * stretch) / cellHeight();
      clampView();
    } else {
      view.cursor = cellAt(event);
      say();
    }
    redraw();
  });
  mapCanvas.addEventListener("pointerup", (event) => {
    const cell = cellAt(event);
    if (drag && !drag.moved && cell) choose(cell.row);
    drag = null;
  });
  mapCanvas.addEventListener("pointercancel", () => { drag = null; });
  mapCanvas.addEventListener("pointerleave", () => { view.cursor = null; say(); redraw(); });
  mapCanvas.addEventListener("keydown", (event) => {
    if (moveByKey(event.key, choose)) {
      event.preventDefault();
      event.stopPropagation();
      say();
      redraw();
    }
  });
  const press = (id, act) => document.getElementById(id).addEventListener("click", () => { act(); redraw(); });
  press("zoom-in", () => zoomBy(1.6));
  press("zoom-out", () => zoomBy(1 / 1.6));
  press("zoom-fit", () => zoomBy(0));
}

function moveByKey(key, choose) {
  const { grid } = view;
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  if (steps[key]) {
    const from = view.cursor ?? { row: grid.rows - 1, column: grid.columns - 1 };
    const [down, right] = view.cursor ? steps[key] : [0, 0];
    const row = Math.min(Math.max(from.row + down, 0), grid.rows - 1);
    const column = Math.min(Math.max(from.column + right, 0), grid.columns - 1);
    view.cursor = { row, column };
    showCursor();
  } else if (key === "+" || key === "=") zoomBy(1.6);
  else if (key === "-") zoomBy(1 / 1.6);
  else if (key === "0") zoomBy(0);
  else if ((key === "Enter" || key === " ") && view.cursor) choose(view.cursor.row);
  else return false;
  return true;
}
