/**
 * <detr-sentry-viewer>: live picture of one camera with boxes, state, rate and age. Self-contained: this file and
 * the viewer-*.js and backoff.js beside it.
 *
 *   viewer.camera = "front_door"; viewer.label = "Front door";
 *   viewer.connect = async (camera) => "wss://...";   // asked before each attempt, so an address may be signed
 *   viewer.status = {state, mode, blind, problem, count};   // optional: what is known beside the stream
 *   viewer.closing();                                 // the user asked for off: hide the picture before the answer
 *
 * Fires `sentry-state` (detail {state, count}) when the shown state changes, `sentry-link` (detail {link}) when the stream's does.
 */

import { drawBoxes, containRect } from "./viewer-boxes.js";
import { h, icon, ICONS } from "./viewer-dom.js";
import { FrameLink } from "./viewer-link.js";
import { sheet } from "./viewer-style.js";
import { peopleText, problemText, shownState, STATE_LABELS } from "./viewer-text.js";

/** Older boxes say nothing about the picture beneath them. */
const BOX_LIFE_MS = 1000;
/** After this silence, or three pictures of a slower camera, people should know. */
const STALE_MS = 3000;
/** Pictures that were on their way when the camera was closed are not shown. */
const LATE_MS = 2000;
/** A link this silent is half open (a phone that changed networks): start again. */
const SILENT_MS = 15_000;
/** The shown rate is the mean over this window: long enough for 3 fps, short enough to follow a mode change. */
const RATE_WINDOW_MS = 2500;
/** A page in the background keeps its stream for a glance at another tab, no longer. */
const HIDDEN_MS = 10_000;
const TICK_MS = 250;

/** The keys of a stream message that tell of the camera, not of the picture. */
const STATE_KEYS = ["state", "mode", "blind", "problem", "count"];
const stateOf = (header) => Object.fromEntries(STATE_KEYS.filter((key) => key in header).map((key) => [key, header[key]]));

export class SentryViewer extends HTMLElement {
  static observedAttributes = ["label"];

  #link = new FrameLink({
    url: () => this.connect(this.#camera),
    onFrame: (...frame) => this.#show(...frame),
    onLink: (state) => this.#linked(state),
  });
  #camera = null;
  #status = {};
  #frame = null;
  #closing = false;
  #pictureMs = 0;
  #heardMs = 0;
  #offMs = -Infinity;
  #drawnMs = [];
  #announced = null;
  #ticker = 0;
  #hiddenTimer = 0;
  #resizes = new ResizeObserver(() => this.#layout());
  #wake = () => this.#link.restart();
  #visibility = () => this.#visible();

  constructor() {
    super();
    /** Async function that gives the WebSocket address for a camera; the host page or card sets it. */
    this.connect = () => Promise.reject(new Error("no connect() given"));
    this.#build();
  }

  #build() {
    const root = this.attachShadow({ mode: "open" });
    root.adoptedStyleSheets = [sheet];
    this.picture = h("canvas", { class: "picture", role: "img", "aria-label": "Camera picture" });
    this.overlay = h("canvas", { class: "overlay", "aria-hidden": "true" });
    this.stateText = h("span");
    this.rate = h("span");
    this.ageValue = h("span");
    this.age = h("span", { title: "Age of the picture when it is shown" }, this.ageValue, h("span", { class: "wide" }, " delay"));
    this.stats = h("div", { class: "chip stats", hidden: true }, this.rate, this.age);
    this.messageIcon = h("div");
    this.messageTitle = h("strong");
    this.messageText = h("span");
    this.message = h("div", { class: "message" }, this.messageIcon, this.messageTitle, this.messageText);
    this.note = h("div", { class: "note", hidden: true });
    this.spoken = h("div", { class: "sr", role: "status" });
    this.fullButton = h(
      "button",
      { type: "button", "aria-label": "Full screen", hidden: !document.fullscreenEnabled, onclick: () => this.#fullscreen() },
      icon(ICONS.full),
    );
    this.stage = h(
      "div",
      { class: "stage" },
      this.picture,
      this.overlay,
      this.message,
      this.note,
      h("div", { class: "chip state" }, h("span", { class: "dot" }), this.stateText),
      this.stats,
      this.fullButton,
    );
    root.append(this.stage, this.spoken);
  }

  connectedCallback() {
    this.#pictureMs = performance.now();
    this.#resizes.observe(this.stage);
    this.#ticker = setInterval(() => this.#tick(), TICK_MS);
    addEventListener("online", this.#wake);
    document.addEventListener("visibilitychange", this.#visibility);
    if (this.#camera) this.#link.start();
    this.#render();
  }

  disconnectedCallback() {
    clearInterval(this.#ticker);
    clearTimeout(this.#hiddenTimer);
    removeEventListener("online", this.#wake);
    document.removeEventListener("visibilitychange", this.#visibility);
    this.#resizes.disconnect();
    this.#link.stop();
    this.#blank();
  }

  attributeChangedCallback() {
    this.#render();
  }

  get label() {
    return this.getAttribute("label") ?? this.#camera ?? "Camera";
  }

  set label(text) {
    this.setAttribute("label", text);
  }

  get camera() {
    return this.#camera;
  }

  /** The camera to show; the picture of the former one is gone at once. */
  set camera(id) {
    if (id === this.#camera) return;
    this.#camera = id;
    this.#status = {};
    this.#offMs = -Infinity;
    this.#pictureMs = performance.now();
    this.#closing = false;
    this.#announced = null;
    this.#blank();
    if (!this.isConnected) return;
    this.#link.stop();
    if (id) this.#link.start();
    this.#render();
  }

  /** What the page or card knows beside the stream; it wins where the stream is silent. */
  set status(status) {
    const was = shownState(this.#status);
    this.#status = { ...status };
    const now = shownState(this.#status);
    if (now === "off" && (was !== "off" || this.#closing)) this.#closed();
    if (now !== "off" && was === "off") {
      this.#offMs = -Infinity;
      this.#pictureMs = this.#heardMs = performance.now();
    }
    this.#render();
  }

  /** Hide the picture now: the user asked to close the camera and the engine has yet to confirm. */
  closing(asked = true) {
    this.#closing = asked;
    if (asked) this.#blank();
    this.#render();
  }

  /** Pictures per second over the last seconds, age of the shown picture, and how many were skipped for newer ones. */
  get figures() {
    const now = performance.now();
    const recent = this.#drawnMs.filter((time) => now - time < RATE_WINDOW_MS);
    const span = recent.length > 1 ? recent.at(-1) - recent[0] : 0;
    const frame = this.#frame;
    const ageMs = frame?.header.frame_age_ms == null ? null : frame.header.frame_age_ms + frame.drawnMs - frame.receivedMs;
    return { fps: span ? (1000 * (recent.length - 1)) / span : 0, ageMs, skipped: this.#link.skipped, link: this.#link.state };
  }

  /** The detections that are on the picture now, in pixels of the source picture. */
  get boxes() {
    const frame = this.#frame;
    if (!frame?.header.detections?.length || frame.header.detection_age_ms == null) return [];
    const ageMs = frame.header.detection_age_ms + performance.now() - frame.receivedMs;
    return ageMs < BOX_LIFE_MS ? frame.header.detections : [];
  }

  /** Size of the source picture, in which boxes are given: `{width, height}`, or null without a picture. */
  get source() {
    const header = this.#frame?.header;
    return header ? { width: header.width, height: header.height } : null;
  }

  #merged() {
    return { ...this.#frame?.header, ...this.#status };
  }

  #show(header, bitmap, receivedMs) {
    const drawnMs = performance.now();
    this.#heardMs = receivedMs;
    if (!bitmap) {
      this.status = { ...this.#status, ...stateOf(header) };
      return;
    }
    if (this.#closing || drawnMs - this.#offMs < LATE_MS) return;
    this.#pictureMs = receivedMs;
    const first = !this.#frame;
    this.#frame = { header, receivedMs, drawnMs };
    this.#drawnMs.push(drawnMs);
    while (this.#drawnMs[0] < drawnMs - RATE_WINDOW_MS) this.#drawnMs.shift();
    Object.assign(this.#status, stateOf(header));
    const { picture } = this;
    if (picture.width !== bitmap.width || picture.height !== bitmap.height) {
      picture.width = bitmap.width;
      picture.height = bitmap.height;
      this.stage.style.setProperty("--_ratio", `${header.width} / ${header.height}`);
    }
    picture.getContext("2d", { alpha: true }).drawImage(bitmap, 0, 0);
    this.#drawOverlay();
    if (first || shownState(this.#status) !== this.stage.dataset.state) this.#render();
  }

  #drawOverlay() {
    const { overlay } = this;
    const context = overlay.getContext("2d");
    const frame = this.#frame;
    if (!frame) return;
    const scale = overlay.width / overlay.clientWidth || 1;
    context.setTransform(scale, 0, 0, scale, 0, 0);
    const source = frame.header;
    const rect = containRect(overlay.clientWidth, overlay.clientHeight, source.width, source.height);
    drawBoxes(context, { detections: this.boxes, source, rect, state: shownState(this.#status) });
  }

  #closed() {
    this.#closing = false;
    this.#offMs = performance.now();
    this.#blank();
  }

  /** Remove every trace of the last picture. */
  #blank() {
    this.#frame = null;
    this.#drawnMs.length = 0;
    for (const canvas of [this.picture, this.overlay]) {
      const context = canvas.getContext("2d");
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.clearRect(0, 0, canvas.width, canvas.height);
    }
  }

  #layout() {
    const { overlay } = this;
    const scale = Math.min(devicePixelRatio || 1, 3);
    overlay.width = Math.round(overlay.clientWidth * scale);
    overlay.height = Math.round(overlay.clientHeight * scale);
    this.#drawOverlay();
  }

  #linked(state) {
    this.dispatchEvent(new CustomEvent("sentry-link", { detail: { link: state } }));
    if (state === "open") this.#heardMs = performance.now();
    this.#render();
  }

  #visible() {
    clearTimeout(this.#hiddenTimer);
    if (document.hidden) this.#hiddenTimer = setTimeout(() => this.#link.stop(), HIDDEN_MS);
    else if (this.#camera && this.isConnected) this.#link.start();
  }

  async #fullscreen() {
    if (document.fullscreenElement) await document.exitFullscreen();
    else await this.requestFullscreen();
  }

  #tick() {
    const silentMs = performance.now() - this.#heardMs;
    if (silentMs > SILENT_MS && this.#link.state === "open" && shownState(this.#status) !== "off") this.#link.restart();
    this.#drawOverlay();
    this.#render();
  }

  /** What stands in the place of the picture: `[kind, icon, title, text]`, or null while the picture is good. */
  #obstacle() {
    const { problem } = this.#merged();
    const state = shownState(this.#status);
    if (this.#closing) return ["closed", "closed", "Closing the camera", "Waiting for the engine to confirm."];
    if (state === "off") return ["closed", "closed", "Camera closed", "The mode is Off. No pictures are taken until another mode is chosen."];
    if (this.#link.state !== "open") {
      const lost = this.#link.state === "waiting" || this.#link.error;
      return lost ? ["link", "link", "Connecting again", "The connection to the engine was lost."] : ["link", "link", "Connecting", ""];
    }
    const now = performance.now();
    const quietMs = now - this.#pictureMs;
    const fps = this.#frame?.header.fps;
    if (this.#frame && quietMs < Math.max(STALE_MS, fps > 0 ? 3000 / fps : 0)) return null;
    if (now - this.#heardMs < STALE_MS) return ["link", "link", "Connecting", "Waiting for a picture."];
    const seconds = Math.floor(quietMs / 1000);
    const hint = problemText(problem) ?? "The camera or the connection is silent.";
    return [state === "blind" ? "blind" : "stale", "blind", `No picture for ${seconds} s`, state === "blind" ? `Blind. ${hint}` : hint];
  }

  #render() {
    const status = this.#merged();
    const state = this.#closing ? "off" : shownState(this.#status);
    const obstacle = this.#obstacle();
    const changed = this.stage.dataset.state !== state;
    this.stage.dataset.state = state;
    const people = status.count && state !== "off" && state !== "blind" ? ` · ${peopleText(status.count)}` : "";
    this.#text(this.stateText, STATE_LABELS[state] + people);
    this.#message(obstacle);

    const { fps, ageMs } = this.figures;
    this.stats.hidden = Boolean(obstacle) || !fps;
    this.#text(this.rate, `${fps < 9.95 ? fps.toFixed(1) : Math.round(fps)} fps`);
    this.age.hidden = ageMs === null;
    if (ageMs !== null) this.#text(this.ageValue, `${Math.round(ageMs)} ms`);

    const note = obstacle ? null : (problemText(status.problem) ?? (state === "blind" ? problemText("blind") : null));
    this.note.hidden = !note;
    if (note) this.#text(this.note, note);
    const description = `${this.label}: ${STATE_LABELS[state]}${people}${obstacle ? `. ${obstacle[2].replace(/ for \d+ s/, "")}` : ""}`;
    if (this.picture.getAttribute("aria-label") !== description) this.picture.setAttribute("aria-label", description);
    if (changed) this.dispatchEvent(new CustomEvent("sentry-state", { detail: { state, count: status.count ?? 0 } }));
  }

  #message(obstacle) {
    const [kind, drawing, title, text] = obstacle ?? [null, null, "", ""];
    if (kind) this.stage.dataset.message = kind;
    else delete this.stage.dataset.message;
    this.message.classList.toggle("on", Boolean(kind));
    if (this.messageIcon.dataset.icon !== (drawing ?? "")) {
      this.messageIcon.dataset.icon = drawing ?? "";
      this.messageIcon.replaceChildren(...(drawing ? [icon(ICONS[drawing])] : []));
    }
    this.#text(this.messageTitle, title);
    this.#text(this.messageText, text);
    const said = kind ? `${this.label}: ${title.replace(/ for \d+ s/, "")}. ${text}` : `${this.label}: live picture`;
    if (said !== this.#announced && (kind || this.#announced)) {
      this.#announced = said;
      this.#text(this.spoken, said);
    }
  }

  #text(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }
}

if (!customElements.get("detr-sentry-viewer")) customElements.define("detr-sentry-viewer", SentryViewer);
