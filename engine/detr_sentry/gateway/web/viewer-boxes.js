/** Geometry and drawing of detections over a letterboxed picture. All coordinates are CSS pixels. */

/** Line and label background, and the text on it, by what the box means; each pair has a contrast above 4.5. */
const COLOURS = {
  standby: ["#8fe3ba", "#06281a"],
  validating: ["#ffc857", "#2e1f00"],
  alarmed: ["#ff6b5e", "#2b0300"],
};
const FONT_PX = 13;
const LABEL_PX = 20;

/** The largest rectangle of `width:height` that fits in the middle of the stage: `{x, y, width, height}`. */
export function containRect(stageWidth, stageHeight, width, height) {
  const scale = Math.min(stageWidth / width, stageHeight / height);
  const shown = { width: width * scale, height: height * scale };
  return { x: (stageWidth - shown.width) / 2, y: (stageHeight - shown.height) / 2, ...shown };
}

/** A detection's box, given in pixels of the source picture, on a picture shown at `rect`. */
export function placeBox(box, sourceWidth, sourceHeight, rect) {
  const sx = rect.width / sourceWidth;
  const sy = rect.height / sourceHeight;
  return {
    x: rect.x + box.x1 * sx,
    y: rect.y + box.y1 * sy,
    width: (box.x2 - box.x1) * sx,
    height: (box.y2 - box.y1) * sy,
  };
}

/** What stands above a box: label, score in percent, and the track's number once there is one. */
export function boxText({ label, class_id: classId, confidence, track_id: trackId }) {
  const name = label || `class ${classId}`;
  return `${name} ${Math.round(confidence * 100)} %${trackId ? ` · #${trackId}` : ""}`;
}

function corners(context, { x, y, width, height }) {
  const reach = Math.min(22, width / 3, height / 3);
  const path = new Path2D();
  for (const [cx, cy, dx, dy] of [
    [x, y, 1, 1],
    [x + width, y, -1, 1],
    [x + width, y + height, -1, -1],
    [x, y + height, 1, -1],
  ]) {
    path.moveTo(cx + dx * reach, cy);
    path.lineTo(cx, cy);
    path.lineTo(cx, cy + dy * reach);
  }
  context.stroke(path);
}

/** Clear the overlay and draw `detections` of a picture of `source` pixels `{width, height}` shown at `rect`. */
export function drawBoxes(context, { detections, source, rect, state }) {
  const { canvas } = context;
  const [line, ink] = COLOURS[state] ?? COLOURS.standby;
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.font = `600 ${FONT_PX}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  context.lineJoin = context.lineCap = "round";
  for (const detection of detections) {
    const box = placeBox(detection, source.width, source.height, rect);
    context.strokeStyle = "rgb(0 0 0 / 35%)";
    context.lineWidth = 4;
    context.strokeRect(box.x, box.y, box.width, box.height);
    context.strokeStyle = line;
    context.lineWidth = 2;
    context.strokeRect(box.x, box.y, box.width, box.height);
    context.lineWidth = 3.5;
    corners(context, box);

    const text = boxText(detection);
    const width = context.measureText(text).width + 12;
    const x = Math.max(rect.x, Math.min(box.x, rect.x + rect.width - width));
    const y = box.y - LABEL_PX - 4 >= rect.y ? box.y - LABEL_PX - 4 : Math.max(rect.y, box.y) + 4;
    context.fillStyle = line;
    context.beginPath();
    context.roundRect(x, y, width, LABEL_PX, 5);
    context.fill();
    context.fillStyle = ink;
    context.fillText(text, x + 6, y + LABEL_PX / 2 + 0.5);
  }
}
