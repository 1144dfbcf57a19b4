// How it went: who was in memory when, requests, cold starts, how long they took, and what was reused.

import {Chart} from "../chart.js";
import {fill, h, put} from "../dom.js";
import {count} from "../format.js";
import {empty, failed, figure, findModel} from "../parts.js";
import {Timeline} from "../timeline.js";
import {busy, rangeOf, rangePicker, refreshing, span} from "../times.js";

const percent = (value) => `${value.toFixed(value && value < 10 ? 1 : 0)} %`;
const ms = (value) => span(value / 1000);
const SECOND = 1000;
const TICKS = [0.01, 0.1, 1, 10, 100, SECOND, 10 * SECOND, 60 * SECOND, 600 * SECOND, 3600 * SECOND, 86400 * SECOND];

export const view = {
  name: "time",
  title: "Time",
  /** @param {HTMLElement} root @param {any} context */
  mount(root, context) {
    const {params} = context;
    const go = (changed) => context.go("time", {...params, ...changed});
    const zoom = (begin, end) => go({span: null, since: new Date(begin).toISOString(), until: new Date(end).toISOString()});
    const figures = figuresOfRequests();
    const charts = chartsOfRequests(zoom);
    const timeline = new Timeline(context);
    const models = h("div.panel", {}, h("div.head", {}, h("h2", {}, "Models by use")), h("div.scroll"));
    const refusals = panelOfRefusals(context);
    const only = h("b");
    const trouble = h("div");
    fill(
      root,
      h("div.head", {}, h("h1", {}, "Time"), rangePicker(params, go)),
      params.model && h("p.links", {}, h("span", {}, "Only ", only), h("a", {href: context.link("time", {...params, model: null})}, "Show all models")),
      trouble,
      figures.element,
      h("div.charts", {}, charts.all.map((each) => each.element)),
      refusals.element,
      timeline.element,
      params.model ? null : models,
    );
    const show = async () => {
      const {since, until} = rangeOf(params);
      const asked = {since: since / 1000, until: until / 1000, model_id: params.model};
      busy(root, true);
      try {
        const notice = await findModel(context);
        put(only, params.model);
        asked.model_id = params.model;
        const requests = context.ask("get_request_statistics", {...asked, limit: 0}).then((reply) => {
          figures.set(reply.total);
          charts.set(reply);
          refusals.set(reply.total);
        });
        await Promise.all([requests, timeline.show(since, until, params)]);
        if (!params.model) fill(models.lastChild, tableOfModels((await context.ask("get_request_statistics", asked)).models, context));
        fill(trouble, notice);
      } finally {
        busy(root, false);
      }
    };
    refreshing(context, rangeOf(params).span !== null, show, (error) => fill(trouble, failed(error)));
    return () => {};
  },
};

// --- figures -------------------------------------------------------------------------------------------------------

function figuresOfRequests() {
  const requests = figure("Requests");
  const cold = figure("Cold starts");
  const first = figure("First token, p50");
  const total = figure("Whole request, p95");
  const reuse = figure("Prompt tokens reused");
  const lost = figure("Failed or refused");
  const all = [requests, cold, first, total, reuse, lost];
  return {
    element: h("dl.figures", {}, all.map((each) => each.element)),
    set(of) {
      requests.set(count(of.requests));
      cold.set(count(of.cold_starts), of.requests ? percent((100 * of.cold_starts) / of.requests) : "");
      first.set(of.first_token ? ms(of.first_token.p50_ms) : "–", of.first_token ? `p95 ${ms(of.first_token.p95_ms)}` : "");
      total.set(of.total ? ms(of.total.p95_ms) : "–", of.total ? `p50 ${ms(of.total.p50_ms)}` : "");
      reuse.set(of.prompt_tokens ? percent(reusedPercent(of)) : "–", of.prompt_tokens ? `of ${count(of.prompt_tokens)}` : "");
      lost.set(count(of.failed + of.refused), of.cancelled ? `${count(of.cancelled)} cancelled` : "");
    },
  };
}

const reusedPercent = (of) => (100 * of.reused_tokens) / of.prompt_tokens;

// --- charts --------------------------------------------------------------------------------------------------------

function chartsOfRequests(onSelect) {
  const requests = new Chart({title: "Requests", onSelect});
  const misses = new Chart({title: "Cold starts and failures", onSelect});
  const tokens = new Chart({title: "Tokens", onSelect});
  const first = new Chart({title: "Until the first token", format: ms, ticks: TICKS, onSelect});
  const total = new Chart({title: "Until the end", format: ms, ticks: TICKS, onSelect});
  const reuse = new Chart({title: "Prompt tokens reused", format: percent, most: 100, onSelect});
  return {
    all: [requests, misses, tokens, first, total, reuse],
    set({since, until, step_seconds, points}) {
      const at = points.map((point) => ({...point.figures, time: Date.parse(point.start)}));
      const range = {begin: Date.parse(since), end: Date.parse(until), step: step_seconds * 1000};
      const some = (values) => values.filter(([, value]) => value > 0);
      requests.set({
        ...range,
        series: [
          {name: "served", kind: "bar", tone: "a", points: at.map((of) => [of.time, of.requests - of.failed - of.cancelled])},
          {name: "cancelled", kind: "bar", tone: "quiet", points: some(at.map((of) => [of.time, of.cancelled]))},
        ],
      });
      misses.set({
        ...range,
        series: [
          {name: "cold starts", kind: "bar", tone: "a", points: some(at.map((of) => [of.time, of.cold_starts]))},
          {name: "refused", kind: "bar", tone: "warn", points: some(at.map((of) => [of.time, of.refused]))},
          {name: "failed", kind: "bar", tone: "bad", points: some(at.map((of) => [of.time, of.failed]))},
        ],
      });
      tokens.set({
        ...range,
        series: [
          {name: "written", kind: "bar", tone: "a", points: at.map((of) => [of.time, of.completion_tokens])},
          {name: "read", kind: "bar", tone: "b", points: at.map((of) => [of.time, of.prompt_tokens - of.reused_tokens])},
          {name: "reused", kind: "bar", tone: "c", points: at.map((of) => [of.time, of.reused_tokens])},
        ],
      });
      first.set({...range, series: percentiles(at, "first_token")});
      total.set({...range, series: percentiles(at, "total")});
      const read = at.filter((of) => of.prompt_tokens);
      reuse.set({...range, series: [{name: "reused", kind: "line", tone: "a", points: read.map((of) => [of.time, reusedPercent(of)])}]});
    },
  };
}

function percentiles(at, name) {
  const known = at.filter((of) => of[name]);
  return [99, 95, 50].map((each) => ({
    name: `p${each}`,
    kind: /** @type {const} */ ("line"),
    tone: {99: "c", 95: "b", 50: "a"}[each],
    points: known.map((of) => /** @type {[number, number]} */ ([of.time, of[name][`p${each}_ms`]])),
  }));
}

// --- refusals ------------------------------------------------------------------------------------------------------

const REASONS = {
  actor_crashed: "its process crashed",
  draft_model_unfit: "its draft model does not fit it",
  load_cancelled: "its load was ended",
  load_failed: "it could not be loaded",
  model_file_incomplete: "its file is not complete",
  model_file_invalid: "its file is damaged",
  model_quarantined: "it was left alone, as it had failed again and again",
  not_enough_memory: "no memory in time",
  overloaded: "too many requests at once",
};

function panelOfRefusals({link}) {
  const body = h("tbody");
  const element = h(
    "section.panel",
    {"aria-label": "Refused requests", hidden: true},
    h("div.head", {}, h("h2", {}, "Refused requests"), h("span.muted", {}, "by reason"), h("span.grow"), h("a", {href: link("log", {filter: "admission.refused"})}, "In the log")),
    h("table", {}, body),
  );
  const row = ([code, number], refused) =>
    h("tr", {}, h("td", {}, REASONS[code] ?? code, h("span.muted", {}, ` (${code})`)), h("td.number", {}, count(number)), h("td.number.muted", {}, percent((100 * number) / refused)));
  return {
    element,
    set({refused, refusals = {}}) {
      element.hidden = !refused;
      fill(body, Object.entries(refusals).map((each) => row(each, refused)));
    },
  };
}

// --- models --------------------------------------------------------------------------------------------------------

function tableOfModels(models, context) {
  if (!models.length) return empty("No requests in this time", "Models are listed here with the requests that they had.");
  const most = Math.max(...models.map((each) => each.figures.requests));
  const head = ["Model", "Requests", "Cold starts", "Refused", "First token p50", "p95", "Whole p95", "Reused", "Tokens written"];
  return h(
    "table",
    {},
    h("thead", {}, h("tr", {}, head.map((name, place) => h(place ? "th.number" : "th", {scope: "col"}, name)))),
    h("tbody", {}, models.map(({model_id, figures: of}) =>
      h("tr", {}, [
        h("th.id", {scope: "row"}, h("a", {href: context.link("time", {...context.params, model: model_id})}, model_id)),
        h("td.number", {}, h("i.share", {style: {width: `${(70 * of.requests) / most}px`}}), count(of.requests)),
        h("td.number", {}, count(of.cold_starts)),
        h("td.number", {title: Object.entries(of.refusals ?? {}).map(([code, number]) => `${code} ${number}`).join(", ")}, count(of.refused)),
        h("td.number", {}, of.first_token ? ms(of.first_token.p50_ms) : "–"),
        h("td.number", {}, of.first_token ? ms(of.first_token.p95_ms) : "–"),
        h("td.number", {}, of.total ? ms(of.total.p95_ms) : "–"),
        h("td.number", {}, of.prompt_tokens ? percent(reusedPercent(of)) : "–"),
        h("td.number", {}, count(of.completion_tokens)),
      ]),
    )),
  );
}
