// All models, with what can be done with them.

import {fill, h, put, set} from "../dom.js";
import {ago, bytes, count, parameters} from "../format.js";
import {empty, ignored} from "../parts.js";
import {Rows, rowHeight} from "../virtual.js";
import {cell, doing, header, showBadge} from "./parts.js";

const ROW = 38;
const SMALL_ROW = 74;

const RANK = {loading: 0, unloading: 1, loaded: 2, unloaded: 3, invalid: 4};

const KINDS = {
  all: ["All", () => true],
  memory: ["In memory", (model) => (model.instances?.length ?? 0) > 0],
  waiting: ["Waited for", (model) => model.waiting > 0],
  failed: ["With problems", (model) => Boolean(model.error || model.quarantine || model.status === "invalid")],
};

export function models(context) {
  const {live} = context;
  let kind = Object.hasOwn(KINDS, context.params.models ?? "") ? context.params.models : "all";
  const search = h("input", {type: "search", placeholder: "Find a model", "aria-label": "Find a model", value: context.params.find ?? ""});
  const kinds = h("div.group", {role: "group", "aria-label": "Which models"});
  const total = h("span.muted");
  const rows = new Rows({height: rowHeight(ROW, SMALL_ROW), key: (model) => model.id, make: () => modelRow(context), signal: context.signal, label: "Models"});
  const table = h(
    "div",
    {role: "table", "aria-label": "Models"},
    header(["Model", "State", {text: "Memory", kind: "number"}, {text: "Nodes", kind: "wide"}, {text: "Last used", kind: "wide"}, ""]),
    rows.element,
  );
  const none = h("div");
  const wrong = context.params.models && kind !== context.params.models ? ignored(`There is no list ${context.params.models}: all models are listed.`) : null;
  for (const [name, [title]] of Object.entries(KINDS)) {
    kinds.append(h("button", {type: "button", dataset: {kind: name}, onclick: () => choose(name)}, title));
  }
  const element = h(
    "section.panel.models",
    {"aria-label": "All models"},
    h("div.head", {}, h("h2", {}, "Models"), total, h("span.grow"), kinds, search, h("kbd", {"aria-hidden": "true"}, "/")),
    wrong && h("div.body", {}, wrong),
    table,
    none,
  );
  const choose = (name) => {
    kind = name;
    note();
  };
  const note = () => {
    context.replace({models: kind === "all" ? "" : kind, find: search.value});
    showModels();
  };
  const showModels = () => {
    const wanted = search.value.trim().toLowerCase();
    const all = [...live.models.values()];
    const found = all.filter((model) => KINDS[kind][1](model) && matches(model, wanted)).sort(before);
    for (const button of kinds.children) set(button, "aria-pressed", String(button.dataset.kind === kind));
    put(total, live.areAllKnown ? `${count(found.length)} of ${count(all.length)}` : "being listed …");
    set(table, "aria-rowcount", String(found.length + 1));
    table.hidden = !found.length;
    none.hidden = found.length > 0;
    if (!found.length) fill(none, nothing(live, all.length));
    rows.set(found);
  };
  search.addEventListener("input", note);
  document.addEventListener("keydown", (event) => focusSearch(event, search), {signal: context.signal});
  return {element, showModels, show: showModels};
}

function nothing(live, total) {
  if (!live.areAllKnown) return empty("The models are being listed", "This takes a moment where there are many.");
  if (total) return empty("No model is like that", "Take back the filter, or search for a part of a name.");
  return empty("There are no models yet", h("span", {}, "Put GGUF files into a directory of the node, or get one with ", h("code", {}, "suite pull"), "."));
}

function focusSearch(event, search) {
  if (event.key !== "/" || /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement?.tagName ?? "")) return;
  event.preventDefault();
  search.focus();
}

function matches(model, wanted) {
  return !wanted || [model.id, model.name ?? "", ...(model.aliases ?? [])].some((text) => text.toLowerCase().includes(wanted));
}

function before(a, b) {
  const ranks = (RANK[a.status ?? "unloaded"] ?? 3) - (RANK[b.status ?? "unloaded"] ?? 3);
  const waiting = (b.waiting ?? 0) - (a.waiting ?? 0);
  const used = (b.last_used ?? "") < (a.last_used ?? "") ? -1 : (b.last_used ?? "") > (a.last_used ?? "") ? 1 : 0;
  return ranks || waiting || used || (a.id < b.id ? -1 : 1);
}

function modelRow(context) {
  const {live, link} = context;
  const name = h("a.cut");
  const about = h("small.cut");
  const state = h("span.badge");
  const progress = h("i");
  const bar = h("div.progress", {}, progress);
  const [memory, nodes, used] = [h("span"), h("span.cut"), h("span")];
  let model;
  const load = h("button.small", {type: "button", onclick: () => toggleLoad(context, model)});
  const pin = h("button.small", {type: "button", onclick: () => togglePin(context, model)});
  const release = h("button.small", {type: "button", onclick: () => doing(context, "release_model", {model_id: model.id}, `${model.id} may be loaded again`)}, "Release");
  const why = h("a.button.small", {}, "Why");
  const element = h(
    "div.row",
    {role: "row"},
    h("div.name", {role: "cell"}, name, about),
    h("div", {role: "cell"}, state, bar),
    cell(memory, "number"),
    cell(nodes, "wide muted cut"),
    cell(used, "wide muted"),
    h("div.actions", {role: "cell"}, release, load, pin, why),
  );
  element.update = (item) => {
    model = item;
    put(name, model.name || model.id);
    set(name, "href", link("why", {model: model.id}));
    put(about, described(model));
    set(about, "title", model.error || null);
    showBadge(state, ...modelState(model));
    const loading = model.status === "loading";
    bar.hidden = !loading;
    if (loading) progress.style.setProperty("width", `${100 * (model.instances?.[0]?.load_progress ?? 0)}%`);
    const held = (model.instances ?? []).reduce((sum, each) => sum + each.reserved_bytes, 0);
    put(memory, bytes(held || model.need_bytes || 0));
    set(memory, "class", held ? "" : "muted");
    put(nodes, (model.instances?.length ? model.instances.map((each) => each.node) : [...model.nodes]).sort().join(", "));
    put(used, model.last_used ? ago(model.last_used) : "never");
    showActions(model, live.may("admin"), {load, pin, release, why});
  };
  return element;
}

function described(model) {
  if (model.error) return model.error;
  const names = model.aliases?.length ? `also ${model.aliases.join(", ")}` : "";
  const about = [model.name ? model.id : "", names, model.architecture, parameters(model.parameters), model.quantization];
  return about.filter(Boolean).join(" · ");
}

/** The colour and the words for a model's state. */
function modelState(model) {
  if (model.quarantine) return ["bad", "quarantined"];
  if (model.status === "loading") return ["busy", `loading ${Math.round(100 * (model.instances?.[0]?.load_progress ?? 0))} %`];
  if (model.waiting) return ["warn", model.place ? `waits, place ${model.place}` : "waits"];
  if (model.status === "invalid") return ["bad", "cannot be loaded"];
  const running = (model.instances ?? []).reduce((sum, each) => sum + each.running, 0);
  if (running) return ["busy", `${running} running`];
  if (model.status === "loaded") return ["good", model.pinned_on?.length ? "loaded, pinned" : "loaded"];
  return ["hollow", model.status ?? "unloaded"];
}

function showActions(model, may, {load, pin, release, why}) {
  const held = (model.instances?.length ?? 0) > 0;
  load.hidden = pin.hidden = !may;
  release.hidden = !may || !model.quarantine;
  load.disabled = model.status === "invalid" || model.status === "unloading";
  put(load, held ? "Unload" : "Load");
  set(load, "aria-label", `${held ? "Unload" : "Load"} ${model.id}`);
  put(pin, model.pinned_on?.length ? "Unpin" : "Pin");
  set(pin, "aria-label", `${model.pinned_on?.length ? "Unpin" : "Pin"} ${model.id}`);
  set(why, "href", `#/why?model=${encodeURIComponent(model.id)}`);
  set(why, "aria-label", `Why ${model.id} is as it is`);
}

function toggleLoad(context, model) {
  const running = (model.instances ?? []).reduce((sum, each) => sum + each.running, 0);
  if (running && !window.confirm(`Unload ${model.id}, which is answering? It ends when its answers do, or in 30 s.`)) return;
  if (model.instances?.length) return doing(context, "unload_model", {model_id: model.id}, `${model.id} is unloaded`);
  return doing(context, "load_model", {model_id: model.id, wait: false}, `${model.id} is being loaded`);
}

function togglePin(context, model) {
  const pinned = (model.pinned_on?.length ?? 0) > 0;
  return doing(context, pinned ? "unpin_model" : "pin_model", {model_id: model.id}, `${model.id} ${pinned ? "may leave again" : "stays loaded"}`);
}
