/** The look of the viewer's shadow tree. A constructed sheet, because a strict CSP forbids inline styles. */

export const sheet = new CSSStyleSheet();

sheet.replaceSync(`
:host {
  --_standby: var(--sentry-standby-on-video, #8fe3ba);
  --_validating: var(--sentry-validating-on-video, #ffc857);
  --_alarmed: var(--sentry-alarmed-on-video, #ff7b6f);
  --_blind: var(--sentry-blind-on-video, #cdb4ff);
  --_quiet: #c3ccc8;
  display: block;
  position: relative;
  contain: content;
  font: 500 0.875rem/1.35 system-ui, sans-serif;
  color: #fff;
}
:host([hidden]) { display: none; }
.stage {
  position: relative;
  inline-size: 100%;
  aspect-ratio: var(--_ratio, 16 / 9);
  max-block-size: var(--sentry-viewer-max-height, none);
  overflow: hidden;
  container-type: inline-size;
  background: #0a0d0c;
  border-radius: var(--sentry-viewer-radius, 14px);
}
.stage::after {
  content: "";
  position: absolute;
  inset: 0;
  border-radius: inherit;
  pointer-events: none;
  box-shadow: inset 0 0 0 1px rgb(255 255 255 / 9%);
  transition: box-shadow 0.25s;
}
.stage[data-state="validating"]::after { box-shadow: inset 0 0 0 2px var(--_validating); }
.stage[data-state="alarmed"]::after { box-shadow: inset 0 0 0 3px var(--_alarmed); }
canvas { position: absolute; inset: 0; inline-size: 100%; block-size: 100%; display: block; }
.picture { object-fit: contain; transition: opacity 0.3s; }
.overlay { pointer-events: none; }
.stage[data-message] .picture { opacity: 0.28; }
.stage[data-message="closed"] .picture { opacity: 0; transition: none; }
.stage[data-state="blind"][data-message] {
  background: repeating-linear-gradient(135deg, #17112a 0 18px, #20183a 18px 36px);
}
.chip {
  position: absolute;
  inset-block-start: 12px;
  display: flex;
  align-items: center;
  gap: 8px;
  padding: 5px 11px;
  border-radius: 999px;
  background: rgb(8 12 11 / 78%);
  font-variant-numeric: tabular-nums;
  white-space: nowrap;
}
.chip[hidden] { display: none; }
.state { inset-inline-start: 12px; font-weight: 650; }
@container (max-width: 400px) { .wide { display: none; } }
.stats { inset-inline-end: 12px; color: #e3eae7; }
.dot { inline-size: 9px; block-size: 9px; border-radius: 50%; background: var(--_quiet); flex: none; }
[data-state="standby"] .dot { background: var(--_standby); }
[data-state="validating"] .dot { background: var(--_validating); }
[data-state="alarmed"] .dot { background: var(--_alarmed); animation: pulse 1.2s ease-in-out infinite; }
[data-state="blind"] .dot { background: var(--_blind); }
[data-state="off"] .dot { background: none; box-shadow: inset 0 0 0 2px var(--_quiet); }
@keyframes pulse { 50% { opacity: 0.35; } }
.message {
  position: absolute;
  inset: 0;
  display: grid;
  place-content: center;
  justify-items: center;
  gap: 6px;
  padding: 48px 24px 40px;
  text-align: center;
}
.message:not(.on) { visibility: hidden; }
.message svg { inline-size: 44px; block-size: 44px; margin-block-end: 4px; fill: none; stroke: #d5dedb; stroke-width: 1.8; stroke-linecap: round; stroke-linejoin: round; }
.message strong { font-size: 1.15rem; font-weight: 650; }
.message span { color: #d0d9d5; max-inline-size: 44ch; text-wrap: balance; }
.note {
  position: absolute;
  inset-inline: 12px 64px;
  inset-block-end: 12px;
  inline-size: fit-content;
  max-inline-size: calc(100% - 76px);
  padding: 6px 12px;
  border-radius: 10px;
  background: #3c2a6b;
  color: #fff;
}
.note[hidden] { display: none; }
button {
  position: absolute;
  inset: auto 10px 10px auto;
  inline-size: 44px;
  block-size: 44px;
  border: 0;
  border-radius: 12px;
  background: rgb(8 12 11 / 78%);
  color: #fff;
  cursor: pointer;
  opacity: 0.85;
}
button:hover { opacity: 1; }
button:focus-visible { opacity: 1; outline: 3px solid #fff; outline-offset: -5px; }
button[hidden] { display: none; }
button svg { inline-size: 20px; block-size: 20px; fill: none; stroke: currentcolor; stroke-width: 2.2; stroke-linecap: round; stroke-linejoin: round; display: block; margin: auto; }
.sr { position: absolute; inline-size: 1px; block-size: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
:host(:fullscreen) { background: #000; display: grid; align-items: center; }
:host(:fullscreen) .stage { max-block-size: 100vh; block-size: 100vh; border-radius: 0; }
@media (prefers-reduced-motion: reduce) { * { animation: none !important; transition: none !important; } }
`);
