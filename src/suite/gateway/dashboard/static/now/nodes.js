// The nodes, with what of their memory and cores which model has.

import {h, keep, put, set} from "../dom.js";
import {bytes, clock, count, duration} from "../format.js";
import {badge} from "../parts.js";
import {memoryMeter, residents, shares, showCores} from "./memory.js";
import {doing, showBadge} from "./parts.js";

/** The nodes that do not answer: those that the fleet says are missing, and those that were here a moment ago. */
export function missing(live) {
  const there = new Set((live.fleet?.nodes ?? []).map((node) => node.node));
  const names = new Set([...(live.fleet?.missing ?? []), ...live.lost.keys()]);
  return [...names].filter((name) => !there.has(name)).sort();
}

export function nodes(context) {
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

async function drainNode(context, node) {
  const undo = node.is_draining;
  const question = `Take ${node.node} out of service? Its pinned models and those used lately move first.`;
  if (undo || window.confirm(question)) await doing(context, "drain_node", {node: node.node, undo, wait: false});
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
