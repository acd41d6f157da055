/** The mode switch: what a person chooses is what the engine does, and Off closes the camera at once. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { api, CAMERA, cameraState, figures, openBrowser, openPage, setMode, shot, until } from "./harness.mjs";

let browser;
let page;

before(async () => {
  await setMode("auto");
  browser = await openBrowser();
  page = browser.page;
  await openPage(page);
});
after(async () => {
  await setMode("auto");
  await browser?.close();
});

const chosen = () => page.locator("#mode-form input[name=mode]:checked").getAttribute("value");
const choose = (name) => page.getByRole("radio", { name }).click();

/** Whether any pixel of the picture or the overlay is left. */
const anythingShown = () =>
  page.evaluate(() => {
    const { picture, overlay } = document.getElementById("viewer");
    return [picture, overlay].some((canvas) => {
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      return data.some((value) => value !== 0);
    });
  });

test("choosing a mode sets it in the engine", async () => {
  await choose(/Always full rate/);
  await until(async () => (await cameraState()).mode === "alarmed", "mode alarmed");
  await until(async () => (await figures(page)).fps > 6, "the full rate");

  await choose(/Automatic/);
  await until(async () => (await cameraState()).mode === "auto", "mode auto");

  assert.equal(await chosen(), "auto");
});

test("a mode set elsewhere shows on the page without a reload", async () => {
  await setMode("standby");
  await until(async () => (await chosen()) === "standby", "the radio button follows");
  await setMode("auto");
  await until(async () => (await chosen()) === "auto", "the radio button follows back");
});

test("off shows a closed camera at once, and no picture is left anywhere", async () => {
  await until(anythingShown, "a picture");
  const radio = page.getByRole("radio", { name: /Off \(camera closed\)/ });
  const hiddenMs = await radio.evaluate(async (button) => {
    const { picture } = document.getElementById("viewer");
    const asked = performance.now();
    button.click();
    const shown = () => picture.getContext("2d").getImageData(0, 0, picture.width, picture.height).data.some(Boolean);
    while (shown()) await new Promise((resolve) => setTimeout(resolve, 5));
    return performance.now() - asked;
  });
  const closedAt = performance.now();
  await page.getByText("Camera closed", { exact: true }).waitFor();
  const confirmedMs = performance.now() - closedAt;

  assert.ok(hiddenMs < 500, `the picture was hidden after ${hiddenMs} ms`);
  assert.ok(confirmedMs < 5000, `the engine confirmed after ${confirmedMs} ms`);
  assert.equal(await anythingShown(), false);
  assert.equal((await cameraState()).state, "off");

  await page.waitForTimeout(1500);
  await shot(page, "off");

  assert.equal(await anythingShown(), false);
  assert.equal((await api(`cameras/${CAMERA}/snapshot.jpg`)).status, 409);

  await choose(/Automatic/);
  await until(anythingShown, "the picture again");
});

test("a mode with a duration says when it ends, and ends by the engine's clock", async () => {
  await page.getByRole("radio", { name: "15 min" }).click();
  await choose(/Always economical/);
  const camera = await until(async () => {
    const now = await cameraState();
    return now.mode === "standby" && now.mode_until ? now : null;
  }, "a mode that ends");
  await until(async () => /Holds until/.test(await page.locator("#until").textContent()), "the hint");
  const minutes = (new Date(camera.mode_until) - Date.now()) / 60_000;

  assert.ok(minutes > 13 && minutes < 16, `ends in ${minutes} minutes`);

  await choose(/Automatic/);
  await until(async () => (await cameraState()).mode === "auto", "mode auto");
});

test("walking through the modes with arrow keys sends only where it ends", async () => {
  const sent = [];
  page.on("request", (request) => request.method() === "POST" && sent.push(request.postDataJSON().mode));
  await page.getByRole("radio", { name: /Automatic/ }).focus();
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("ArrowDown");
  await until(async () => (await cameraState()).mode === "alarmed", "mode alarmed");

  assert.deepEqual(["alarmed"], sent);

  await setMode("auto");
});
