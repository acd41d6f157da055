/** What the viewer looks like: its shadow tree, the two canvases, and the words on them. It decides nothing. */

import { containRect, drawBoxes } from "./viewer-boxes.js";
import { h, icon, ICONS } from "./viewer-dom.js";
import { sheet } from "./viewer-style.js";

/** More pixels than this per CSS pixel cost time and show nothing. */
const MAX_SCALE = 3;

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export class ViewerView {
  #host;
  #said = null;

  /** Builds the shadow tree of `host`. */
  constructor(host) {
    this.#host = host;
    this.picture = h("canvas", { class: "picture", role: "img", "aria-label": "Camera picture" });
    this.overlay = h("canvas", { class: "overlay", "aria-hidden": "true" });
    this.words = h("span");
    this.rate = h("span");
    this.ageValue = h("span");
    const unit = h("span", { class: "wide" }, " delay");
    this.age = h("span", { title: "Age of the picture when it is shown" }, this.ageValue, unit);
    this.stats = h("div", { class: "chip stats", hidden: true }, this.rate, this.age);
    this.icon = h("div");
    this.title = h("strong");
    this.text = h("span");
    this.message = h("div", { class: "message" }, this.icon, this.title, this.text);
    this.note = h("div", { class: "note", hidden: true });
    this.spoken = h("div", { class: "sr", role: "status" });
    const full = h("button", { type: "button", "aria-label": "Full screen", onclick: () => this.#fullscreen() });
    full.hidden = !document.fullscreenEnabled;
    full.append(icon(ICONS.full));
    const state = h("div", { class: "chip state" }, h("span", { class: "dot" }), this.words);
    this.stage = h("div", { class: "stage" });
    this.stage.append(this.picture, this.overlay, this.message, this.note, state, this.stats, full);
    const root = host.attachShadow({ mode: "open" });
    root.adoptedStyleSheets = [sheet];
    root.append(this.stage, this.spoken);
  }

  /** The state that is shown. */
  get state() {
    return this.stage.dataset.state;
  }

  /** Draw a bitmap of a picture of `width` x `height` source pixels; the bitmap may be smaller. */
  draw(bitmap, width, height) {
    const { picture } = this;
    if (picture.width !== bitmap.width || picture.height !== bitmap.height) {
      picture.width = bitmap.width;
      picture.height = bitmap.height;
      this.stage.style.setProperty("--_ratio", `${width} / ${height}`);
    }
    picture.getContext("2d").drawImage(bitmap, 0, 0);
  }

  /** Draw `boxes`, in pixels of `source` `{width, height}`, where the picture is shown. */
  drawBoxes(detections, source, state) {
    const { overlay } = this;
    const context = overlay.getContext("2d");
    const scale = overlay.width / overlay.clientWidth || 1;
    context.setTransform(scale, 0, 0, scale, 0, 0);
    const rect = containRect(overlay.clientWidth, overlay.clientHeight, source.width, source.height);
    drawBoxes(context, { detections, source, rect, state });
  }

  /** Give the overlay the pixels of its place, so that lines and letters are sharp. */
  fit() {
    const { overlay } = this;
    const scale = Math.min(devicePixelRatio || 1, MAX_SCALE);
    overlay.width = Math.round(overlay.clientWidth * scale);
    overlay.height = Math.round(overlay.clientHeight * scale);
  }

  /** Wipe both canvases. */
  blank() {
    for (const canvas of [this.picture, this.overlay]) {
      const context = canvas.getContext("2d");
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.clearRect(0, 0, canvas.width, canvas.height);
    }
  }

  /**
   * Show `words` for `state`, the figures, a `note` on the picture or null, and in the place of the picture
   * `obstacle` `{kind, icon, title, since?, text}` or null. Only the kind of obstacle is spoken, not its seconds.
   */
  show({ label, state, words, obstacle, note, fps, ageMs }) {
    this.stage.dataset.state = state;
    put(this.words, words);
    this.stats.hidden = Boolean(obstacle) || !fps;
    put(this.rate, `${fps < 9.95 ? fps.toFixed(1) : Math.round(fps)} fps`);
    this.age.hidden = ageMs === null;
    put(this.ageValue, ageMs === null ? "" : `${Math.round(ageMs)} ms`);
    this.note.hidden = !note;
    put(this.note, note ?? "");
    this.#obstacle(obstacle);

    const described = `${label}: ${words}${obstacle ? `. ${obstacle.title}` : ""}`;
    if (this.picture.getAttribute("aria-label") !== described) this.picture.setAttribute("aria-label", described);
    const said = obstacle ? `${label}: ${obstacle.title}. ${obstacle.text}` : `${label}: live picture`;
    if (said !== this.#said && (obstacle || this.#said)) {
      this.#said = said;
      put(this.spoken, said);
    }
  }

  #obstacle(obstacle) {
    if (obstacle) this.stage.dataset.message = obstacle.kind;
    else delete this.stage.dataset.message;
    this.message.classList.toggle("on", Boolean(obstacle));
    const drawing = obstacle?.icon ?? "";
    if (this.icon.dataset.icon !== drawing) {
      this.icon.dataset.icon = drawing;
      this.icon.replaceChildren(...(drawing ? [icon(ICONS[drawing])] : []));
    }
    put(this.title, obstacle ? obstacle.title + (obstacle.since ?? "") : "");
    put(this.text, obstacle?.text ?? "");
  }

  async #fullscreen() {
    if (document.fullscreenElement) await document.exitFullscreen();
    else await this.#host.requestFullscreen();
  }
}
