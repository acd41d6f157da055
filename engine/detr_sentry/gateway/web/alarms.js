/** The last alarms: a strip of pictures, and a dialog with one of them large. */

import { eventPictureUrl } from "./api.js";
import { lengthText, timeText } from "./text.js";
import { h, svg } from "./viewer-dom.js";
import { peopleText } from "./viewer-text.js";

/** The picture of an event may improve while it lasts; a new address makes the browser look again. */
const pictureOf = (event) => eventPictureUrl(event.id, event.snapshot_time ?? event.end ?? "now");

/**
 * The box of the person over a picture of any size, or null where the picture is not the very frame of the box.
 * `fit` is how the picture fills its place: "meet" for contain, "slice" for cover.
 */
function boxOver(event, fit) {
  if (!event.snapshot_exact || !event.box || !event.width) return null;
  const [x1, y1, x2, y2] = event.box;
  const view = { viewBox: `0 0 ${event.width} ${event.height}`, preserveAspectRatio: `xMidYMid ${fit}` };
  const rectangle = svg("rect", { x: x1, y: y1, width: x2 - x1, height: y2 - y1, rx: event.width / 200 });
  return svg("svg", { ...view, class: "box", "aria-hidden": "true" }, rectangle);
}

function thumbnail(event) {
  const missing = h("span", { class: "missing" }, "No picture stored");
  if (event.snapshot === false) return missing;
  const image = h("img", { alt: "", loading: "lazy", decoding: "async", width: 320, height: 180 });
  const picture = h("span", { class: "thumbnail" }, image, boxOver(event, "slice"));
  image.addEventListener("error", () => picture.replaceWith(missing));
  image.src = pictureOf(event);
  return picture;
}

export class Alarms {
  #list;
  #empty;
  #dialog;
  #events = [];
  #names = new Map();
  #shown = null;
  #drawn = "";

  /** `dialog` holds img, .missing, h2, p.facts and the buttons [data-step]. */
  constructor({ list, empty, dialog }) {
    this.#list = list;
    this.#empty = empty;
    this.#dialog = dialog;
    dialog.addEventListener("click", (event) => this.#click(event));
    dialog.addEventListener("keydown", (event) => this.#key(event));
    this.image = dialog.querySelector("img");
    this.image.addEventListener("error", () => this.#missing(true));
  }

  /** Show `events` (newest first); `names` maps camera ids to names and is shown when there are several. */
  update(events, names) {
    const drawn = JSON.stringify([events, [...names]]);
    if (drawn === this.#drawn) return;
    this.#drawn = drawn;
    this.#events = events;
    this.#names = names;
    this.#empty.hidden = events.length > 0;
    const focused = [...this.#list.children].findIndex((item) => item.contains(document.activeElement));
    this.#list.replaceChildren(...events.map((event) => this.#item(event)));
    const open = this.#dialog.open ? events.find(({ id }) => id === this.#shown) : null;
    if (open) this.#open(open);
    if (focused >= 0) this.#list.children[Math.min(focused, events.length - 1)]?.firstElementChild.focus();
  }

  #item(event) {
    return h(
      "li",
      {},
      h(
        "button",
        {
          type: "button",
          class: "alarm",
          "data-event": event.id,
          "data-live": !event.end,
          onclick: () => this.#open(event),
        },
        thumbnail(event),
        h(
          "span",
          { class: "caption" },
          h("span", { class: "sr" }, "Alarm "),
          h("time", { datetime: event.start }, timeText(event.start)),
          h("small", { class: "length" }, event.end ? lengthText(event) : "Now"),
          this.#names.size > 1 ? h("small", { class: "where" }, this.#names.get(event.camera) ?? event.camera) : null,
        ),
      ),
    );
  }

  #open(event) {
    this.#shown = event.id;
    const index = this.#events.indexOf(event);
    const name = this.#names.get(event.camera) ?? event.camera;
    const score = typeof event.confidence === "number" ? `, best score ${Math.round(event.confidence * 100)} %` : "";
    const length = event.end ? `lasted ${lengthText(event)}` : "still there";
    const [previous, next] = this.#dialog.querySelectorAll("[data-step]");
    this.#missing(event.snapshot === false);
    if (event.snapshot !== false) this.image.src = pictureOf(event);
    this.#dialog.querySelector("svg.box")?.remove();
    this.image.after(boxOver(event, "meet") ?? "");
    this.image.alt = `Best picture of the alarm: ${name}, ${peopleText(event.count || 1)}`;
    this.#dialog.querySelector("h2").textContent = `${name}, ${timeText(event.start, { seconds: true })}`;
    this.#dialog.querySelector(".facts").textContent = `${peopleText(event.count || 1)}, ${length}${score}`;
    previous.disabled = index === this.#events.length - 1;
    next.disabled = index === 0;
    if (!this.#dialog.open) this.#dialog.showModal();
  }

  #missing(missing) {
    this.image.hidden = missing;
    if (missing) this.#dialog.querySelector("svg.box")?.remove();
    this.#dialog.querySelector(".missing").hidden = !missing;
  }

  #step(step) {
    const event = this.#events[this.#events.findIndex(({ id }) => id === this.#shown) + step];
    if (event) this.#open(event);
  }

  #click(event) {
    const step = event.target.closest("[data-step]");
    if (step) this.#step(Number(step.dataset.step));
    else if (event.target === this.#dialog || event.target.closest("[data-close]")) this.#dialog.close();
  }

  #key(event) {
    const step = { ArrowLeft: 1, ArrowRight: -1 }[event.key];
    if (step) this.#step(step);
  }
}
