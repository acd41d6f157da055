/** What every browser test needs: a Chromium of the machine, the page of a running engine, patience, and axe. */

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

export const BASE = process.env.SENTRY_URL;
export const CAMERA = "door";
export const DESKTOP = { viewport: { width: 1360, height: 900 } };
export const PHONE = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };

/** A browser with a profile of its own; `close()` removes both. `errors` collects what the page should never say. */
export async function openBrowser(options = DESKTOP) {
  const profile = mkdtempSync(join(tmpdir(), "detr-sentry-browser-"));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.SENTRY_CHROMIUM ?? "/usr/bin/chromium",
    headless: true,
    args: FLAGS,
    ...options,
  });
  context.setDefaultTimeout(30_000);
  const page = context.pages()[0] ?? (await context.newPage());
  const errors = [];
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("console", (message) => {
    if (message.type() === "error" && /Content Security Policy|Uncaught/.test(message.text()))
      errors.push(message.text());
  });
  const close = async () => {
    await context.close();
    rmSync(profile, { recursive: true, force: true });
  };
  return { context, page, errors, close };
}

/** Run `probe` until it gives something truthy; throws with its last answer after `ms`. */
export async function until(probe, what, ms = 30_000) {
  const deadline = performance.now() + ms;
  let last;
  for (;;) {
    last = await probe();
    if (last) return last;
    if (performance.now() > deadline)
      throw new Error(`${what}: not within ${ms} ms (last answer: ${JSON.stringify(last)})`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

export async function api(path, init) {
  const response = await fetch(new URL(`api/v1/${path}`, BASE), init);
  return response.headers.get("content-type")?.includes("json")
    ? { status: response.status, ...(await response.json()) }
    : { status: response.status };
}

/** Set the mode past the page and wait until the engine says that it holds. */
export async function setMode(mode, camera = CAMERA) {
  const answer = await api(`cameras/${camera}/mode`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ mode }),
  });
  if (answer.status !== 200) throw new Error(`mode ${mode}: ${JSON.stringify(answer)}`);
  await until(async () => (await cameraState(camera)).mode === mode, `mode ${mode}`);
}

export const cameraState = async (camera = CAMERA) => (await api("cameras")).cameras.find(({ id }) => id === camera);

/** The page, with the door camera chosen and its first picture drawn. */
export async function openPage(page, { picture = true } = {}) {
  await page.goto(`${BASE}#${CAMERA}`);
  await page.locator("#board").waitFor();
  if (picture)
    await until(() => page.evaluate(() => document.getElementById("viewer").figures.fps > 0), "first picture");
}

export const figures = (page) => page.evaluate(() => document.getElementById("viewer").figures);

/** Mean of `figures.fps` over `seconds`, sampled four times a second. */
export async function meanRate(page, seconds) {
  const rates = [];
  for (let sample = 0; sample < seconds * 4; sample += 1) {
    await page.waitForTimeout(250);
    rates.push((await figures(page)).fps);
  }
  return rates.reduce((sum, rate) => sum + rate, 0) / rates.length;
}

export async function shot(page, name, options = {}) {
  const folder = process.env.SENTRY_SCREENSHOTS;
  if (folder) await page.screenshot({ path: join(folder, `${name}.png`), ...options });
}

/** axe's findings of impact serious and critical, each as "rule: element". */
export async function seriousFindings(page) {
  const { violations } = await page.evaluate(`(() => { ${AXE}; return window.axe.run(); })()`);
  return violations
    .filter(({ impact }) => impact === "serious" || impact === "critical")
    .flatMap(({ id, nodes }) => nodes.map(({ html }) => `${id}: ${html.slice(0, 160)}`));
}
