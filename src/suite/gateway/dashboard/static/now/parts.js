// What the parts of the view Now have in common.

import {h, put, set} from "../dom.js";

export function showBadge(element, kind, text) {
  set(element, "class", `badge ${kind}`);
  put(element, text);
}

export function header(names) {
  return h(
    "div",
    {role: "rowgroup"},
    h("div.row.columns", {role: "row"}, names.map((name) => h("span", {role: "columnheader", class: name.kind ?? ""}, name.text ?? name))),
  );
}

export function cell(child, kind = "") {
  return h("div", {role: "cell", class: kind}, child);
}

/** Has an action done, and says what became of it: in these words, or in those of the service. */
export async function doing(context, action, fields, done) {
  try {
    const reply = await context.act(action, fields);
    context.say([done ?? reply.message, ...(reply.warnings ?? [])].join("; "));
  } catch (error) {
    context.say(`${error.message} (${error.code ?? "failed"})`, "error");
  }
}
