/** Several viewers, and an engine that goes away: nobody suffers for another, and everybody comes back. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { CAMERA, figures, meanRate, openBrowser, openPage, setMode, until } from "./harness.mjs";

let browser;
let page;

before(async () => {
  await setMode("alarmed");
  browser = await openBrowser();
  page = browser.page;
  await openPage(page);
  await until(async () => (await figures(page)).fps > 6, "the full rate");
});
after(async () => {
  await setMode("auto");
  await browser?.close();
});

test("a slow client does not slow another, and gets no backlog", async () => {
  const alone = await meanRate(page, 4);
  await page.evaluate((camera) => {
    const url = new URL(`api/v1/cameras/${camera}/stream`, document.baseURI);
    url.protocol = "ws:";
    window.slow = Array.from({ length: 4 }, () => {
      const client = { received: 0, socket: new WebSocket(url) };
      client.socket.binaryType = "arraybuffer";
      client.socket.onmessage = () => (client.received += 1);
      return client;
    });
  }, CAMERA);
  await until(
    () => page.evaluate(() => window.slow.every(({ received }) => received > 0)),
    "the slow clients are served",
  );
  const together = await meanRate(page, 5);
  const received = await page.evaluate(() => window.slow.map((client) => client.received));
  await page.evaluate(() => window.slow.forEach(({ socket }) => socket.close()));

  assert.deepEqual([2, 2, 2, 2], received);
  assert.ok(together > 0.7 * alone, `${together} fps beside slow clients, ${alone} fps alone`);
});

test("a viewer elsewhere asks its host for an address before each attempt, and stops when it is removed", async () => {
  const asked = await page.evaluate(async (camera) => {
    const viewer = document.createElement("detr-sentry-viewer");
    const url = new URL(`api/v1/cameras/${camera}/stream?fps=5&width=640`, document.baseURI);
    url.protocol = "ws:";
    window.asked = [];
    viewer.connect = async (id) => {
      window.asked.push(id);
      if (window.asked.length === 1) throw new Error("the host cannot sign an address yet");
      return url.href;
    };
    viewer.id = "card";
    viewer.camera = camera;
    document.body.append(viewer);
    while (!(viewer.figures.fps > 0)) await new Promise((resolve) => setTimeout(resolve, 50));
    return window.asked;
  }, CAMERA);
  const state = await page.evaluate(() => {
    const viewer = document.getElementById("card");
    viewer.remove();
    const pixels = viewer.picture.getContext("2d").getImageData(0, 0, viewer.picture.width, viewer.picture.height).data;
    return { width: viewer.picture.width, link: viewer.figures.link, empty: pixels.every((value) => value === 0) };
  });

  assert.deepEqual([CAMERA, CAMERA], asked);
  assert.deepEqual({ width: 640, link: "stopped", empty: true }, state);
});

test("the page says when the engine is gone, and comes back by itself", async () => {
  const { pid } = JSON.parse(readFileSync(process.env.SENTRY_GATEWAY_BEAT, "utf8"));
  process.kill(pid, "SIGKILL");
  await page.getByText("Connecting again", { exact: true }).first().waitFor();

  await until(async () => (await figures(page)).link === "open", "the stream again", 60_000);
  await until(async () => (await figures(page)).fps > 3, "pictures again", 60_000);
  await until(
    () => page.evaluate(() => document.getElementById("link").dataset.up === "true"),
    "the live link again",
    60_000,
  );
});

test("every picture is newer than the one before", async () => {
  const numbers = await page.evaluate(
    (camera) =>
      new Promise((resolve) => {
        const url = new URL(`api/v1/cameras/${camera}/stream`, document.baseURI);
        url.protocol = "ws:";
        const socket = new WebSocket(url);
        const seen = [];
        socket.binaryType = "arraybuffer";
        socket.onmessage = ({ data }) => {
          const length = new DataView(data).getUint32(0, true);
          if (data.byteLength === 4 + length) return;
          seen.push(JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length))).frame_number);
          socket.send(JSON.stringify({ ack: seen.at(-1) }));
          if (seen.length === 20) {
            socket.close();
            resolve(seen);
          }
        };
      }),
    CAMERA,
  );

  assert.deepEqual(
    [...new Set(numbers)].sort((a, b) => a - b),
    numbers,
  );
});
