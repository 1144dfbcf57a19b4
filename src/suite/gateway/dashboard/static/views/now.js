// What the fleet does at this moment: nodes with their memory and cores, what loads, waits and generates, all models.

import {fill, h, keep, put, set} from "../dom.js";
import {ago, bytes, clock, count, duration, parameters} from "../format.js";
import {RATES} from "../live.js";
import {badge, empty, figure} from "../parts.js";
import {sparkline} from "../spark.js";
import {Rows} from "../virtual.js";

const ROW = 38;

export const view = {
  name: "now",
  title: "Now",
  /** @param {HTMLElement} root @param {any} context */
  mount(root, context) {
    const parts = [figures(context), problems(context), nodes(context), generations(context), models(context)];
    fill(root, h("h1.visually-hidden", {}, "Now"), parts.map((part) => part.element));
    const show = () => parts.forEach((part) => part.show?.());
    context.on("fleet", show);
    context.on("models", () => parts.forEach((part) => part.showModels?.()));
    context.on("hello", show);
    show();
    return () => {};
  },
};

// --- figures -------------------------------------------------------------------------------------------------------

function figures({live}) {
  const chart = sparkline("Tokens a second in the last two minutes");
  const found = {
    nodes: figure("Nodes"),
    loaded: figure("Models in memory"),
    running: figure("Generating"),
    waiting: figure("Waiting"),
    memory: figure("Memory reserved"),
    rate: figure("Tokens a second", chart.element),
  };
  const show = () => {
    const {fleet} = live;
    if (!fleet) return;
    const states = (state) => fleet.generations.filter((each) => each.state === state).length;
    const lost = missing(live).length;
    found.nodes.set(fleet.nodes.length, lost ? `${lost} lost` : "");
    found.running.set(states("generating"), "");
    found.waiting.set(fleet.generations.length - states("generating"), "");
    const memories = fleet.nodes.flatMap((node) => node.memories);
    const sum = (name) => memories.reduce((total, memory) => total + memory[name], 0);
    found.memory.set(bytes(sum("reserved_bytes")), `of ${bytes(sum("limit_bytes"))}`);
    const rate = live.rates.get("") ?? 0;
    found.rate.set(rate >= 10 ? Math.round(rate) : rate.toFixed(1), "");
    chart.set(live.lastRates, RATES);
    showModels();
  };
  const showModels = () => {
    const loaded = [...live.models.values()].filter((model) => model.status === "loaded").length;
    found.loaded.set(loaded, `of ${count(live.areAllKnown ? live.models.size : (live.fleet?.models ?? 0))}`);
  };
  return {element: h("dl.figures", {}, Object.values(found).map((each) => each.element)), show, showModels};
}

function problems({live}) {
  const element = h("ul.stack", {"aria-label": "Problems"});
  const show = () => {
    const found = live.fleet?.problems ?? [];
    element.hidden = !found.length;
    keep(element, found, (problem) => problem, (problem) => h("li.notice", {}, problem));
  };
  return {element, show};
}

// --- nodes ---------------------------------------------------------------------------------------------------------

/** The nodes that do not answer: those that the fleet says are missing, and those that were here a moment ago. */
function missing(live) {
  const there = new Set((live.fleet?.nodes ?? []).map((node) => node.node));
  const names = new Set([...(live.fleet?.missing ?? []), ...live.lost.keys()]);
  return [...names].filter((name) => !there.has(name)).sort();
}

function nodes(context) {
  const {live} = context;
  const element = h("section.nodes", {"aria-label": "Nodes"});
  const show = () => {
    if (!live.fleet) return;
    const there = live.fleet.nodes.map((node) => ({name: node.node, node}));
    const lost = missing(live).map((name) => ({name, node: null}));
    keep(element, [...there, ...lost], (each) => `${each.name}/${each.node ? "" : "lost"}`, (each) =>
      each.node ? nodeCard(context) : lostCard(context, each.name),
    );
  };
  return {element, show, showModels: show};
}

function lostCard({live, link}, name) {
  const since = live.lost.get(name)?.since;
  return h(
    "article.panel.node.lost",
    {"aria-label": `Node ${name}, lost`},
    h("div.head", {}, h("h2", {}, name), badge("bad", "lost")),
    h(
      "div.body",
      {},
      h("p", {}, `This node does not answer${since ? `, since ${clock(since)}` : ""}. What ran there has ended with an error.`),
      h("p", {}, h("a", {href: link("log", {filter: `node.${name}`})}, "Its events"), " say when it was seen last."),
    ),
  );
}

function nodeCard(context) {
  const {live} = context;
  const title = h("h2");
  const state = h("span.badge");
  const about = h("span.muted.cut.grow");
  const drain = h("button.small.quiet", {type: "button"});
  const memories = h("div");
  const cores = h("div.cores", {role: "img"});
  const coresCaption = h("span");
  const owners = h("tbody");
  const table = h("table.owners", {}, h("thead", {}, h("tr", {}, OWNED.map(([name, kind]) => h("th", {scope: "col", class: kind ? "number" : ""}, swatch(kind), name)))), owners);
  let node;
  drain.addEventListener("click", () => drainNode(context, node));
  const element = h(
    "article.panel.node",
    {},
    h("div.head", {}, title, state, about, drain),
    h(
      "div.body",
      {},
      memories,
      h("div.meter", {}, h("div.caption", {}, h("span.muted", {}, "Cores"), coresCaption), cores),
      table,
    ),
  );
  element.update = (item) => {
    node = item.node;
    const held = residents(live, node.node);
    put(title, node.node);
    set(element, "aria-label", `Node ${node.node}`);
    showBadge(state, ...nodeState(node));
    put(about, `${node.version} · up ${duration(node.uptime_seconds)} · ${count(node.models)} models`);
    drain.hidden = !live.may("admin");
    put(drain, node.is_draining ? "Take back" : "Drain");
    keep(memories, node.memories, (memory) => memory.name, () => memoryMeter());
    for (const [place, memory] of node.memories.entries()) memories.children[place].show(memory, held);
    showCores(cores, coresCaption, node, held, live.rates.get(node.node) ?? 0);
    table.hidden = !held.length;
    keep(owners, held, (each) => each.model.id, () => ownerRow(context));
  };
  return element;
}

function nodeState(node) {
  if (node.is_draining) return ["warn", "draining"];
  return node.status === "HEALTHY" ? ["good", "healthy"] : ["warn", "degraded"];
}

function showBadge(element, kind, text) {
  set(element, "class", `badge ${kind}`);
  put(element, text);
}

async function drainNode(context, node) {
  const undo = node.is_draining;
  const question = `Take ${node.node} out of service? Its pinned models and those used lately move first.`;
  if (undo || window.confirm(question)) await doing(context, "drain_node", {node: node.node, undo, wait: false});
}

/** The models that have memory on a node, the largest first. */
function residents(live, name) {
  const found = [];
  for (const model of live.models.values()) {
    const instance = model.instances?.find((each) => each.node === name);
    if (instance) found.push({model, instance});
  }
  return found.sort((a, b) => b.instance.reserved_bytes - a.instance.reserved_bytes || (a.model.id < b.model.id ? -1 : 1));
}

/** What of a model is in a memory, by what it is for. */
function parts({model, instance}, memory) {
  const onGpus = Object.values(instance.gpus).reduce((sum, each) => sum + each, 0);
  return shares(model, memory.name === "ram" ? instance.reserved_bytes - onGpus : (instance.gpus[memory.name] ?? 0), instance.reserved_bytes);
}

/** How bytes of a model are shared: its weights, its cache, and what is reserved beside these, to compute in. */
function shares(model, all, reserved = all) {
  const part = reserved ? all / reserved : 0;
  const weights = Math.min(all, Math.round((model.weights_bytes ?? 0) * part));
  const cache = Math.min(all - weights, Math.round((model.kv_bytes ?? 0) * part));
  return {all, weights, cache, reserve: all - weights - cache};
}

function memoryMeter() {
  const bar = h("div.bar", {role: "img"});
  const name = h("span.muted");
  const value = h("span");
  const element = h("div.meter", {}, h("div.caption", {}, name, value), bar);
  element.show = (memory, held) => {
    const limit = Math.max(memory.limit_bytes, memory.reserved_bytes, 1);
    const owned = held.map((each) => ({...each, parts: parts(each, memory)})).filter((each) => each.parts.all > 0);
    const others = Math.max(0, memory.limit_bytes - memory.admissible_bytes);
    put(name, memory.name === "ram" ? "Memory" : memory.name.replace("gpu", "GPU "));
    put(value, `${bytes(memory.reserved_bytes)} reserved of ${bytes(memory.limit_bytes)} · ${bytes(memory.measured_bytes)} used`);
    set(bar, "aria-label", said(memory, owned));
    const segments = owned.map((each) => ({id: each.model.id, parts: each.parts}));
    if (others) segments.push({id: "", parts: {others}});
    keep(bar, segments, (each) => `/${each.id}`, (each) => h("div.owner", {}, Object.keys(each.parts).filter((name) => name !== "all").map((name) => h(`i.${name}`))));
    segments.forEach((each, place) => showSegment(bar.children[place], each, limit));
  };
  return element;
}

function showSegment(element, {id, parts}, limit) {
  const {all, ...named} = parts;
  const total = all ?? parts.others;
  element.style.setProperty("width", `${(100 * total) / limit}%`);
  const told = Object.entries(named).map(([name, value]) => `${name} ${bytes(value)}`).join(", ");
  set(element, "title", id ? `${id}: ${told}` : `taken by other programs: ${bytes(parts.others)}`);
  Object.values(named).forEach((value, place) =>
    element.children[place].style.setProperty("width", `${total ? (100 * value) / total : 0}%`),
  );
}

function said(memory, owned) {
  const each = owned.map(({model, parts}) => `${model.id} ${bytes(parts.all)}`);
  return `${bytes(memory.reserved_bytes)} of ${bytes(memory.limit_bytes)} reserved${each.length ? `: ${each.join(", ")}` : ""}`;
}

function showCores(element, caption, node, held, rate) {
  const used = held.reduce((sum, {instance}) => sum + instance.threads, 0);
  const cores = Math.max(node.cores, used);
  const owner = held.flatMap(({model, instance}) => Array(instance.threads).fill(model.id));
  const cells = Array.from({length: Math.min(cores, 128)}, (_, place) => ({place, id: owner[place] ?? ""}));
  keep(element, cells, (cell) => String(cell.place), () => h("i"));
  cells.forEach((cell, place) => {
    set(element.children[place], "class", cell.id ? "used" : "");
    set(element.children[place], "title", cell.id || "free");
  });
  set(element, "aria-label", `${used} of ${cores} cores compute`);
  put(caption, `${used} of ${cores} compute${rate ? ` · ${rate < 10 ? rate.toFixed(1) : Math.round(rate)} tokens/s` : ""}`);
}

/** What stands in the row of a model in memory; the colours are those of the bar. */
const OWNED = [["Model", ""], ["", "state"], ["weights", "weights"], ["cache", "cache"], ["reserve", "reserve"], ["all", "all"]];
const SWATCHES = new Set(["weights", "cache", "reserve"]);

function swatch(kind) {
  return SWATCHES.has(kind) && h("i", {class: kind, "aria-hidden": "true"});
}

function ownerRow({link}) {
  const name = h("a");
  const [state, weights, cache, reserve, all] = Array.from({length: 5}, () => h("td.number.nowrap"));
  const element = h("tr", {}, h("td.cut", {}, name), state, weights, cache, reserve, all);
  state.classList.add("muted");
  element.update = ({model, instance}) => {
    const owned = shares(model, instance.reserved_bytes);
    put(name, model.id);
    set(name, "href", link("why", {model: model.id}));
    put(state, residentState(model, instance));
    put(weights, bytes(owned.weights));
    put(cache, bytes(owned.cache));
    put(reserve, bytes(owned.reserve));
    put(all, bytes(owned.all));
  };
  return element;
}

function residentState(model, instance) {
  if (instance.load_progress < 1 && !instance.loaded_at) return `loading ${Math.round(100 * instance.load_progress)} %`;
  if (instance.running) return `${instance.running} running`;
  return model.pinned_on?.includes(instance.node) ? "pinned" : "idle";
}

// --- generations ---------------------------------------------------------------------------------------------------

function generations(context) {
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

function header(names) {
  return h(
    "div",
    {role: "rowgroup"},
    h("div.row.columns", {role: "row"}, names.map((name) => h("span", {role: "columnheader", class: name.kind ?? ""}, name.text ?? name))),
  );
}

function cell(child, kind = "") {
  return h("div", {role: "cell", class: kind}, child);
}

function generationRow(context) {
  const model = h("a.cut");
  const [state, tokens, time, client, node] = Array.from({length: 5}, () => h("span.cut"));
  const cancel = h("button.small", {type: "button"}, "Cancel");
  let id;
  cancel.addEventListener("click", () => doing(context, "cancel_generation", {generation_id: id}, "cancelled"));
  const element = h("div.row", {role: "row"}, [model, state, tokens, time, client, node].map((each) => cell(each)), h("div.actions", {role: "cell"}, cancel));
  element.update = (each) => {
    id = each.generation_id;
    put(model, each.model_id);
    set(model, "href", context.link("why", {model: each.model_id}));
    showBadge(state, each.state === "generating" ? "busy" : "warn", each.state);
    put(tokens, each.completion_tokens === null ? "–" : count(each.completion_tokens));
    put(time, duration(each.elapsed_ms / 1000));
    put(client, each.client ?? "");
    put(node, each.node);
    cancel.hidden = !context.live.may("admin");
    set(cancel, "aria-label", `Cancel the generation of ${each.model_id}`);
  };
  return element;
}

// --- models --------------------------------------------------------------------------------------------------------

const RANK = {loading: 0, unloading: 1, loaded: 2, unloaded: 3, invalid: 4};

const KINDS = {
  all: ["All", () => true],
  memory: ["In memory", (model) => (model.instances?.length ?? 0) > 0],
  waiting: ["Waited for", (model) => model.waiting > 0],
  failed: ["With problems", (model) => Boolean(model.error || model.quarantine || model.status === "invalid")],
};

function models(context) {
  const {live} = context;
  let kind = Object.hasOwn(KINDS, context.params.models ?? "") ? context.params.models : "all";
  const search = h("input", {type: "search", placeholder: "Find a model", "aria-label": "Find a model", value: context.params.find ?? ""});
  const kinds = h("div.group", {role: "group", "aria-label": "Which models"});
  const total = h("span.muted");
  const rows = new Rows({height: ROW, key: (model) => model.id, make: () => modelRow(context), signal: context.signal, label: "Models"});
  const table = h(
    "div",
    {role: "table", "aria-label": "Models"},
    header(["Model", "State", {text: "Memory", kind: "number"}, {text: "Nodes", kind: "wide"}, {text: "Last used", kind: "wide"}, ""]),
    rows.element,
  );
  const none = h("div");
  for (const [name, [title]] of Object.entries(KINDS)) {
    kinds.append(h("button", {type: "button", dataset: {kind: name}, onclick: () => choose(name)}, title));
  }
  const element = h(
    "section.panel.models",
    {"aria-label": "All models"},
    h("div.head", {}, h("h2", {}, "Models"), total, h("span.grow"), kinds, search, h("kbd", {"aria-hidden": "true"}, "/")),
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
  const about = [model.name ? model.id : "", model.architecture, parameters(model.parameters), model.quantization];
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

/** Has an action done, and says what became of it: in these words, or in those of the service. */
async function doing(context, action, fields, done) {
  try {
    const reply = await context.act(action, fields);
    context.say([done ?? reply.message, ...(reply.warnings ?? [])].join("; "));
  } catch (error) {
    context.say(`${error.message} (${error.code ?? "failed"})`, "error");
  }
}
