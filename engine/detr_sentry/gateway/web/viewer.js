/**
 * <detr-sentry-viewer>: live picture of one camera with boxes, state, rate and age. Self-contained: this file and
 * the viewer-*.js and backoff.js beside it.
 *
 *   viewer.camera = "front_door"; viewer.label = "Front door";
 *   viewer.connect = async (camera) => "wss://...";   // asked before each attempt, so an address may be signed
 *   viewer.status = {state, mode, blind, problem, count};   // optional: what is known beside the stream
 *   viewer.closing();                                 // the user asked for off: hide the picture before the answer
 *
 * Fires `sentry-state` (detail {state, count}) when the shown state changes, and `sentry-link` (detail {link}) when
 * the stream's does.
 */

import { FrameLink } from "./viewer-link.js";
import { peopleText, problemText, shownState, STATE_LABELS } from "./viewer-text.js";
import { ViewerView } from "./viewer-view.js";

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

const OBSTACLES = {
  closing: { kind: "closed", icon: "closed", title: "Closing the camera", text: "Waiting for the engine to confirm." },
  closed: {
    kind: "closed",
    icon: "closed",
    title: "Camera closed",
    text: "No pictures are taken while the mode is Off.",
  },
  connecting: { kind: "link", icon: "link", title: "Connecting", text: "" },
  waiting: { kind: "link", icon: "link", title: "Connecting", text: "Waiting for a picture." },
  lost: { kind: "link", icon: "link", title: "Connecting again", text: "The connection to the engine was lost." },
};

/** The keys of a stream message that tell of the camera, not of the picture. */
const STATE_KEYS = ["state", "mode", "blind", "problem", "count"];
const stateOf = (header) =>
  Object.fromEntries(STATE_KEYS.filter((key) => key in header).map((key) => [key, header[key]]));

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
  #view = new ViewerView(this);
  #ticker = 0;
  #hiddenTimer = 0;
  #resizes = new ResizeObserver(() => {
    this.#view.fit();
    this.#drawBoxes();
  });
  #wake = () => this.#link.restart();
  #visibility = () => this.#visible();

  constructor() {
    super();
    /** Async function that gives the WebSocket address for a camera; the host page or card sets it. */
    this.connect = () => Promise.reject(new Error("no connect() given"));
  }

  connectedCallback() {
    this.#pictureMs = performance.now();
    this.#resizes.observe(this.#view.stage);
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
    const ageMs =
      frame?.header.frame_age_ms == null ? null : frame.header.frame_age_ms + frame.drawnMs - frame.receivedMs;
    return {
      fps: span ? (1000 * (recent.length - 1)) / span : 0,
      ageMs,
      skipped: this.#link.skipped,
      link: this.#link.state,
    };
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

  /** The canvases, for whoever wants to look at what is shown. */
  get picture() {
    return this.#view.picture;
  }

  get overlay() {
    return this.#view.overlay;
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
    this.#view.draw(bitmap, header.width, header.height);
    this.#drawBoxes();
    if (first || shownState(this.#status) !== this.#view.state) this.#render();
  }

  #drawBoxes() {
    const { source } = this;
    if (source) this.#view.drawBoxes(this.boxes, source, shownState(this.#status));
  }

  /** Remove every trace of the last picture. */
  #blank() {
    this.#frame = null;
    this.#drawnMs.length = 0;
    this.#view.blank();
  }

  #closed() {
    this.#closing = false;
    this.#offMs = performance.now();
    this.#blank();
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

  #tick() {
    const silentMs = performance.now() - this.#heardMs;
    if (silentMs > SILENT_MS && this.#link.state === "open" && shownState(this.#status) !== "off") this.#link.restart();
    this.#drawBoxes();
    this.#render();
  }

  /** What stands in the place of the picture, or null while the picture is good. */
  #obstacle() {
    if (this.#closing) return OBSTACLES.closing;
    const state = shownState(this.#status);
    if (state === "off") return OBSTACLES.closed;
    if (this.#link.state !== "open") {
      return this.#link.state === "waiting" || this.#link.error ? OBSTACLES.lost : OBSTACLES.connecting;
    }
    const now = performance.now();
    const quietMs = now - this.#pictureMs;
    const fps = this.#frame?.header.fps;
    if (this.#frame && quietMs < Math.max(STALE_MS, fps > 0 ? 3000 / fps : 0)) return null;
    if (now - this.#heardMs < STALE_MS) return OBSTACLES.waiting;
    const hint = problemText(this.#status.problem) ?? "The camera or the connection is silent.";
    return {
      kind: "stale",
      icon: "blind",
      title: "No picture",
      since: ` for ${Math.floor(quietMs / 1000)} s`,
      text: state === "blind" ? `Blind. ${hint}` : hint,
    };
  }

  #render() {
    const { count, problem } = this.#status;
    const state = this.#closing ? "off" : shownState(this.#status);
    const obstacle = this.#obstacle();
    const changed = this.#view.state !== state;
    const people = count && state !== "off" && state !== "blind" ? ` · ${peopleText(count)}` : "";
    const note = obstacle ? null : problemText(problem ?? (state === "blind" ? "blind" : null));
    this.#view.show({ label: this.label, state, words: STATE_LABELS[state] + people, obstacle, note, ...this.figures });
    if (changed) this.dispatchEvent(new CustomEvent("sentry-state", { detail: { state, count: count ?? 0 } }));
  }
}

if (!customElements.get("detr-sentry-viewer")) customElements.define("detr-sentry-viewer", SentryViewer);
