// Why a model is as it is, or what an event decided: sentences, candidates, and what would have changed it.

import {fill, h, set} from "../dom.js";
import {canBeExplained, details, named, traceOf} from "../events.js";
import {bytes, clock, duration, moment} from "../format.js";
import {badge, empty, failed, meant} from "../parts.js";

const RECENT = 60;
const DECISIVE = ["instance", "admission", "prediction", "alias"];

export const view = {
  name: "why",
  title: "Why",
  /** @param {HTMLElement} root @param {any} context */
  mount(root, context) {
    const body = h("div.stack", {"aria-busy": "true"}, h("p.muted", {}, "Looking it up …"));
    fill(root, h("div.head", {}, h("h1", {}, "Why"), form(context)), body);
    const {seq, model, at} = context.params;
    const shown = seq ? ofEvent(context, seq) : model || at ? ofModel(context, model, at) : overview(context);
    shown
      .then((parts) => fill(body, parts))
      .catch((error) => context.signal.aborted || fill(body, failed(error)))
      .finally(() => set(body, "aria-busy", "false"));
    return () => {};
  },
};

function form(context) {
  const {model = "", seq = "", at = ""} = context.params;
  const names = h("datalist", {id: "model-names"});
  const about = h("input", {type: "search", list: "model-names", "aria-label": "Model, or the sequence of an event", placeholder: "Model, or an event's sequence", value: model || seq, spellcheck: "false"});
  const moment = h("input", {type: "datetime-local", "aria-label": "At which time; empty: now", value: at, step: "1"});
  const listNames = () => fill(names, [...context.live.models.keys()].sort().map((id) => h("option", {value: id})));
  about.addEventListener("focus", listNames, {once: true});
  const submit = (event) => {
    event.preventDefault();
    const text = about.value.trim();
    context.go("why", /^\d+$/.test(text) && !context.live.models.has(text) ? {seq: text} : {model: text, at: moment.value});
  };
  return h("form.inline", {onsubmit: submit}, about, names, moment, h("button", {type: "submit"}, "Explain"));
}

// --- all that is in memory -----------------------------------------------------------------------------------------

async function overview(context) {
  const [reply, recent] = await Promise.all([context.ask("explain", {}), decisions(context)]);
  return h(
    "div.why",
    {},
    panel("In memory and waited for", reply.models.length ? reply.models.map((state) => stateOf(state, context)) : empty("Nothing is in memory", "A model is loaded by the first request for it, or by Load in the view Now.")),
    happenings("What was decided lately", recent, context),
  );
}

async function decisions(context) {
  const pages = await Promise.all(DECISIVE.map((filter) => context.get(`/ui/events?${new URLSearchParams({filter, limit: String(RECENT)})}`)));
  return pages
    .flatMap((page) => page.events)
    .sort((a, b) => b.seq - a.seq)
    .filter(canBeExplained)
    .slice(0, RECENT);
}

function happenings(title, events, context) {
  const rows = events.map((event) => {
    const {ids, aggregate, fact} = named(event);
    return h(
      "li.happened",
      {},
      h(
        "a",
        {href: context.link("why", {seq: event.seq})},
        h("span.muted.mono", {title: moment(event.time)}, clock(event.time)),
        h("span", {}, h("span.what", {}, `${WORDS[`${aggregate}.${fact}`] ?? fact} `), ids.at(-1), h("div.muted.cut", {}, details(event))),
      ),
    );
  });
  return panel(title, rows.length ? h("ol", {}, rows) : empty("Nothing was decided yet", "Loads, evictions, waits, refusals, bets and promotions appear here."), true);
}

const WORDS = {
  "instance.load_started": "Load of",
  "instance.loaded": "Loaded",
  "instance.load_failed": "Load failed of",
  "instance.unloaded": "Unloaded",
  "instance.crashed": "Crash of",
  "admission.wait_started": "Wait for",
  "admission.wait_ended": "End of a wait for",
  "admission.refused": "Refusal of",
  "prediction.made": "Bet on",
  "prediction.settled": "Bet settled on",
  "alias.set": "New meaning of",
  "alias.removed": "End of",
  "alias.promotion_started": "Promotion to",
  "alias.canary_started": "Canary of",
  "alias.promoted": "Promoted to",
  "alias.promotion_stopped": "End of a promotion to",
  "alias.taken_back": "Taken back from",
};

// --- one model -----------------------------------------------------------------------------------------------------

async function ofModel(context, typed, at) {
  if (at && Number.isNaN(Date.parse(at))) throw {message: `${at} is no time: write it like 2026-11-29T12:00:00.`};
  const when = at ? {at: new Date(at).toISOString()} : {};
  const [model, reply] = typed ? await explained(context, typed, when) : [typed, await context.ask("explain", when)];
  const title = `${model ?? "In memory"}${at ? `, ${moment(reply.at)}` : ""}`;
  const states = reply.models.length
    ? reply.models.map((state) => stateOf(state, context))
    : empty(model ? `${model} was never loaded` : "Nothing was in memory", "There is nothing to explain yet.");
  const links = model && h("p.links", {}, h("a", {href: context.link("log", {model})}, "All its events"), h("a", {href: context.link("try", {model})}, "Try it"));
  return h("div.why", {}, panel(title, [states, links]), model ? told("What happened to it", reply.events, context) : null);
}

/** A model and its explanation. The log knows more models than are there, but only by their ids and aliases. */
async function explained(context, typed, when) {
  const ask = (model) => context.ask("explain", {model_id: model, limit: 50, ...when});
  try {
    return [typed, await ask(typed)];
  } catch (error) {
    if (error.code !== "model_not_found") throw error;
    const model = await meant(context, typed);
    context.replace({...context.params, model});
    return [model, await ask(model)];
  }
}

function stateOf(state, context) {
  const kind = {loaded: "good", loading: "busy", waiting: "warn"}[state.state] ?? "hollow";
  return h(
    "article.state",
    {},
    h("div.line", {}, h("h3", {}, h("a", {href: context.link("why", {model: state.model_id})}, state.model_id)), badge(kind, state.state.replace("_", " ")), h("span.muted", {}, state.node), state.pinned && h("span.muted", {}, "pinned")),
    h("div.sentences", {}, state.sentences.map((text) => h("p", {}, local(text)))),
    state.seq ? h("p.links", {}, h("a", {href: context.link("why", {seq: state.seq})}, `Event ${state.seq}`)) : null,
  );
}

function told(title, events, context) {
  const rows = events.map((event) =>
    h(
      "li.happened",
      {},
      h(
        "a",
        {href: context.link("why", {seq: event.seq})},
        h("span.muted.mono", {title: moment(event.timestamp)}, clock(event.timestamp)),
        h("span", {}, h("span.what", {}, local(event.sentences[0] ?? event.type)), h("div.muted", {}, event.sentences.slice(1, 3).map(local).join(" "))),
      ),
    ),
  );
  return panel(title, rows.length ? h("ol", {}, rows) : empty("Nothing happened to it yet", "Its loads, waits and ends appear here."), true);
}

// --- one event -----------------------------------------------------------------------------------------------------

async function ofEvent(context, text) {
  const seq = Number(text);
  if (!Number.isSafeInteger(seq) || seq < 1) throw {message: `${text} is no sequence of an event: those are whole numbers from 1 on.`};
  const [reply, page] = await Promise.all([
    context.ask("explain", {seq}),
    context.get(`/ui/events?${new URLSearchParams({after: String(seq - 1), limit: "1"})}`),
  ]);
  const [event] = reply.events;
  const stored = page.events.find((each) => each.seq === seq);
  const trace = traceOf(stored);
  const model = event.model_id;
  const alias = stored?.data?.alias;
  return [
    panel(
      `Event ${seq}, ${moment(event.timestamp)}`,
      [
        h("div.sentences", {}, event.sentences.map((text) => h("p", {}, local(text)))),
        h("p.links", {}, [
          model && h("a", {href: context.link("why", {model})}, `Why ${model} is as it is`),
          model && h("a", {href: context.link("why", {model, at: localTime(event.timestamp)})}, "As it was then"),
          h("a", {href: context.link("log", {seq})}, "The event"),
          ...DECIDED_BY.map((name) => stored?.data?.[name] && h("a", {href: context.link("why", {seq: stored.data[name]})}, `The decision, event ${stored.data[name]}`)),
          alias && h("a", {href: context.link("log", {filter: `alias.${alias}`})}, `All that happened to ${alias}`),
          trace && h("a", {href: context.link("trace", {id: trace, seq})}, "Its trace"),
        ]),
      ],
    ),
    event.decision && decision(event.decision, context),
    stored?.data?.losers?.length ? bets(stored.data) : null,
  ];
}

const DECIDED_BY = ["decision_seq"];

function decision(decision, context) {
  const candidates = decision.candidates ?? [];
  const most = Math.max(...candidates.map((each) => each.worth ?? 0), 0);
  const more = decision.more_candidates ? h("p.muted", {}, `${decision.more_candidates} more were in memory.`) : null;
  return panel("What was weighed", [
    h("dl.facts", {}, rooms(decision).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    candidates.length
      ? h(
          "div.scroll",
          {tabindex: "0", role: "region", "aria-label": "Candidates"},
          h(
            "table.candidates",
            {},
            h("thead", {}, h("tr", {}, ["In memory then", "Standing", "Memory", "Worth", "Unused for", "Uses", "To have it again"].map((name, place) => h("th", {scope: "col", class: place > 1 && place !== 3 ? "number" : ""}, name)))),
            h("tbody", {}, candidates.map((each) => candidateRow(each, most, context))),
          ),
        )
      : h("p.muted", {}, "Nobody else was in memory."),
    more,
    alternatives(decision.alternatives ?? []),
  ]);
}

function rooms(decision) {
  const told = [["Needed", bytes(decision.need_bytes)], ["Free", `${bytes(Math.max(0, decision.free_bytes))} of ${bytes(decision.limit_bytes)}`]];
  for (const gpu of decision.gpus ?? []) told.push([gpu.name, `${bytes(gpu.need_bytes)} needed, ${bytes(gpu.free_bytes)} of ${bytes(gpu.limit_bytes)} free`]);
  if (decision.policy) told.push(["Order by", decision.policy.replaceAll("_", " ")]);
  if (decision.waiting) told.push(["Waiting", `${decision.waiting}, the longest for ${duration(decision.waited_seconds ?? 0)}`]);
  return told;
}

function candidateRow(each, most, context) {
  const width = most > 0 && each.worth ? `${Math.max(2, (60 * each.worth) / most)}px` : "0";
  return h(
    "tr",
    {class: each.chosen ? "chosen" : ""},
    h("td.id", {}, h("a", {href: context.link("why", {model: each.model_id})}, each.model_id)),
    h("td", {}, each.chosen ? badge("bad", "leaves") : badge(each.standing === "idle" ? "hollow" : "good", each.standing)),
    h("td.number", {}, bytes(each.bytes)),
    h("td", {}, each.worth === undefined || each.worth === null ? h("span.muted", {}, "by last use") : [h("span.worth", {style: {width}}), each.worth.toPrecision(3)]),
    h("td.number", {}, duration(each.unused_seconds ?? 0)),
    h("td.number", {}, each.uses ?? 0),
    h("td.number", {}, each.reload_seconds === undefined || each.reload_seconds === null ? "" : duration(each.reload_seconds)),
  );
}

function alternatives(all) {
  if (!all.length) return null;
  const told = all.map((each) => {
    const outcome = each.starts ? (each.evicting?.length ? `${each.evicting.join(", ")} would have left` : "nobody would have had to leave") : "it would not have been loaded";
    return h("li", {}, h("b", {}, IF[each.if]?.(each) ?? each.if), `: ${outcome}.`);
  });
  return [h("h3", {}, "What would have changed it"), h("ul.dots", {}, told)];
}

const IF = {
  more_memory: (each) => `With ${bytes(each.bytes)} more memory`,
  not_pinned: (each) => `If ${each.model_id} had not been pinned`,
  not_used: (each) => `If no request had used ${each.model_id}`,
  used_later: (each) => `If ${each.model_id} had been used in the last ${duration(each.unused_seconds)}`,
  worth_more: (each) => `If ${each.model_id} had been worth more than ${each.worth.toPrecision(3)}`,
};

function bets(bet) {
  const rows = [{model_id: `${bet.model_id}, taken`, chance: bet.chance, saves_seconds: bet.saves_seconds, costs_seconds: bet.costs_seconds}, ...bet.losers];
  return panel("The bets that were weighed", h(
    "table",
    {},
    h("thead", {}, h("tr", {}, ["Model", "Chance", "Saves", "Costs"].map((name, place) => h("th", {scope: "col", class: place ? "number" : ""}, name)))),
    h("tbody", {}, rows.map((each) => h("tr", {}, h("td", {}, each.model_id), h("td.number", {}, `${(100 * each.chance).toFixed(1)} %`), h("td.number", {}, duration(each.saves_seconds)), h("td.number", {}, each.costs_seconds === undefined || each.costs_seconds === null ? "no room" : duration(each.costs_seconds))))),
  ));
}

// --- parts ---------------------------------------------------------------------------------------------------------

function panel(title, body, isList = false) {
  return h("section.panel", {"aria-label": title}, h("div.head", {}, h("h2", {}, title)), isList ? body : h("div.body.stack", {}, body));
}

/** Times of the service are in UTC: people read their own. */
function local(text) {
  return text.replace(/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z/g, (time) => moment(time));
}

function localTime(time) {
  const date = new Date(time);
  return new Date(date.getTime() - 60_000 * date.getTimezoneOffset()).toISOString().slice(0, 19);
}
