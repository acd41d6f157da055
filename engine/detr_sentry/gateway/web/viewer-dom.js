/** Building the viewer's tree without markup strings, so no data can ever become HTML. */

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes and children; an `on...` attribute is a listener, null and false are left out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** An SVG element with attributes and children. */
export function svg(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** A 24 x 24 line drawing, hidden from assistive technology. */
export function icon(path) {
  return svg("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" }, svg("path", { d: path }));
}

export const ICONS = {
  closed:
    "M3 3l18 18M10 6h4l2 2h3a2 2 0 0 1 2 2v7" +
    "M17.500 19H5a2 2 0 0 1-2-2V9.500A2 2 0 0 1 5 8h1.500M9.500 11.500a3.500 3.500 0 0 0 4.800 4.800",
  link: "M5 12.500a10 10 0 0 1 14 0M8 15.500a6 6 0 0 1 8 0M2 9.300a14.500 14.500 0 0 1 20 0M12 19h.01",
  blind:
    "M3 3l18 18M10 5.300A10 10 0 0 1 22 12a13 13 0 0 1-2.300 3.300" +
    "M6.500 6.700A13 13 0 0 0 2 12a10.500 10.500 0 0 0 14.500 5.700M9.900 9.900a3 3 0 0 0 4.200 4.200",
  full: "M4 9V5a1 1 0 0 1 1-1h4M15 4h4a1 1 0 0 1 1 1v4M20 15v4a1 1 0 0 1-1 1h-4M9 20H5a1 1 0 0 1-1-1v-4",
};
