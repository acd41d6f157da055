/** Times and figures in words. Times are the engine's; "now" only serves to leave out today's date. */

const CLOCK = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
const CLOCK_S = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const DAY = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });

/** Clock time of an RFC 3339 stamp, with the day in front unless it is today. */
export function timeText(stamp, { seconds = false } = {}) {
  const date = new Date(stamp);
  if (!stamp || Number.isNaN(date.valueOf())) return "–";
  const clock = (seconds ? CLOCK_S : CLOCK).format(date);
  return date.toDateString() === new Date().toDateString() ? clock : `${DAY.format(date)}, ${clock}`;
}

/** "8 s", "2 min 5 s", "1 h 3 min". */
export function spanText(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return whole % 60 ? `${minutes} min ${whole % 60} s` : `${minutes} min`;
  return minutes % 60 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${Math.floor(minutes / 60)} h`;
}

/** How long an event lasted, or that it still does. */
export function lengthText({ start, end }) {
  return end ? spanText((new Date(end) - new Date(start)) / 1000) : "now";
}

/** A figure with its unit, or a dash while it is unknown. */
export function figureText(value, unit, digits = 0) {
  return typeof value === "number" && Number.isFinite(value) ? `${value.toFixed(digits)} ${unit}` : "–";
}
