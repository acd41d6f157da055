/** The camera picker: a tab list (arrow keys, Home, End), shown once there is more than one camera. */

import { h } from "./viewer-dom.js";
import { shownState, STATE_LABELS } from "./viewer-text.js";

export class CameraTabs {
  #list;
  #onPick;
  #tabs = new Map();

  /** `list` is the role="tablist" element, `onPick(id)` hears what a person chose. */
  constructor(list, onPick) {
    this.#list = list;
    this.#onPick = onPick;
    list.addEventListener("keydown", (event) => this.#key(event));
  }

  /** Show `cameras` in their order with `selected` chosen; existing tabs keep the focus. */
  update(cameras, selected) {
    for (const [id, tab] of this.#tabs) {
      if (!cameras.some((camera) => camera.id === id)) {
        tab.remove();
        this.#tabs.delete(id);
      }
    }
    for (const camera of cameras) {
      const tab = this.#tabs.get(camera.id) ?? this.#add(camera.id);
      const state = shownState(camera);
      const chosen = camera.id === selected;
      tab.dataset.state = state;
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
      const [, name, word] = tab.children;
      if (name.textContent !== camera.name) name.textContent = camera.name;
      if (word.textContent !== STATE_LABELS[state]) word.textContent = STATE_LABELS[state];
    }
    this.#list.hidden = cameras.length < 2;
  }

  #add(id) {
    const tab = h(
      "button",
      {
        type: "button",
        role: "tab",
        id: `tab-${id}`,
        "aria-controls": "view",
        class: "tab",
        onclick: () => this.#onPick(id),
      },
      h("span", { class: "dot", "aria-hidden": "true" }),
      h("span"),
      h("small"),
    );
    this.#tabs.set(id, tab);
    this.#list.append(tab);
    return tab;
  }

  #key(event) {
    const tabs = [...this.#list.children];
    const at = tabs.indexOf(document.activeElement);
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (at < 0 || next === undefined) return;
    event.preventDefault();
    const tab = tabs[(next + tabs.length) % tabs.length];
    tab.focus();
    tab.click();
  }
}
