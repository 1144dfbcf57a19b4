// The generations that wait or run.

import {h, keep, put, set} from "../dom.js";
import {count, duration} from "../format.js";
import {empty} from "../parts.js";
import {cell, doing, header, showBadge} from "./parts.js";

export function generations(context) {
  const {live} = context;
  const rows = h("div", {role: "rowgroup"});
  const none = empty("Nothing runs.", "Requests appear here while they load a model, wait or generate.", "brief");
  const names = ["Model", "State", "Tokens", "Time", "Client", "Node", ""];
  const table = h("div", {role: "table", "aria-label": "Unfinished generations"}, header(names), rows);
  const total = h("span.muted");
  const element = h(
    "section.panel.generations",
    {"aria-label": "Generations"},
    h("div.head", {}, h("h2", {}, "Generations"), total),
    table,
    none,
  );
  const show = () => {
    const found = live.fleet?.generations ?? [];
    table.hidden = !found.length;
    none.hidden = found.length > 0;
    put(total, found.length ? `${found.length} unfinished` : "");
    keep(rows, found, (each) => each.generation_id, () => generationRow(context));
  };
  return {element, show};
}

function generationRow(context) {
  const model = h("a.cut");
  const [state, tokens, time, client, node] = Array.from({length: 5}, () => h("span.cut"));
  const trace = h("a.button.small", {}, "Trace");
  const cancel = h("button.small", {type: "button"}, "Cancel");
  let id;
  cancel.addEventListener("click", () => doing(context, "cancel_generation", {generation_id: id}, "cancelled"));
  const element = h("div.row", {role: "row"}, [model, state, tokens, time, client, node].map((each) => cell(each)), h("div.actions", {role: "cell"}, trace, cancel));
  element.update = (each) => {
    id = each.generation_id;
    put(model, each.model_id);
    set(model, "href", context.link("why", {model: each.model_id}));
    showBadge(state, each.state === "generating" ? "busy" : "warn", each.state);
    put(tokens, each.completion_tokens === null ? "–" : count(each.completion_tokens));
    put(time, duration(each.elapsed_ms / 1000));
    put(client, each.client ?? "");
    put(node, each.node);
    set(trace, "href", context.link("trace", {id: each.generation_id}));
    set(trace, "aria-label", `Trace of the generation of ${each.model_id}`);
    cancel.hidden = !context.live.may("admin");
    set(cancel, "aria-label", `Cancel the generation of ${each.model_id}`);
  };
  return element;
}
