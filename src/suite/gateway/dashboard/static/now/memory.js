// The memory and the cores of a node as bars, by the models that have them.

import {h, keep, put, set} from "../dom.js";
import {bytes} from "../format.js";

/** The models that have memory on a node, the largest first. */
export function residents(live, name) {
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
export function shares(model, all, reserved = all) {
  const part = reserved ? all / reserved : 0;
  const weights = Math.min(all, Math.round((model.weights_bytes ?? 0) * part));
  const cache = Math.min(all - weights, Math.round((model.kv_bytes ?? 0) * part));
  return {all, weights, cache, reserve: all - weights - cache};
}

export function memoryMeter() {
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

export function showCores(element, caption, node, held, rate) {
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
