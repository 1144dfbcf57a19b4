// What the fleet does at this moment: nodes with their memory and cores, what loads, waits and generates, all models.

import {fill, h, keep} from "../dom.js";
import {bytes, count} from "../format.js";
import {RATES} from "../live.js";
import {aliases} from "../now/aliases.js";
import {generations} from "../now/generations.js";
import {models} from "../now/models.js";
import {missing, nodes} from "../now/nodes.js";
import {figure} from "../parts.js";
import {sparkline} from "../spark.js";

export const view = {
  name: "now",
  title: "Now",
  /** @param {HTMLElement} root @param {any} context */
  mount(root, context) {
    const parts = [figures(context), problems(context), nodes(context), aliases(context), generations(context), models(context)];
    fill(root, h("h1.visually-hidden", {}, "Now"), parts.map((part) => part.element));
    const show = () => parts.forEach((part) => part.show?.());
    context.on("fleet", show);
    context.on("models", () => parts.forEach((part) => part.showModels?.()));
    context.on("aliases", () => parts.forEach((part) => part.showAliases?.()));
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
