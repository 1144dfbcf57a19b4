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

/**
 * The id of the model that is meant by a name in an address, as the command line takes it: an alias, another case, or a
 * beginning that only one has. Throws a Refusal if there is none, or several.
 * @param {any} context @param {string} name @returns {Promise<string>}
 */
export async function meant(context, name) {
  if (context.live.models.has(name)) return name;
  return (await context.get(`/ui/model?${new URLSearchParams({name})}`)).model_id;
}

/**
 * The same for a view about what was: of a model that is not there any more, the log still knows. Puts the id into the
 * address; a name that means none is told, and kept. @param {any} context @returns {Promise<HTMLElement | null>}
 */
export async function findModel(context) {
  const {params} = context;
  if (!params.model) return null;
  try {
    const model = await meant(context, params.model);
    if (model !== params.model) context.replace(Object.assign(params, {model}));
    return null;
  } catch (error) {
    if (error.code !== "model_not_found") throw error;
    return h("div.notice", {role: "status"}, `${error.message}. What is shown is what the log knows of ${params.model}.`);
  }
}

/** What is said about a part of an address that makes no sense. @param {string} text */
export function ignored(text) {
  return h("div.notice.bad", {role: "alert"}, text);
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
