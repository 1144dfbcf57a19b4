// Elements, without a framework: what a view shows is made once, and then its parts are set.

const SVG = "http://www.w3.org/2000/svg";

/**
 * Makes an element: h("a.name", {href, onclick, class, dataset, style}, child, "text").
 * Properties that are no attributes (on..., value, hidden, disabled, checked) are set as properties.
 * @param {string} what tag, and classes behind dots
 * @param {Record<string, any>} [props]
 * @param {...any} children nodes, texts, arrays of them; null and false are left out
 * @returns {any}
 */
export function h(what, props = {}, ...children) {
  const [tag, ...classes] = what.split(".");
  return filled(document.createElement(tag || "div"), classes, props, children);
}

/** The same for SVG. @param {string} what @param {Record<string, any>} [props] @param {...any} children @returns {any} */
export function s(what, props = {}, ...children) {
  const [tag, ...classes] = what.split(".");
  return filled(document.createElementNS(SVG, tag), classes, props, children);
}

/** Replaces all children. @param {Element} parent @param {...any} children */
export function fill(parent, ...children) {
  parent.replaceChildren(...flat(children));
}

/** Sets a text if it is another one: a tenth of the cost where nothing has changed. @param {Node} node @param {any} text */
export function put(node, text) {
  const wanted = String(text ?? "");
  if (node.textContent !== wanted) node.textContent = wanted;
}

/** Sets or removes an attribute if it is another one. @param {Element} node @param {string} name @param {any} value */
export function set(node, name, value) {
  if (value === null || value === undefined || value === false) {
    if (node.hasAttribute(name)) node.removeAttribute(name);
  } else {
    const wanted = value === true ? "" : String(value);
    if (node.getAttribute(name) !== wanted) node.setAttribute(name, wanted);
  }
}

/**
 * Keeps one child for each item, in their order; what is there already stays, with its focus and its selection.
 * @template T
 * @param {Element & {_kept?: Map<string, any>}} parent
 * @param {T[]} items
 * @param {(item: T) => string} key
 * @param {(item: T) => Element & {update?: (item: T) => void}} make
 */
export function keep(parent, items, key, make) {
  const had = parent._kept ?? new Map();
  const kept = new Map();
  let next = parent.firstChild;
  for (const item of items) {
    const id = key(item);
    const element = had.get(id) ?? make(item);
    element.update?.(item);
    kept.set(id, element);
    if (element === next) next = next.nextSibling;
    else parent.insertBefore(element, next);
  }
  for (const [id, element] of had) if (kept.get(id) !== element) element.remove();
  parent._kept = kept;
}

/**
 * Work that is done at most once for each picture that the screen shows, however often it is asked for; never for a
 * page that nobody can see.
 * @template T
 * @param {(told: T) => void} work @param {AbortSignal} signal
 * @returns {(told?: T) => void}
 */
export function eachFrame(work, signal) {
  let frame = 0;
  let last;
  signal.addEventListener("abort", () => cancelAnimationFrame(frame));
  return (told) => {
    last = told;
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      work(last);
    });
  };
}

function filled(element, classes, props, children) {
  if (classes.length) element.setAttribute("class", classes.join(" "));
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null) continue;
    if (name === "class") element.setAttribute("class", [...classes, value].join(" "));
    else if (name === "style") for (const [key, each] of Object.entries(value)) element.style.setProperty(key, each);
    else if (name === "dataset") Object.assign(element.dataset, value);
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && !(element instanceof SVGElement) && typeof value !== "string") element[name] = value;
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value);
  }
  element.append(...flat(children));
  return element;
}

function flat(children) {
  return children.flat(9).filter((each) => each !== null && each !== undefined && each !== false && each !== "");
}
