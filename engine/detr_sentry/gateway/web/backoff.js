/** How long to wait before the next attempt of a link that must come back by itself. */

/** First wait: a restarted engine is usually back within a second. */
const FIRST_MS = 500;
/** Longest wait: short enough that nobody reloads the page by hand. */
const CAP_MS = 10_000;

/**
 * Milliseconds to wait after `failures` (>= 1) attempts in a row: doubling, capped, with half of it random so
 * that many viewers of one engine do not return in the same instant. `random` is in [0, 1).
 */
export function backoffMs(failures, random = Math.random()) {
  const ceiling = Math.min(CAP_MS, FIRST_MS * 2 ** Math.min(failures - 1, 16));
  return ceiling / 2 + (ceiling / 2) * random;
}
