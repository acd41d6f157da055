/** Geometry and drawing of detections over a letterboxed picture. All coordinates are CSS pixels. */

/** Line and label background, and the text on it, by what the box means; each pair has a contrast above 4.5. */
const COLOURS = {
  standby: ["#8fe3ba", "#06281a"],
  validating: ["#ffc857", "#2e1f00"],
  alarmed: ["#ff6b5e", "#2b0300"],
};
const FONT_PX = 13;
const LABEL_PX = 20;
const MARGIN_PX = 6;

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

const overlaps = (one, other) =>
  one.x < other.x + other.width && other.x < one.x + one.width && Math.abs(one.y - other.y) < LABEL_PX;

/** A free place for a label of `width` at its box: above it, else below, else inside; null if all are taken. */
export function placeLabel(box, width, rect, taken) {
  const x = Math.max(rect.x + MARGIN_PX, Math.min(box.x, rect.x + rect.width - width - MARGIN_PX));
  const places = [box.y - LABEL_PX - 4, box.y + box.height + 4, Math.max(rect.y, box.y) + 4]
    .filter((y) => y >= rect.y && y + LABEL_PX <= rect.y + rect.height)
    .map((y) => ({ x, y, width }));
  return places.find((place) => !taken.some((other) => overlaps(place, other))) ?? null;
}

/** Below this score, and followed as no track, a detection is a guess: drawn faintly and without words. */
const SURE = 0.5;
const isGuess = ({ confidence, track_id: trackId }) => !trackId && confidence < SURE;

function drawFrame(context, box, line, guess) {
  context.globalAlpha = guess ? 0.6 : 1;
  context.strokeStyle = "rgb(0 0 0 / 35%)";
  context.lineWidth = guess ? 2.5 : 4;
  context.strokeRect(box.x, box.y, box.width, box.height);
  context.strokeStyle = line;
  context.lineWidth = guess ? 1 : 2;
  context.strokeRect(box.x, box.y, box.width, box.height);
  context.lineWidth = 3.5;
  if (!guess) corners(context, box);
  context.globalAlpha = 1;
}

/** Clear the overlay and draw `detections` of a picture of `source` pixels `{width, height}` shown at `rect`. */
export function drawBoxes(context, { detections, source, rect, state }) {
  const { canvas } = context;
  const [line, ink] = COLOURS[state] ?? COLOURS.standby;
  const strongestLast = [...detections].sort((one, other) => one.confidence - other.confidence);
  const boxes = strongestLast.map((detection) => placeBox(detection, source.width, source.height, rect));
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.font = `600 ${FONT_PX}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  context.lineJoin = context.lineCap = "round";
  boxes.forEach((box, index) => drawFrame(context, box, line, isGuess(strongestLast[index])));
  const taken = [];
  for (let index = boxes.length - 1; index >= 0; index -= 1) {
    if (isGuess(strongestLast[index])) continue;
    const text = boxText(strongestLast[index]);
    const place = placeLabel(boxes[index], context.measureText(text).width + 12, rect, taken);
    if (!place) continue;
    taken.push(place);
    context.fillStyle = line;
    context.beginPath();
    context.roundRect(place.x, place.y, place.width, LABEL_PX, 5);
    context.fill();
    context.fillStyle = ink;
    context.fillText(text, place.x + 6, place.y + LABEL_PX / 2 + 0.5);
  }
}
