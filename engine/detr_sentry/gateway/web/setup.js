/** The assistant of the first start: names a camera and its source, and stores both in the engine's settings. */

import { addCamera } from "./api.js";

const FAILURES = {
  no_settings_file:
    "This engine was started without a settings file. Start it with --config FILE, or name the source with --source.",
};

/** The id under which a camera of this name is kept: 1 to 32 of a-z, 0-9 and _. */
export function cameraId(name) {
  const plain = name
    .normalize("NFKD")
    .replace(/\p{M}/gu, "")
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "_")
    .replace(/^_+|_+$/g, "");
  return plain.slice(0, 32).replace(/_+$/, "") || "camera";
}

/** Wire `form` with the fields `name` and `source`; `error` and `done` are where its outcome is told. */
export function setUp(form, { error, done }) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const { name, source } = form.elements;
    const button = form.querySelector("button");
    error.textContent = done.textContent = "";
    button.disabled = true;
    try {
      await addCamera(cameraId(name.value), name.value.trim(), source.value.trim());
      done.textContent = "Stored. The camera appears here in a moment.";
    } catch (problem) {
      error.textContent = FAILURES[problem.code] ?? problem.message;
      source.focus();
    } finally {
      button.disabled = false;
    }
  });
}
