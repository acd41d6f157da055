/** For everyone: by keyboard, by screen reader, on a phone, dark and light. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import {
  cameraState,
  DESKTOP,
  openBrowser,
  openPage,
  PHONE,
  seriousFindings,
  setMode,
  shot,
  until,
} from "./harness.mjs";

before(() => setMode("auto"));
after(() => setMode("auto"));

for (const colorScheme of ["light", "dark"]) {
  for (const [name, size] of [
    ["desktop", DESKTOP],
    ["phone", PHONE],
  ]) {
    test(`axe finds nothing serious: ${name}, ${colorScheme}`, async () => {
      const browser = await openBrowser({ ...size, colorScheme });
      try {
        const { page } = browser;
        await openPage(page);
        await page.locator(".figures summary").click();
        const open = await seriousFindings(page);
        await page.locator(".figures summary").click();
        await shot(page, `${name}-${colorScheme}`, { fullPage: name === "phone" });
        await page.getByRole("radio", { name: /Off \(camera closed\)/ }).click();
        await page.getByText("Camera closed", { exact: true }).waitFor();
        const off = await seriousFindings(page);
        await shot(page, `${name}-${colorScheme}-off`);
        await page.getByRole("radio", { name: /Automatic/ }).click();
        await until(async () => (await cameraState()).mode === "auto", "mode auto");
        const sideways = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);

        assert.deepEqual([], open);
        assert.deepEqual([], off);
        assert.ok(sideways <= 0, `the page scrolls ${sideways} px sideways`);
      } finally {
        await browser.close();
      }
    });
  }
}

test("axe sees into the viewer: a fault planted in its shadow tree is found", async () => {
  const browser = await openBrowser();
  try {
    await openPage(browser.page);
    await browser.page.evaluate(() => document.getElementById("viewer").picture.removeAttribute("aria-label"));
    const found = await browser.page
      .evaluate(() => {
        document.getElementById("viewer").shadowRoot.querySelector("button").removeAttribute("aria-label");
      })
      .then(() => seriousFindings(browser.page));

    assert.ok(
      found.some((finding) => finding.startsWith("button-name")),
      JSON.stringify(found),
    );
  } finally {
    await browser.close();
  }
});

test("the keyboard reaches everything in reading order, and cameras change by arrow key", async () => {
  const browser = await openBrowser();
  try {
    const { page } = browser;
    await openPage(page);
    const focused = () =>
      page.evaluate(() => {
        let element = document.activeElement;
        while (element.shadowRoot?.activeElement) element = element.shadowRoot.activeElement;
        return element.getAttribute("aria-label") ?? element.getAttribute("value") ?? element.textContent.trim();
      });
    const order = [];
    for (let presses = 0; presses < 6; presses += 1) {
      await page.keyboard.press("Tab");
      order.push(await focused());
    }

    assert.match(order[0], /Skip to the camera/);
    assert.match(order[1], /^Front door/);
    assert.deepEqual(["Full screen", "auto", "", "Camera and detector"], order.slice(2));

    await page.getByRole("tab", { name: /Front door/ }).focus();
    await page.keyboard.press("ArrowRight");
    await until(async () => (await page.locator("#camera-name").textContent()) === "Garden", "the other camera");
    await page.keyboard.press("Home");
    await until(async () => (await page.locator("#camera-name").textContent()) === "Front door", "the first camera");
  } finally {
    await browser.close();
  }
});

test("changes of state are announced politely, and animation stops on request", async () => {
  const browser = await openBrowser({ ...DESKTOP, reducedMotion: "reduce" });
  try {
    const { page } = browser;
    await openPage(page);
    await setMode("off");
    const announcer = page.locator("#announce[aria-live=polite]");
    await until(async () => /Front door: Off/.test(await announcer.textContent()), "the announcement");
    await setMode("auto");
    await until(
      async () => /Front door: (Standby|Checking|Alarmed)/.test(await announcer.textContent()),
      "the announcement",
    );
    const animated = await page.evaluate(() => document.getAnimations().length);

    assert.equal(animated, 0);
  } finally {
    await browser.close();
  }
});
