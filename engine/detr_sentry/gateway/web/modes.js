/** The mode switch of the shown camera: native radio buttons, and for how long a choice holds. */

import { setMode } from "./api.js";
import { timeText } from "./text.js";

/** Arrow keys walk through the modes; only where they come to rest counts. */
const SETTLE_MS = 700;

const FAILURES = {
  404: "This camera is no longer configured.",
  503: "The controller does not answer, so the mode was not changed.",
  507: "The mode could not be stored, so it was not changed.",
};

export class ModeSwitch {
  #form;
  #until;
  #error;
  #camera = null;
  #walking = false;
  #timer = 0;
  #busy = 0;
  #onAsk;
  #onAnswer;

  /**
   * `form` holds the radio groups `mode` and `duration`. `onAsk(camera id, mode)` hears a choice before it is sent,
   * `onAnswer(camera id, camera | null)` the camera afterwards, or null if nothing changed.
   */
  constructor(form, { until, error, onAsk, onAnswer }) {
    this.#form = form;
    this.#until = until;
    this.#error = error;
    this.#onAsk = onAsk;
    this.#onAnswer = onAnswer;
    form.addEventListener("keydown", (event) => this.#key(event));
    form.addEventListener("pointerdown", () => (this.#walking = false));
    form.addEventListener("change", (event) => this.#changed(event.target.name));
    form.addEventListener("focusout", (event) => this.#timer && !form.contains(event.relatedTarget) && this.#send());
    form.addEventListener("submit", (event) => event.preventDefault());
  }

  /** Follow `camera`, unless a choice for it is on its way. */
  update(camera) {
    if (camera.id !== this.#camera?.id) {
      clearTimeout(this.#timer);
      this.#timer = 0;
      this.#busy = 0;
      this.#error.textContent = "";
      this.#form.elements.duration.value = "";
    }
    this.#camera = camera;
    if (this.#busy || this.#timer) return;
    this.#form.elements.mode.value = camera.mode ?? "";
    this.#until.textContent = camera.mode_until ? `Holds until ${timeText(camera.mode_until)}.` : "";
  }

  #key(event) {
    this.#walking = event.key.startsWith("Arrow");
    if (event.key === "Enter" && this.#timer) this.#send();
  }

  #changed(group) {
    const { mode } = this.#form.elements;
    if (group === "duration" && (mode.value === "auto" || !mode.value)) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#send(), this.#walking ? SETTLE_MS : 0);
  }

  async #send() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    const { id } = this.#camera;
    const mode = this.#form.elements.mode.value;
    const durationS = mode === "auto" ? null : Number(this.#form.elements.duration.value) || null;
    const turn = ++this.#busy;
    this.#error.textContent = "";
    this.#form.setAttribute("aria-busy", "true");
    this.#onAsk(id, mode);
    let camera = null;
    let message = "";
    try {
      camera = await setMode(id, mode, durationS);
    } catch (error) {
      message = FAILURES[error.status] ?? `${error.message} The mode was not changed.`;
    }
    if (turn !== this.#busy || id !== this.#camera.id) {
      if (camera) this.#onAnswer(id, camera);
      return;
    }
    this.#busy = 0;
    this.#form.removeAttribute("aria-busy");
    this.#error.textContent = message;
    this.#onAnswer(id, camera);
    this.update(this.#camera);
  }
}
