/** What states and problems are called, wherever people read them. */

export const STATE_LABELS = {
  standby: "Standby",
  validating: "Checking",
  alarmed: "Alarmed",
  off: "Off",
  blind: "Blind",
  unknown: "Unknown",
};

/** By problem code without the service's prefix: capture, controller and gateway name the same troubles. */
const PROBLEMS = {
  connecting: "The engine is connecting to the camera.",
  stalled: "The camera is connected but sends no pictures.",
  gone: "The camera is not there. Is it plugged in and switched on?",
  refused: "The camera refuses the connection. Is another program using it?",
  unauthorized: "The camera refuses the user name or password.",
  wrong_format: "The camera sends pictures in a form that was not agreed.",
  blind: "The detector gives no answer about this camera.",
  capture_dead: "The program that reads this camera is starting again.",
  inference_dead: "The detector is starting again.",
  controller_dead: "The controller is starting again; the state is not known.",
  mode_lost: "The stored mode was lost, so the camera stays closed. Choose a mode.",
  disk_full: "The disk is full: alarms are not stored.",
  disk_readonly: "The disk is read-only: alarms are not stored.",
  disk_error: "The disk reports errors: alarms may not be stored.",
};

/** A sentence for a camera's problem code; an unknown code is shown as it is. Null without a problem. */
export function problemText(code) {
  if (!code) return null;
  return (
    PROBLEMS[code] ?? PROBLEMS[code.replace(/^camera_/, "")] ?? `The engine reports: ${code.replaceAll("_", " ")}.`
  );
}

/** "no people", "1 person", "2 people". */
export function peopleText(count) {
  if (!count) return "no people";
  return count === 1 ? "1 person" : `${count} people`;
}

/** The word that describes a camera: its state, unless it is closed or cannot see. */
export function shownState({ state, mode, blind } = {}) {
  if (state === "off" || mode === "off") return "off";
  if (blind) return "blind";
  return state in STATE_LABELS ? state : "unknown";
}
