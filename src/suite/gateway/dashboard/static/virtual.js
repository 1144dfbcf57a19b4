// A long list of which only the rows are there that can be seen. It scrolls with the page.

import {h, keep} from "./dom.js";

const MORE = 12; // rows above and below those that can be seen

/** A screen on which rows have two lines, as the styles have it too. */
export const SMALL = "(max-width: 640px)";

/** The height of rows: on a small screen another. @param {number} usual @param {number} small */
export function rowHeight(usual, small) {
  return matchMedia(SMALL).matches ? small : usual;
}

/**
 * @template T
 */
export class Rows {
  /**
   * @param {{
   *   height: number,
   *   key: (item: T) => string,
   *   make: (item: T) => any,
   *   signal: AbortSignal,
   *   label: string,
   *   onEnd?: () => void,
   * }} options height: of each row in pixels, as the styles have it; make: an element whose update(item) shows another
   *   state of the item; onEnd: called when the end of the list is near
   */
  constructor(options) {
    this.options = options;
    /** @type {T[]} */
    this.items = [];
    this.element = h("div.rows", {role: "rowgroup", onkeydown: (event) => this.move(event)});
    this.frame = 0;
    const draw = () => this.later();
    window.addEventListener("scroll", draw, {passive: true, signal: options.signal});
    window.addEventListener("resize", draw, {passive: true, signal: options.signal});
    options.signal.addEventListener("abort", () => cancelAnimationFrame(this.frame));
  }

  /** @param {T[]} items */
  set(items) {
    this.items = items;
    this.element.style.setProperty("height", `${items.length * this.options.height}px`);
    this.draw();
  }

  later() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.draw());
  }

  /** Makes the rows that can be seen, and the one that has the focus. */
  draw() {
    const {height, key, make, onEnd} = this.options;
    const top = this.element.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(-top / height) - MORE);
    const end = Math.min(this.items.length, Math.ceil((window.innerHeight - top) / height) + MORE);
    const places = new Map();
    const focused = this.focusedPlace();
    if (focused >= 0 && (focused < first || focused >= end)) places.set(key(this.items[focused]), focused);
    for (let place = first; place < end; place++) places.set(key(this.items[place]), place);
    const shown = [...places.values()].sort((a, b) => a - b).map((place) => this.items[place]);
    keep(this.element, shown, key, (item) => Object.assign(make(item), {dataset_key: key(item)}));
    for (const row of this.element.children) {
      const place = places.get(row.dataset_key);
      row.style.setProperty("transform", `translateY(${place * height}px)`);
      row.setAttribute("aria-rowindex", String(place + 2)); // the first is that of the names
      row.place = place;
    }
    if (onEnd && end >= this.items.length - MORE) onEnd();
  }

  focusedPlace() {
    const row = this.rowOf(document.activeElement);
    if (!row) return -1;
    return this.items.findIndex((item) => this.options.key(item) === row.dataset_key);
  }

  rowOf(element) {
    while (element && element.parentNode !== this.element) element = element.parentNode;
    return element;
  }

  /** Up and down go to the same control of the next row. */
  move(event) {
    const step = {ArrowDown: 1, ArrowUp: -1}[event.key];
    const row = this.rowOf(event.target);
    if (!step || !row || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    const place = row.place + step;
    if (place < 0 || place >= this.items.length) return;
    event.preventDefault();
    const controls = [row, ...row.querySelectorAll("a, button, [tabindex]")];
    const which = Math.max(0, controls.indexOf(event.target));
    const next = [...this.element.children].find((each) => each.place === place);
    if (!next) return;
    const others = [next, ...next.querySelectorAll("a, button, [tabindex]")];
    (others[Math.min(which, others.length - 1)] ?? next).focus();
    next.scrollIntoView({block: "nearest"});
  }
}
