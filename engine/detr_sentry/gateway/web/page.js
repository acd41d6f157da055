/** The live page: puts the pieces together and keeps the state of all cameras. */

import { getCameras, getEvents, getInfo, Live, openSession, snapshotUrl, streamUrl } from "./api.js";
import { Alarms } from "./alarms.js";
import { ModeSwitch } from "./modes.js";
import { setUp } from "./setup.js";
import { CameraTabs } from "./tabs.js";
import { figureText, timeText } from "./text.js";
import "./viewer.js";
import { peopleText, problemText, shownState, STATE_LABELS } from "./viewer-text.js";

/** Behind a proxy that lets no WebSocket through, the state is asked for while someone looks. */
const ASK_EVERY_MS = 5000;
/** A link that is back sooner leaves no gap worth showing. */
const LOST_MS = 3000;
/** An alarm's event is written with its picture; both are there a moment after the state changed. */
const EVENTS_AFTER_MS = 700;
const EVENTS_SHOWN = 12;
/** The smaller rendition is enough for a phone held upright and saves its data plan. */
const PHONE = matchMedia("(max-width: 520px)");
const PHONE_WIDTH = 640;

const $ = (id) => document.getElementById(id);
const cameras = new Map();
let selected = null;
let changes = 0;
let eventsTimer = 0;
let lostTimer = 0;
let started = false;

const viewer = $("viewer");
viewer.connect = async (camera) => streamUrl(camera, PHONE.matches ? PHONE_WIDTH : null);

const tabs = new CameraTabs($("tabs"), select);
const alarms = new Alarms({ list: $("alarm-list"), empty: $("no-alarms"), dialog: $("event") });
const modes = new ModeSwitch($("mode-form"), {
  until: $("until"),
  error: $("mode-error"),
  onAsk: (id, mode) => id === selected && viewer.closing(mode === "off"),
  onAnswer: (id, camera) => {
    if (id === selected) viewer.closing(false);
    if (camera) changed(camera);
  },
});
setUp($("setup"), { error: $("setup-error"), done: $("setup-done") });
const live = new Live({
  onSnapshot: (message) => {
    describeEngine(message.info);
    replaceAll(message.cameras);
  },
  onChange: (message) => {
    if (message.camera) changed(message.camera);
    if (message.event) soonEvents();
    if (message.info) describeEngine(message.info);
  },
  onLink: linked,
  check: () => refresh(),
});

function say(text) {
  $("announce").textContent = text;
}

function text(id, value) {
  const element = $(id);
  if (element.textContent !== value) element.textContent = value;
}

function linked(up) {
  $("link").dataset.up = String(up);
  text("link-text", up ? "Live" : "Connecting again");
  clearTimeout(lostTimer);
  if (!up) lostTimer = setTimeout(forget, LOST_MS);
}

/** What was last heard is no longer true enough to be shown. */
function forget() {
  for (const camera of cameras.values())
    Object.assign(camera, { state: null, blind: null, problem: null, count: null, since: null });
  draw();
}

/** One camera as the engine now describes it. */
function changed(camera) {
  take(camera);
  draw();
}

function take(camera) {
  const former = cameras.get(camera.id);
  changes += 1;
  cameras.set(camera.id, { ...former, ...camera });
  const now = cameras.get(camera.id);
  const state = shownState(now);
  if (former && shownState(former) !== state) {
    say(`${now.name}: ${STATE_LABELS[state]}${state === "alarmed" ? `, ${peopleText(now.count)}` : ""}`);
  }
  if (former?.last_event_id !== now.last_event_id || (former && shownState(former) !== state)) soonEvents();
}

function replaceAll(list) {
  for (const id of cameras.keys()) if (!list.some((camera) => camera.id === id)) cameras.delete(id);
  for (const camera of list) take(camera);
  draw();
}

function select(id) {
  selected = id;
  history.replaceState(null, "", `#${encodeURIComponent(id)}`);
  draw();
}

function draw() {
  const list = [...cameras.values()];
  if (list.length > 0) text("setup-done", "");
  $("empty").hidden = list.length > 0;
  $("board").hidden = list.length === 0;
  $("starting").hidden = true;
  if (!cameras.has(selected)) {
    const wanted = decodeURIComponent(location.hash.slice(1));
    selected = cameras.has(wanted) ? wanted : (list[0]?.id ?? null);
  }
  tabs.update(list, selected);
  viewer.camera = selected;
  const camera = cameras.get(selected);
  if (!camera) return;
  const view = $("view");
  view.setAttribute("role", list.length > 1 ? "tabpanel" : "region");
  if (list.length > 1) view.setAttribute("aria-labelledby", `tab-${selected}`);
  else view.removeAttribute("aria-labelledby");
  viewer.label = camera.name;
  viewer.status = camera;
  modes.update(camera);
  describe(camera);
}

function describe(camera) {
  const state = shownState(camera);
  $("panel").dataset.state = state;
  text("camera-name", camera.name);
  text("state", STATE_LABELS[state]);
  text("since", camera.since ? `since ${timeText(camera.since)}` : "");
  $("count").hidden = camera.count === null || state === "off" || state === "blind";
  const nobody = state === "alarmed" ? "Out of sight at the moment" : "Nobody there";
  text("count", camera.count ? peopleText(camera.count) : nobody);
  const problem = problemText(camera.problem);
  $("problem").hidden = !problem;
  text("problem", problem ?? "");
  $("save").href = snapshotUrl(camera.id);
  $("save").hidden = state === "off";
  const drops = typeof camera.drops === "object" && camera.drops ? Object.values(camera.drops) : [camera.drops ?? 0];
  text("f-fps", figureText(camera.fps, "fps", 1));
  text("f-age", figureText(camera.frame_age_ms, "ms"));
  text("f-inference", figureText(camera.inference_ms, "ms"));
  text("f-model", camera.model ?? "–");
  text("f-provider", camera.provider ?? "–");
  text("f-size", camera.width ? `${camera.width} × ${camera.height} ${camera.pixel_format ?? ""}` : "–");
  text("f-drops", String(drops.reduce((sum, count) => sum + count, 0)));
  text("f-seen", timeText(camera.last_seen));
  text("f-source", camera.source ?? "–");
}

function soonEvents() {
  clearTimeout(eventsTimer);
  eventsTimer = setTimeout(showEvents, EVENTS_AFTER_MS);
}

async function showEvents() {
  try {
    const events = await getEvents(EVENTS_SHOWN * 2);
    const names = new Map([...cameras.values()].map((camera) => [camera.id, camera.name]));
    alarms.update(events.filter((event) => event.type === "human_detected").slice(0, EVENTS_SHOWN), names);
    text("alarms-error", "");
  } catch (error) {
    text(
      "alarms-error",
      error.status === 401 ? "" : "The list of alarms could not be read. It is tried again with the next change.",
    );
  }
}

/** Ask for all cameras once; true if the page may go on, false when a token must be given first. */
async function refresh() {
  const asked = changes;
  try {
    const list = await getCameras();
    if (asked === changes) replaceAll(list);
  } catch (error) {
    if (error.status === 401) {
      askToken();
      return false;
    }
  }
  return true;
}

function askToken() {
  live.stop();
  started = false;
  viewer.camera = null;
  $("board").hidden = $("empty").hidden = $("starting").hidden = true;
  $("login").hidden = false;
  $("token").focus();
}

$("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  text("login-error", "");
  try {
    await openSession($("token").value.trim());
    $("token").value = "";
    $("login").hidden = true;
    start();
  } catch (error) {
    text(
      "login-error",
      error.status === 401 || error.status === 403 ? "That token is not the engine's." : error.message,
    );
    $("token").focus();
  }
});

function describeEngine(info) {
  const name = info.name ?? info.instance_id ?? "";
  text("instance", name);
  document.title = name ? `${name} · DETR Sentry` : "DETR Sentry";
  text(
    "engine",
    [info.version && `DETR Sentry ${info.version}`, info.provider, info.model].filter(Boolean).join(" · "),
  );
  $("banner").hidden = !info.embedded;
}

async function start() {
  if (started) return;
  started = true;
  if (!(await refresh())) return;
  getInfo().then(describeEngine, () => {});
  live.start();
  showEvents();
}

setInterval(() => {
  if (started && !document.hidden && $("link").dataset.up === "false") refresh();
}, ASK_EVERY_MS);
addEventListener("hashchange", () => {
  const wanted = decodeURIComponent(location.hash.slice(1));
  if (cameras.has(wanted)) select(wanted);
});
start();
