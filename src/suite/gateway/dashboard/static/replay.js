// A replay of what was asked for, under several rules and budgets, and what would have served best.

import {request, serverEvents} from "./api.js";
import {fill, h, put} from "./dom.js";
import {count, duration} from "./format.js";
import {empty, failed} from "./parts.js";

const POLICIES = {best_lately: "the best lately", relaxed_belady: "relaxed Belady", greedy_dual: "greedy dual", decayed_frequency: "decayed frequency"};

/** How far the replay is that runs, and the last result: both stay when the view is left, as it took long. */
const replay = {
  /** @type {{phase: string, fraction: number} | null} */
  told: null,
  /** @type {any} */
  last: null,
  /** @type {any} */
  error: null,
  /** Shows it, where somebody looks. */
  show: () => {},
};

const PHASES = {begin: "The replay begins", reading: "The log is read", replaying: "The uses are replayed in virtual time, by a process that yields to all others"};

/** Has the node replay, and says how far it is. @param {any} fields */
async function run(fields) {
  replay.error = null;
  replay.told = {phase: "begin", fraction: 0};
  replay.show();
  try {
    replay.last = await told(fields);
  } catch (error) {
    replay.error = error;
  }
  replay.told = null;
  replay.show();
}

async function told(fields) {
  const answer = await request("/ui/replay", {method: "POST", body: JSON.stringify(fields)});
  for await (const {name, data} of serverEvents(answer)) {
    if (name === "end") return data;
    if (name === "error") throw data;
    replay.told = data;
    replay.show();
  }
  throw {message: "The replay ended early: the gateway has closed the connection."};
}

/** @param {any} context */
export function replayPanel(context) {
  const result = h("div");
  const memory = h("input", {type: "text", id: "replay-memory", placeholder: "half, all and twice of what there is", size: 30, autocomplete: "off"});
  const requests = h("input", {type: "number", id: "replay-requests", min: "1", max: "100000", value: "10000", required: true});
  const node = h("select", {id: "replay-node"}, h("option", {value: ""}, "all nodes"), (context.live.fleet?.nodes ?? []).map((each) => h("option", {value: each.node}, each.node)));
  const policies = Object.entries(POLICIES).map(([name, label]) => ({name, box: h("input", {type: "checkbox", checked: name === "best_lately"}), label}));
  const bets = h("input", {type: "checkbox", checked: true});
  const mayRun = context.live.may("admin");
  const button = h("button.primary", {type: "submit", disabled: !mayRun}, "Replay");
  const asked = () => ({
    policies: policies.filter((each) => each.box.checked).map((each) => each.name),
    memory_gb: memory.value.split(/[\s,;]+/).filter(Boolean).map(Number),
    requests: Number(requests.value),
    with_bets: bets.checked,
    of_node: node.value || null,
  });
  const submit = (event) => {
    event.preventDefault();
    const fields = asked();
    if (fields.memory_gb.some((each) => !(each > 0))) return context.say("Budgets are numbers of GB, with commas between them", "error");
    run(fields);
  };
  const bar = h("progress", {max: 1, "aria-label": "How far the replay is"});
  const phase = h("p.muted", {role: "status"});
  const progress = h("div.stack", {}, phase, bar);
  const show = () => {
    button.disabled = !mayRun || replay.told !== null;
    if (replay.told) {
      put(phase, `${PHASES[replay.told.phase] ?? replay.told.phase}: ${Math.round(100 * replay.told.fraction)} %`);
      bar.value = replay.told.fraction;
      if (result.firstChild !== progress) fill(result, progress);
    } else if (replay.error) fill(result, failed(replay.error));
    else if (replay.last) fill(result, outcomesOf(replay.last));
    else fill(result, empty("Nothing was replayed yet", mayRun ? "A replay says what other rules and other memory would have come to, with the same requests." : "A replay needs a key with the right admin."));
  };
  replay.show = show;
  context.signal.addEventListener("abort", () => replay.show === show && (replay.show = () => {}));
  show();
  return h(
    "section.panel.replay",
    {},
    h("div.head", {}, h("h2", {}, "What other rules would have come to")),
    h("div.body", {}, [
      h("form", {onsubmit: submit}, [
        field("replay-memory", "Budgets in GB", memory),
        field("replay-requests", "Newest uses", requests),
        field("replay-node", "Of", node),
        policies.map((each) => h("label.check", {}, each.box, each.label)),
        h("label.check", {}, bets, "with bets"),
        button,
      ]),
      result,
    ]),
  );
}

function field(id, name, input) {
  return h("label", {for: id}, name, input);
}

function outcomesOf(reply) {
  const {advice} = reply;
  const most = Math.max(...reply.outcomes.map((each) => each.waited_seconds), 1e-9);
  const budgets = [...new Set(reply.outcomes.map((each) => each.memory_gb))];
  const head = ["Rule", "Waited", "Cold starts", "Wait p95", "Loads", "Evictions", "Refused", "Bets won", "Bets lost", "GB hours"];
  return [
    h("div.sentences", {}, advice.sentences.map((text) => h("p", {}, capital(text)))),
    h("p.muted", {}, [`${count(reply.requests)} uses of ${count(reply.models)} models in ${reply.hours.toFixed(1)} hours. `, reply.remarks.map(capital).join(". ")]),
    budgets.map((budget) =>
      h("div.scroll", {}, h(
        "table",
        {},
        h("thead", {}, h("tr", {}, head.map((name, place) => h(place ? "th.number" : "th", {scope: "col"}, place ? name : `With ${Number(budget.toPrecision(3))} GB`)))),
        h("tbody", {}, reply.outcomes.filter((each) => each.memory_gb === budget).map((each) => row(each, advice, most))),
      )),
    ),
  ];
}

function row(each, advice, most) {
  const isBest = each.name === advice.name && each.memory_gb === advice.memory_gb;
  const cells = [
    [h("i.share", {style: {width: `${Math.max(1, (90 * each.waited_seconds) / most)}px`}}), duration(each.waited_seconds)],
    `${each.cold_percent.toFixed(1)} %`,
    duration(each.waited_p95_seconds),
    ...[each.loads, each.evictions, each.refused].map(count),
    ...(each.with_bets ? [count(each.bets_won), count(each.bets_lost)] : ["", ""]),
    each.gb_hours.toFixed(1),
  ];
  return h(
    "tr",
    {class: isBest ? "best" : each.knows_future ? "bound" : ""},
    h("th", {scope: "row"}, each.knows_future ? `${each.name} (the bound: it knows the future)` : each.name, isBest && h("span.badge.good", {}, " recommended")),
    cells.map((cell) => h("td.number", {}, cell)),
  );
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
