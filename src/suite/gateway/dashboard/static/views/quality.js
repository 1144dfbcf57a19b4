// How good models are: evaluations and the trust in them over time, what agents measure, and errors.

import {Chart} from "../chart.js";
import {fill, h, put, set} from "../dom.js";
import {ago, count, duration, moment} from "../format.js";
import {badge, empty, failed, ignored, tableOf} from "../parts.js";
import {busy, rangeOf, rangePicker, refreshing} from "../times.js";
import {Rows} from "../virtual.js";

const MOST = 6;
/** @type {[string, string, ((value: number) => string)?][]} */
const SCORES = [
  ["Accuracy", "accuracy", undefined],
  ["F1 score", "f1_score", undefined],
  ["Latency in evaluations", "avg_latency_ms", (value) => duration(value / 1000)],
];
const SEVERITIES = {info: "hollow", warning: "warn", error: "bad", critical: "bad"};
const score = (value) => (value === null || value === undefined ? "–" : value.toFixed(2));
const figureOf = (value) => (Math.abs(value) >= 1000 ? count(Math.round(value)) : String(Number(value.toPrecision(3))));

export const view = {
  name: "quality",
  title: "Quality",
  /** @param {HTMLElement} root @param {any} context */
  mount(root, context) {
    const {params} = context;
    const go = (changed) => context.go("quality", {...params, ...changed});
    const zoom = (begin, end) => go({span: null, since: new Date(begin).toISOString(), until: new Date(end).toISOString()});
    const models = new ModelList(context, (chosen) => go({models: JSON.stringify(chosen)}));
    const trust = new Chart({title: "Trust", format: score, most: 1, onSelect: zoom, height: 230});
    const scores = SCORES.map(([title, name, format]) => ({name, chart: new Chart({title: String(title), format: format ?? score, most: format ? undefined : 1, onSelect: zoom, height: 150, isPlain: true})}));
    const versions = h("div.scroll");
    const versionsPanel = h("section.panel", {hidden: true}, h("div.head", {}, h("h2", {}, "Versions of these models")), versions);
    const benchmarks = h("div.scroll");
    const metrics = new Metrics(context, go, zoom);
    const errors = h("div.scroll.scroller", {tabindex: "0", "aria-label": "Errors, grouped", role: "region"});
    const trouble = h("div");
    fill(
      root,
      h("div.head", {}, h("h1", {}, "Quality"), rangePicker(params, go, "30d")),
      trouble,
      h("div.quality", {}, models.element, h("div.stack", {}, trust.element, h("div.charts.small", {}, scores.map((each) => each.chart.element)))),
      versionsPanel,
      h("section.panel", {}, h("div.head", {}, h("h2", {}, "Benchmarks"), h("span.muted", {}, "means, with what they are between in 95 of 100 cases")), benchmarks),
      metrics.element,
      h("section.panel", {}, h("div.head", {}, h("h2", {}, "Errors, grouped"), h("span.grow"), h("a", {href: context.link("log", {filter: "error"})}, "All errors in the log")), errors),
    );
    const show = async () => {
      const {since, until} = rangeOf(params, "30d");
      busy(root, true);
      try {
        const times = {since: since / 1000, until: until / 1000};
        const [compared, groups, benched] = await Promise.all([context.ask("compare_models"), context.ask("get_error_groups", times), context.ask("get_benchmarks", {...times, limit: 50}), metrics.show(since, until)]);
        fill(benchmarks, tableOfBenchmarks(benched.benchmarks));
        const chosen = chosenOf(params, compared.models);
        models.set(compared.models, chosen);
        fill(errors, tableOfErrors(groups.groups, context));
        const asked = {model_names: chosen, ...(since ? {since: since / 1000} : {}), until: until / 1000};
        const quality = chosen.length ? (await context.ask("get_model_quality", asked)).models : [];
        const lists = await Promise.all(chosen.map((name) => context.ask("list_versions", {model_name: name}).catch(() => ({versions: []}))));
        const known = lists.map((each) => each.versions);
        setCharts(quality, known, since, until, trust, scores);
        versionsPanel.hidden = !known.flat().length;
        fill(versions, tableOfVersions(known.flat()));
        fill(trouble, unknownOf(params, chosen, compared.models).map(ignored));
      } finally {
        busy(root, false);
      }
    };
    refreshing(context, rangeOf(params, "30d").span !== null, show, (error) => fill(trouble, failed(error)));
    return () => {};
  },
};

/** The models that are drawn: those that the address says, else the first that were evaluated. */
function chosenOf(params, models) {
  const said = parsed(params.models ?? "");
  if (Array.isArray(said)) return said.filter((each) => typeof each === "string").slice(0, MOST);
  const evaluated = models.filter((each) => each.evaluations);
  return (evaluated.length ? evaluated : models).slice(0, 4).map((each) => each.model_name);
}

/** What of the address is not there. */
function unknownOf(params, chosen, models) {
  const known = new Set(models.map((each) => each.model_name));
  const missing = chosen.filter((name) => !known.has(name));
  return [
    ...(params.models && !Array.isArray(parsed(params.models)) ? ['The models in the address are no list of names: write it like ["a","b"].'] : []),
    ...(missing.length ? [`Nothing is known of ${missing.join(", ")}: the list below has all models.`] : []),
  ];
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

// --- models --------------------------------------------------------------------------------------------------------

class ModelList {
  constructor(context, onChange) {
    this.context = context;
    this.onChange = onChange;
    /** @type {string[]} */
    this.chosen = [];
    this.rows = new Rows({height: 34, key: (model) => model.model_name, make: (model) => this.row(model), signal: context.signal, label: "Models"});
    this.nothing = h("div", {hidden: true}, empty("Nothing is known of any model", h("span", {}, "Evaluations are logged with ", h("code", {}, "suite log-evaluation"), ", and loads and crashes count by themselves.")));
    this.element = h(
      "section.panel.compared",
      {},
      h("div.head", {}, h("h2", {}, "Models by trust"), h("span.muted", {}, `up to ${MOST} in the charts`)),
      tableOf("Models by trust", ["Model", "Trust", "Change", "Accuracy", "Crashes"], this.rows),
      this.nothing,
    );
  }

  set(models, chosen) {
    this.chosen = chosen;
    this.nothing.hidden = models.length > 0;
    this.rows.set(models);
  }

  row(model) {
    const box = h("input", {type: "checkbox"});
    const colour = h("i.key-colour");
    const name = h("span.cut");
    const cells = Array.from({length: 4}, () => h("div", {role: "cell"}));
    const row = h("div.row", {role: "row"}, h("div.name", {role: "rowheader"}, h("label.name", {}, box, colour, name)), cells);
    box.addEventListener("change", () => this.choose(row.model.model_name, box.checked, box));
    row.update = (model) => {
      row.model = model;
      const place = this.chosen.indexOf(model.model_name);
      box.checked = place >= 0;
      set(colour, "class", `key-colour ${place >= 0 ? `series-${place + 1}` : "none"}`);
      put(name, model.model_name);
      set(name, "title", model.model_name);
      fill(cells[0], model.scores.trust === null ? "–" : [h("i.share", {style: {width: `${44 * model.scores.trust}px`}}), score(model.scores.trust)]);
      fill(cells[1], change(model.change.trust));
      put(cells[2], score(model.scores.accuracy));
      put(cells[3], model.crashes ? count(model.crashes) : "");
    };
    row.update(model);
    return row;
  }

  choose(name, isChosen, box) {
    const chosen = isChosen ? [...this.chosen, name] : this.chosen.filter((each) => each !== name);
    if (chosen.length > MOST) {
      box.checked = false;
      this.context.say(`Up to ${MOST} models are drawn: take one out first`);
    } else this.onChange(chosen);
  }
}

function change(value) {
  if (value === null || Math.abs(value) < 0.005) return h("span.muted", {}, value === null ? "" : "=");
  return h("span", {class: value > 0 ? "better" : "worse"}, `${value > 0 ? "▲" : "▼"} ${Math.abs(value).toFixed(2)}`);
}

function setCharts(models, versions, since, until, trust, scores) {
  const times = models.flatMap((each) => [...each.trust_points.map((point) => point.at), ...each.evaluations.map((point) => point.evaluation_timestamp)]).map((at) => Date.parse(at));
  const begin = since || Math.min(until - 60_000, ...times);
  const range = {begin, end: until, step: 0};
  const inside = ([at]) => at >= begin && at <= until;
  const marks = versions.flatMap((of, place) => of.slice(1).map((each) => ({at: Date.parse(each.first_seen), tone: `series-${place + 1}`, text: `@${each.version}`})));
  trust.set({...range, marks: marks.filter((each) => inside([each.at])), series: models.map((each, place) => ({name: each.model_name, kind: "line", tone: `series-${place + 1}`, points: trustLine(each, begin, until)}))});
  for (const {name, chart} of scores) {
    const series = models.map((each, place) => {
      const known = each.evaluations.filter((point) => point[name] !== null && !(name === "avg_latency_ms" && point[name] === 0));
      return {name: each.model_name, kind: "line", tone: `series-${place + 1}`, points: known.map((point) => [Date.parse(point.evaluation_timestamp), point[name]]).filter(inside)};
    });
    chart.set({...range, series});
  }
}

/** The trust over time: from where it stood at the beginning to where it stands at the end. */
function trustLine(model, begin, end) {
  const points = model.trust_points.map((point) => /** @type {[number, number]} */ ([Date.parse(point.at), point.trust]));
  const before = points.findLast(([at]) => at < begin);
  const inside = points.filter(([at]) => at >= begin && at <= end);
  const last = inside.at(-1) ?? before;
  return [before && [begin, before[1]], ...inside, last && [end, last[1]]].filter(Boolean);
}

function tableOfVersions(versions) {
  const head = ["Version", "Trust", "First seen", "Uses", "Last used", "Quantization", "Stands for it", "On"];
  return h(
    "table",
    {},
    h("thead", {}, h("tr", {}, head.map((name) => h(name === "Uses" || name === "Trust" ? "th.number" : "th", {scope: "col"}, name)))),
    h("tbody", {}, versions.map((each) =>
      h("tr", {}, [
        h("th", {scope: "row"}, `${each.model_id}@${each.version}`),
        h("td.number", {}, score(each.trust)),
        h("td.nowrap", {title: moment(each.first_seen)}, ago(each.first_seen)),
        h("td.number", {}, count(each.uses)),
        h("td.nowrap", {}, each.last_used ? ago(each.last_used) : "never"),
        h("td", {}, each.quantization),
        h("td", {}, each.aliases.join(", ")),
        h("td", {}, each.nodes.length ? each.nodes.join(", ") : h("span.muted", {}, "gone from disk")),
      ]),
    )),
  );
}

// --- benchmarks ----------------------------------------------------------------------------------------------------

function tableOfBenchmarks(benchmarks) {
  if (!benchmarks.length) return empty("No benchmarks in this time", h("span", {}, "A model is measured with ", h("code", {}, "suite bench MODEL"), "."));
  const streams = [...new Set(benchmarks.flatMap((each) => (each.result?.speed ?? []).map((speed) => speed.streams)))].sort((a, b) => a - b);
  const head = ["Model", "When", "State", "Right answers", ...streams.map((each) => `Throughput (tokens/s), ${each === 1 ? "alone" : `${each} at once`}`), ...streams.slice(0, 1).map(() => "First token"), "Load"];
  return h(
    "table",
    {},
    h("thead", {}, h("tr", {}, head.map((name, place) => h(place > 2 ? "th.number" : "th", {scope: "col"}, name)))),
    h("tbody", {}, benchmarks.map((each) => {
      const speeds = streams.map((number) => each.result?.speed.find((speed) => speed.streams === number));
      const accuracy = each.result?.quality?.accuracy;
      return h("tr", {}, [
        h("th", {scope: "row"}, each.model_id, h("span.muted", {}, ` on ${each.runs_on}`)),
        h("td.nowrap", {title: moment(each.started_at)}, ago(each.started_at)),
        h("td", {title: each.message}, stateOf(each)),
        h("td.number", {}, accuracy ? interval(100 * accuracy.share, 100 * accuracy.low, 100 * accuracy.high, " %") : "–"),
        speeds.map((speed) => h("td.number", {}, speed ? interval(speed.total_tokens_per_second.mean, speed.total_tokens_per_second.low, speed.total_tokens_per_second.high) : "–")),
        speeds.slice(0, 1).map((speed) => h("td.number", {}, speed ? interval(speed.first_token_ms.mean, speed.first_token_ms.low, speed.first_token_ms.high, " ms") : "–")),
        h("td.number", {}, each.result?.load ? duration(each.result.load.load_ms / 1000) : "–"),
      ]);
    })),
  );
}

function stateOf({state, done, total, waits, code}) {
  if (state === "open") return badge("busy", `${done} of ${total}${waits ? ", waits for others" : ""}`);
  if (state === "failed") return badge("bad", code ?? state);
  return badge(state === "finished" ? "good" : "hollow", state);
}

function interval(mean, low, high, unit = "") {
  const told = `${figureOf(mean)}${unit}`;
  return low === null ? told : [told, h("span.muted", {}, ` ${figureOf(low)}–${figureOf(high)}`)];
}

// --- metrics -------------------------------------------------------------------------------------------------------

class Metrics {
  constructor(context, go, zoom) {
    this.context = context;
    this.choice = h("select", {"aria-label": "Metric", onchange: () => go({metric: this.choice.value})});
    this.chart = new Chart({title: "Mean by agent", format: figureOf, onSelect: zoom, height: 210});
    this.table = h("div.scroll");
    this.body = h("div.measured", {}, this.chart.element, this.table);
    this.nothing = h("div", {hidden: true}, empty("No metrics were logged", h("span", {}, "Agents log them with ", h("code", {}, "suite log-metric"), " or the action log_performance_metric.")));
    this.unknown = h("div.body", {hidden: true});
    this.element = h("section.panel", {}, h("div.head", {}, h("h2", {}, "Metrics by agent"), h("span.grow"), this.choice), this.unknown, this.body, this.nothing);
  }

  async show(since, until) {
    const {metrics} = await this.context.ask("list_metrics");
    this.nothing.hidden = metrics.length > 0;
    this.body.hidden = this.choice.hidden = !metrics.length;
    if (!metrics.length) return;
    const names = metrics.map((each) => each.metric_name);
    const {metric} = this.context.params;
    const wanted = names.includes(metric) ? metric : names[0];
    this.unknown.hidden = !metric || wanted === metric;
    if (!this.unknown.hidden) fill(this.unknown, ignored(`No agent has logged ${metric}: this is ${wanted}.`));
    if (this.choice.children.length !== names.length) fill(this.choice, names.map((name) => h("option", {value: name}, name)));
    this.choice.value = wanted;
    const asked = {metric_name: wanted, since: since / 1000, until: until / 1000};
    const [series, summary] = await Promise.all([this.context.ask("get_metric_series", asked), this.context.ask("summary", asked)]);
    const largest = [...summary.by_agent].sort((a, b) => b.count - a.count).map((each) => each.agent_name);
    const drawn = largest.slice(0, MOST);
    this.chart.set({
      begin: Date.parse(series.since),
      end: Date.parse(series.until),
      step: series.step_seconds * 1000,
      series: series.agents
        .filter((each) => drawn.includes(each.agent_name))
        .map((each) => ({name: each.agent_name, kind: "line", tone: `series-${drawn.indexOf(each.agent_name) + 1}`, points: each.points.map((point) => [Date.parse(point.start), point.mean])})),
    });
    fill(this.table, tableOfAgents(summary, drawn));
  }
}

function tableOfAgents(summary, drawn) {
  if (!summary.by_agent.length) return empty("No samples in this time", "Choose a longer time, or another metric.");
  const head = ["Agent", "Samples", "Mean", "p50", "p95", "p99", "Lowest", "Highest"];
  const rows = [...summary.by_agent].sort((a, b) => b.count - a.count);
  return h(
    "table",
    {},
    h("thead", {}, h("tr", {}, head.map((name, place) => h(place ? "th.number" : "th", {scope: "col"}, name)))),
    h("tbody", {}, rows.map((each) =>
      h("tr", {}, [
        h("th", {scope: "row"}, h("i.key-colour", {class: drawn.includes(each.agent_name) ? `series-${drawn.indexOf(each.agent_name) + 1}` : "none"}), ` ${each.agent_name}`),
        [each.count].map((value) => h("td.number", {}, count(value))),
        [each.mean, each.p50, each.p95, each.p99, each.min, each.max].map((value) => h("td.number", {}, figureOf(value))),
      ]),
    )),
  );
}

// --- errors --------------------------------------------------------------------------------------------------------

function tableOfErrors(groups, context) {
  if (!groups.length) return empty("No errors in this time", "Failed loads, crashes, lost nodes and whatever else goes wrong is grouped here.");
  return h(
    "table",
    {},
    h("thead", {}, h("tr", {}, ["Error", "Times", "Model", "Node", "Last", "The last one"].map((name, place) => h(place === 1 ? "th.number" : "th", {scope: "col"}, name)))),
    h("tbody", {}, groups.map((group) =>
      h("tr", {}, [
        h("th.nowrap", {scope: "row"}, badge(SEVERITIES[group.severity] ?? "bad", group.error_type)),
        h("td.number", {}, count(group.count)),
        h("td", {}, group.model_id ? h("a", {href: context.link("why", {model: group.model_id})}, group.model_id) : h("span.muted", {}, "–")),
        h("td", {}, group.node),
        h("td.nowrap", {title: `first ${moment(group.first_seen)}, last ${moment(group.last_seen)}`}, ago(group.last_seen)),
        h("td.message-text", {}, h("a", {href: context.link("log", {seq: group.last_seq})}, group.message)),
      ]),
    )),
  );
}
