/** The pure parts of the page: messages, geometry, words and waits. No browser needed. */

import assert from "node:assert/strict";
import { test } from "node:test";

const WEB = new URL("../../../engine/detr_sentry/gateway/web/", import.meta.url);
const load = (name) => import(new URL(name, WEB));

function message(header, jpeg = []) {
  const text = new TextEncoder().encode(JSON.stringify(header));
  const bytes = new Uint8Array(4 + text.length + jpeg.length);
  new DataView(bytes.buffer).setUint32(0, text.length, true);
  bytes.set(text, 4);
  bytes.set(jpeg, 4 + text.length);
  return bytes.buffer;
}

test("a stream message is its header and its JPEG; anything else is refused", async () => {
  const { parseMessage } = await load("viewer-link.js");
  const parsed = parseMessage(message({ frame_number: 7, camera: "tür" }, [0xff, 0xd8, 0xff]));

  assert.deepEqual({ frame_number: 7, camera: "tür" }, parsed.header);
  assert.deepEqual([0xff, 0xd8, 0xff], [...parsed.jpeg]);
  assert.equal(0, parseMessage(message({ state: "off" })).jpeg.length);
  assert.throws(() => parseMessage(new ArrayBuffer(2)), RangeError);
  assert.throws(() => parseMessage(new Uint8Array([255, 255, 255, 255, 1]).buffer), RangeError);
  assert.throws(() => parseMessage(new Uint8Array([1, 0, 0, 0, 123]).buffer), SyntaxError);
});

test("waits double up to the cap, at least half of each is certain", async () => {
  const { backoffMs } = await load("backoff.js");

  assert.deepEqual(
    [250, 500, 1000, 2000, 4000, 5000, 5000],
    [1, 2, 3, 4, 5, 6, 400].map((failures) => backoffMs(failures, 0)),
  );
  assert.equal(10_000, Math.round(backoffMs(400, 0.9999999)));
});

test("boxes are placed where the letterboxed picture is", async () => {
  const { containRect, placeBox } = await load("viewer-boxes.js");
  const rect = containRect(1000, 1000, 1600, 900);

  assert.deepEqual({ x: 0, y: 218.75, width: 1000, height: 562.5 }, rect);
  assert.deepEqual(
    { x: 500, y: 500, width: 500, height: 281.25 },
    placeBox({ x1: 800, y1: 450, x2: 1600, y2: 900 }, 1600, 900, rect),
  );
  assert.deepEqual({ x: 250, y: 0, width: 500, height: 500 }, containRect(1000, 500, 10, 10));
});

test("labels stay in the picture and off each other", async () => {
  const { placeLabel } = await load("viewer-boxes.js");
  const rect = { x: 0, y: 0, width: 400, height: 200 };
  const box = { x: 350, y: 50, width: 50, height: 100 };
  const above = placeLabel(box, 100, rect, []);
  const below = placeLabel(box, 100, rect, [above]);
  const inside = placeLabel(box, 100, rect, [above, below]);

  assert.deepEqual({ x: 294, y: 26, width: 100 }, above);
  assert.deepEqual({ x: 294, y: 154, width: 100 }, below);
  assert.deepEqual({ x: 294, y: 54, width: 100 }, inside);
  assert.equal(null, placeLabel(box, 100, rect, [above, below, inside]));
});

test("words for people, states, problems and boxes", async () => {
  const { peopleText, problemText, shownState } = await load("viewer-text.js");
  const { boxText } = await load("viewer-boxes.js");

  assert.deepEqual(["no people", "1 person", "2 people"], [0, 1, 2].map(peopleText));
  assert.equal("off", shownState({ state: "alarmed", mode: "off" }));
  assert.equal("off", shownState({ state: "off", blind: true }));
  assert.equal("blind", shownState({ state: "standby", blind: true }));
  assert.equal("unknown", shownState({ state: null }));
  assert.equal(problemText("camera_gone"), problemText("gone"));
  assert.equal("The engine reports: lens cap.", problemText("lens_cap"));
  assert.equal(null, problemText(null));
  assert.equal("person 87 % · #12", boxText({ label: "person", confidence: 0.874, track_id: 12 }));
  assert.equal("class 18 50 %", boxText({ label: "", class_id: 18, confidence: 0.5, track_id: 0 }));
});

test("spans and figures read naturally; unknown is a dash", async () => {
  const { figureText, lengthText, spanText, timeText } = await load("text.js");

  assert.deepEqual(
    ["0 s", "59 s", "1 min", "2 min 5 s", "1 h", "1 h 3 min"],
    [-1, 59.4, 60, 125, 3600, 3781].map(spanText),
  );
  assert.equal("9 s", lengthText({ start: "2026-11-22T12:00:00Z", end: "2026-11-22T12:00:09.100Z" }));
  assert.equal("now", lengthText({ start: "2026-11-22T12:00:00Z", end: null }));
  assert.deepEqual(
    ["–", "–", "38 ms"],
    [null, NaN, 38.4].map((value) => figureText(value, "ms")),
  );
  assert.deepEqual(
    ["–", "–"],
    [null, "nonsense"].map((stamp) => timeText(stamp)),
  );
});

test("a camera's name makes an id the engine accepts", async () => {
  const { cameraId } = await load("setup.js");

  assert.deepEqual(
    ["front_door", "haustur_2", "camera", "a".repeat(32)],
    ["Front door", " Haustür  2!", "前門", "A".repeat(50)].map(cameraId),
  );
});
