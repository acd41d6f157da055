/** A gateway that asks for its token, without a camera yet: signing in, then the assistant. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { BASE, openBrowser, seriousFindings, shot, until } from "./harness.mjs";

let browser;
let page;

before(async () => {
  browser = await openBrowser();
  page = browser.page;
  await page.goto(BASE);
});
after(() => browser?.close());

test("without the token nothing is shown but the form, and a wrong token is told", async () => {
  await page.getByLabel("Token").waitFor();
  await shot(page, "sign-in");
  await page.getByLabel("Token").fill("not-the-token");
  await page.keyboard.press("Enter");
  await page.getByText("That token is not the engine's.").waitFor();

  assert.equal(await page.locator("#board").isVisible(), false);
  assert.deepEqual([], await seriousFindings(page));
});

test("the token opens a session that outlives a reload, and scripts cannot read it", async () => {
  await page.getByLabel("Token").fill(process.env.SENTRY_TOKEN);
  await page.keyboard.press("Enter");
  await page.getByText("No camera yet").waitFor();
  await page.reload();
  await page.getByText("No camera yet").waitFor();

  assert.equal(await page.evaluate(() => document.cookie), "");
  assert.equal(await page.evaluate(() => localStorage.length + sessionStorage.length), 0);
});

test("the assistant stores a camera in the settings, and tells what the engine refuses", async () => {
  await shot(page, "no-camera");
  const findings = await seriousFindings(page);
  await page.getByLabel("Source").fill("rtsp://someone:********@camera.local/stream");
  await page.getByRole("button", { name: "Add camera" }).click();
  await until(async () => (await page.locator("#setup-error").textContent()).includes("secret"), "the refusal");
  await page.getByLabel("Name").fill("Haustür  2");
  await page.getByLabel("Source").fill("demo:?period=40");
  await page.getByRole("button", { name: "Add camera" }).click();
  await page.getByText("Stored.").waitFor();
  const settings = readFileSync(process.env.SENTRY_SETTINGS, "utf8");

  assert.deepEqual([], findings);
  assert.match(settings, /haustur_2:\n/);
  assert.match(settings, /demo:\?period=40/);
});
