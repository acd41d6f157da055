/** The page below a path of another site, as Home Assistant's ingress serves it. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { BASE, figures, openBrowser, openPage, setMode, until } from "./harness.mjs";

test("below a path everything works, and nothing is asked for outside of it", async () => {
  const browser = await openBrowser();
  try {
    const { page } = browser;
    const asked = [];
    page.on("request", (request) => asked.push(request.url()));
    page.on("websocket", (socket) => asked.push(socket.url().replace(/^ws/, "http")));
    await openPage(page);
    await until(async () => (await figures(page)).fps > 1, "pictures");
    await page.getByRole("radio", { name: /Off \(camera closed\)/ }).click();
    await page.getByText("Camera closed", { exact: true }).waitFor();
    await page.getByRole("radio", { name: /Automatic/ }).click();
    await until(async () => (await figures(page)).fps > 1, "pictures again");
    const outside = asked.filter((url) => !url.startsWith(BASE) && !url.startsWith("blob:"));

    assert.ok(asked.some((url) => url.endsWith("/stream")) && asked.some((url) => url.endsWith("/live")));
    assert.deepEqual([], outside);
  } finally {
    await setMode("auto");
    await browser.close();
  }
});
