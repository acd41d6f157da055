/** The gateway's API as the page uses it. Every address is relative, so the page works under any path prefix. */

import { backoffMs } from "./backoff.js";

/** A request that takes longer has failed as far as a person is concerned. */
const ANSWER_WITHIN_MS = 10_000;
const SILENT_MS = 40_000;

/** An answer that is not 2xx (RFC 9457), or none at all (status 0). */
export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.code = code;
  }
}

async function failure(response) {
  let problem = {};
  try {
    problem = await response.json();
  } catch {
    // A proxy between page and engine answers without a problem document; the status then says all there is.
  }
  return new ApiError(
    response.status,
    problem.code ?? null,
    problem.detail ?? problem.title ?? `The engine answered ${response.status}.`,
  );
}

/** JSON of an API path below api/v1/ (null for an empty answer). Throws ApiError. */
export async function request(path, { method = "GET", body } = {}) {
  let response;
  try {
    response = await fetch(new URL(`api/v1/${path}`, document.baseURI), {
      method,
      headers: body === undefined ? {} : { "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(ANSWER_WITHIN_MS),
    });
  } catch {
    throw new ApiError(0, null, "The engine does not answer.");
  }
  if (!response.ok) throw await failure(response);
  const text = await response.text();
  return text ? JSON.parse(text) : null;
}

export const getInfo = () => request("info");
export const getCameras = async () => (await request("cameras")).cameras;
export const getEvents = async (limit) => (await request(`events?limit=${limit}`)).events;
export const openSession = (token) => request("session", { method: "POST", body: { token } });

/** Choose a mode, for `durationS` seconds or (null) until changed. Gives the camera as it now is. */
export function setMode(camera, mode, durationS) {
  const body = durationS ? { mode, duration: durationS } : { mode };
  return request(`cameras/${encodeURIComponent(camera)}/mode`, { method: "POST", body });
}

/** Store a camera in the engine's settings. */
export const addCamera = (id, name, source) =>
  request("settings", { method: "PATCH", body: { cameras: { [id]: { name, source } } } });

export const eventPictureUrl = (event, version) =>
  new URL(`api/v1/events/${encodeURIComponent(event)}/snapshot.jpg?v=${encodeURIComponent(version)}`, document.baseURI)
    .href;

export const snapshotUrl = (camera) =>
  new URL(`api/v1/cameras/${encodeURIComponent(camera)}/snapshot.jpg?boxes=1`, document.baseURI).href;

function socketUrl(path) {
  const url = new URL(`api/v1/${path}`, document.baseURI);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}

export const streamUrl = (camera, width) =>
  socketUrl(`cameras/${encodeURIComponent(camera)}/stream${width ? `?width=${width}` : ""}`);

/**
 * The state of all cameras, pushed: `onSnapshot(message)` first and after every reconnect, then `onChange(message)`.
 * A gap in `seq` asks for a new snapshot by connecting again. `onLink(true|false)` hears whether it is up;
 * `check()` is awaited before each new attempt, so a lost session is noticed (a WebSocket hides its status).
 */
export class Live {
  #socket = null;
  #failures = 0;
  #seq = null;
  #timer = 0;
  #silence = 0;

  constructor({ onSnapshot, onChange, onLink, check }) {
    Object.assign(this, { onSnapshot, onChange, onLink, check });
    addEventListener("online", () => this.#timer && this.start());
  }

  start() {
    this.stop();
    this.#watch();
    this.#socket = new WebSocket(socketUrl("live"));
    this.#socket.onmessage = (message) => this.#receive(JSON.parse(message.data));
    this.#socket.onclose = () => this.#lost();
  }

  stop() {
    clearTimeout(this.#timer);
    clearTimeout(this.#silence);
    this.#timer = 0;
    if (!this.#socket) return;
    this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close();
    this.#socket = null;
  }

  /** The engine speaks at least every 15 s; a link this silent is half open and starts again. */
  #watch() {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.#lost(), SILENT_MS);
  }

  #receive(message) {
    this.#watch();
    if (message.type === "snapshot") {
      this.#failures = 0;
      this.#seq = message.seq ?? null;
      this.onLink(true);
      this.onSnapshot(message);
    } else if (message.type === "change") {
      const gap = this.#seq !== null && message.seq !== this.#seq + 1;
      this.#seq = message.seq ?? null;
      if (gap) this.start();
      else this.onChange(message);
    }
  }

  #lost() {
    this.stop();
    this.onLink(false);
    this.#failures += 1;
    this.#timer = setTimeout(async () => {
      if (await this.check()) this.start();
    }, backoffMs(this.#failures));
  }
}
