/** The live stream of one camera: connects, reconnects for ever, acknowledges, hands over only the newest picture. */

import { backoffMs } from "./backoff.js";

/** An attempt that has not opened by then is given up (a dead route answers nothing at all). */
const OPEN_WITHIN_MS = 10_000;

/**
 * Split one stream message: u32 LE length of the JSON, the JSON, the JPEG (empty when only the state is told).
 * Returns `{header, jpeg}`; throws RangeError or SyntaxError for anything else.
 */
export function parseMessage(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  return { header, jpeg: new Uint8Array(buffer, 4 + length) };
}

/**
 * A stream that is decoded off the main thread and drawn once per display refresh. Every picture is acknowledged
 * exactly once, when it was drawn or dropped for a newer one; that is the engine's credit, so a slow viewer gets
 * fewer pictures, never older ones.
 *
 * `url` is an async function that gives the address of each attempt (a signed address may be used once).
 * `onFrame(header, bitmap, receivedMs)` draws; `bitmap` is null when only the state is told, else closed afterwards.
 * `onLink(state)` hears "connecting", "open", "waiting" or "stopped".
 */
export class FrameLink {
  #url;
  #onFrame;
  #onLink;
  #socket = null;
  #timer = 0;
  #running = false;
  #failures = 0;
  #generation = 0;
  #incoming = null;
  #decoding = false;
  #ready = null;
  #drawRequest = 0;

  constructor({ url, onFrame, onLink }) {
    this.#url = url;
    this.#onFrame = onFrame;
    this.#onLink = onLink;
    this.state = "stopped";
    this.skipped = 0;
    this.broken = 0;
    this.error = null;
  }

  start() {
    if (this.#running) return;
    this.#running = true;
    this.#failures = 0;
    this.#open();
  }

  stop() {
    this.#running = false;
    this.#close();
    this.#to("stopped");
  }

  /** Give up the present connection, if any, and try at once. */
  restart() {
    if (!this.#running) return;
    this.#close();
    this.#open();
  }

  #to(state) {
    if (this.state === state) return;
    this.state = state;
    this.#onLink(state);
  }

  async #open() {
    const generation = ++this.#generation;
    this.#to("connecting");
    let socket;
    try {
      const url = await this.#url();
      if (generation !== this.#generation) return;
      socket = new WebSocket(url);
    } catch (error) {
      if (generation === this.#generation) this.#retry(error);
      return;
    }
    this.#socket = socket;
    socket.binaryType = "arraybuffer";
    this.#timer = setTimeout(() => this.#retry(new Error("no answer")), OPEN_WITHIN_MS);
    socket.onopen = () => {
      clearTimeout(this.#timer);
      this.#to("open");
    };
    socket.onmessage = (message) => this.#receive(socket, message.data);
    socket.onclose = (event) => this.#retry(new Error(event.reason || `closed (${event.code})`));
  }

  #close() {
    this.#generation += 1;
    clearTimeout(this.#timer);
    if (this.#socket) {
      this.#socket.onopen = this.#socket.onmessage = this.#socket.onclose = null;
      this.#socket.close();
      this.#socket = null;
    }
    this.#forget();
  }

  #retry(error) {
    this.error = error;
    this.#close();
    if (!this.#running) return;
    this.#failures += 1;
    this.#to("waiting");
    this.#timer = setTimeout(() => this.#open(), backoffMs(this.#failures));
  }

  #ack(item) {
    if (item.socket.readyState === WebSocket.OPEN) {
      item.socket.send(JSON.stringify({ ack: item.header.frame_number }));
    }
  }

  #drop(item) {
    item.bitmap?.close();
    this.skipped += 1;
    this.#ack(item);
  }

  #forget() {
    cancelAnimationFrame(this.#drawRequest);
    this.#drawRequest = 0;
    if (this.#ready) this.#drop(this.#ready);
    if (this.#incoming) this.#drop(this.#incoming);
    this.#ready = this.#incoming = null;
  }

  #receive(socket, data) {
    const receivedMs = performance.now();
    let message;
    try {
      message = parseMessage(data);
    } catch (error) {
      this.broken += 1;
      this.#retry(error);
      return;
    }
    this.#failures = 0;
    const item = { ...message, socket, receivedMs, bitmap: null };
    if (item.jpeg.length === 0) {
      if (item.header.state === "off") {
        this.#generation += 1;
        this.#forget();
      }
      this.#onFrame(item.header, null, receivedMs);
      return;
    }
    if (this.#incoming) this.#drop(this.#incoming);
    this.#incoming = item;
    this.#decode();
  }

  async #decode() {
    if (this.#decoding) return;
    this.#decoding = true;
    while (this.#incoming) {
      const item = this.#incoming;
      const generation = this.#generation;
      this.#incoming = null;
      try {
        item.bitmap = await createImageBitmap(new Blob([item.jpeg], { type: "image/jpeg" }));
      } catch {
        this.broken += 1;
        this.#ack(item);
        continue;
      }
      if (generation !== this.#generation) {
        this.#drop(item);
        continue;
      }
      if (this.#ready) this.#drop(this.#ready);
      this.#ready = item;
      this.#drawRequest ||= requestAnimationFrame(() => this.#draw());
    }
    this.#decoding = false;
  }

  #draw() {
    const item = this.#ready;
    this.#drawRequest = 0;
    this.#ready = null;
    this.#onFrame(item.header, item.bitmap, item.receivedMs);
    item.bitmap.close();
    this.#ack(item);
  }
}
