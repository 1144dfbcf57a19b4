// Parts that several views have.

import {h, put} from "./dom.js";

/** A figure with its name: set(value, more). @param {string} name @param {any} [chart] */
export function figure(name, chart) {
  const value = h("span", {}, "–");
  const more = h("small");
  return {
    element: h("div.figure", {}, h("dt", {}, name), h("dd", {}, value, " ", more, chart)),
    set(told, beside = "") {
      put(value, told);
      put(more, beside);
    },
  };
}

/** A state in words, with a dot of its colour. @param {string} kind good, busy, warn, bad or hollow @param {string} text */
export function badge(kind, text) {
  return h("span.badge", {class: kind}, text);
}

/** What is said where there is nothing yet: what it is, and how there comes to be some. @param {string} title @param {any} text
 * @param {"" | "brief"} [size] */
export function empty(title, text, size = "") {
  return h("div.empty", {class: size}, h("strong", {}, title), text);
}

/** A message about a failed look-up, in place of what was looked up. @param {any} error */
export function failed(error) {
  return h("div.notice.bad", {role: "alert"}, `${error.message}${error.code ? ` (${error.code})` : ""}`);
}


/**
 * A long list as a table that scrolls by itself: the names of its columns over its rows.
 * @param {string} label
 * @param {any[]} names of the columns, or what stands there
 * @param {import("./virtual.js").Rows<any>} rows
 */
export function tableOf(label, names, rows) {
  const head = h("div.row.columns", {role: "row"}, names.map((name) => h("div", {role: "columnheader"}, name)));
  const scroller = h("div.scroller", {onscroll: () => rows.later()}, rows.element);
  return h("div", {role: "table", "aria-label": label}, h("div", {role: "rowgroup"}, head), scroller);
}
