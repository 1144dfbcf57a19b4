// Models that were loaded before anybody asked: what was expected, what came of it, and what other rules would have done.

import {calibrationChart, sentence} from "../calibration.js";
import {Chart} from "../chart.js";
import {fill, h, put, set} from "../dom.js";
import {bytes, count, moment} from "../format.js";
import {badge, empty, failed, figure, findModel, ignored, tableOf} from "../parts.js";
import {replayPanel} from "../replay.js";
import {busy, rangeOf, rangePicker, refreshing, span} from "../times.js";
import {Rows} from "../virtual.js";

const PAGE = 100;
const OUTCOMES = {"": "All", hit: "Hits", waste: "Wastes", open: "Open"};
const REASONS = {used: "used in time", not_used: "not used in time", left: "left memory before", failed: "not loaded"};
const percent = (share) => `${(100 * share).toFixed(share && share < 0.1 ? 1 : 0)} %`;
const gibHours = (byteSeconds) => `${(byteSeconds / 3600 / 2 ** 30).toPrecision(3)} GiB h`;

export const view = {
  name: "bets",
  title: "Bets",
  /** @param {HTMLElement} root @param {any} context */
  mount(root, context) {
    const {params} = context;
    const go = (changed) => context.go("bets", {...params, ...changed});
    const zoom = (begin, end) => go({span: null, since: new Date(begin).toISOString(), until: new Date(end).toISOString()});
    const figures = figuresOfBets();
    const outcomes = new Chart({title: "Bets by what came of them", onSelect: zoom});
    const saved = new Chart({title: "Waiting saved", format: span, onSelect: zoom});
    const calibration = calibrationChart({title: "Expected and come true"});
    const quality = h("div.stack.muted");
    calibration.element.append(h("div.body", {}, quality));
    const reasons = h("div");
    const forecast = h("div");
    const list = new BetList(context, go);
    const trouble = h("div");
    fill(
      root,
      h("div.head", {}, h("h1", {}, "Bets"), rangePicker(params, go, "7d")),
      h("p.muted.lead", {}, "A bet is a model that is loaded before anybody asks for it. It is a hit if it was in memory when it was first used within the time that was expected."),
      trouble,
      figures.element,
      h("div.charts", {}, outcomes.element, saved.element),
      h("div.three", {}, calibration.element, panel("Why bets ended", reasons), panel("Likely to be used next", forecast)),
      list.element,
      replayPanel(context),
    );
    const show = async () => {
      const {since, until} = rangeOf(params, "7d");
      busy(root, true);
      try {
        const notice = await findModel(context);
        const asked = {since: since / 1000, until: until / 1000, model_id: params.model};
        list.showModel();
        const [bets, predictions] = await Promise.all([context.ask("get_bet_statistics", asked), context.ask("get_predictions", {limit: 12}), list.show(asked)]);
        figures.set(bets.total);
        setCharts(bets, outcomes, saved);
        calibration.set([
          {name: "bets", tone: "a", told: bets.calibration},
          {name: "all models", tone: "series-4", told: predictions.chances},
        ]);
        fill(quality, [bets.calibration.count > 0 && h("p", {}, `Bets: ${sentence(bets.calibration)}.`), predictions.chances.count > 0 && h("p", {}, `All models: ${sentence(predictions.chances)}.`)]);
        fill(reasons, tableOfReasons(bets));
        fill(forecast, tableOfForecast(predictions, context));
        fill(trouble, notice);
      } finally {
        busy(root, false);
      }
    };
    refreshing(context, rangeOf(params, "7d").span !== null, show, (error) => fill(trouble, failed(error)));
    return () => {};
  },
};

function panel(title, body) {
  return h("section.panel", {}, h("div.head", {}, h("h2", {}, title)), body);
}

// --- figures and charts --------------------------------------------------------------------------------------------

function figuresOfBets() {
  const made = figure("Bets");
  const hits = figure("Hits");
  const expected = figure("Hits expected");
  const saved = figure("Waiting saved");
  const wasted = figure("Memory wasted");
  const all = [made, hits, expected, saved, wasted];
  return {
    element: h("dl.figures", {}, all.map((each) => each.element)),
    set(of) {
      const settled = of.hits + of.wastes;
      made.set(count(of.made), of.open ? `${count(of.open)} open` : "");
      hits.set(count(of.hits), settled ? percent(of.hits / settled) : "");
      expected.set(of.expected_hits.toFixed(1), settled ? percent(of.expected_hits / settled) : "");
      saved.set(span(of.saved_seconds), `${span(of.expected_seconds)} expected`);
      wasted.set(gibHours(of.wasted_byte_seconds), of.wastes ? `${count(of.wastes)} wastes` : "");
    },
  };
}

function setCharts({since, until, step_seconds, points}, outcomes, saved) {
  const range = {begin: Date.parse(since), end: Date.parse(until), step: step_seconds * 1000};
  const at = points.map((point) => ({...point.figures, time: Date.parse(point.start)}));
  const of = (name) => at.filter((each) => each[name] > 0).map((each) => /** @type {[number, number]} */ ([each.time, each[name]]));
  outcomes.set({
    ...range,
    series: [
      {name: "hits", kind: "bar", tone: "a", points: of("hits")},
      {name: "wastes", kind: "bar", tone: "warn", points: of("wastes")},
      {name: "open", kind: "bar", tone: "quiet", points: of("open")},
    ],
  });
  saved.set({
    ...range,
    series: [
      {name: "saved", kind: "bar", tone: "a", points: of("saved_seconds")},
      {name: "expected", kind: "line", tone: "ink", points: of("expected_seconds")},
    ],
  });
}

// --- tables --------------------------------------------------------------------------------------------------------

function tableOfReasons(bets) {
  if (!bets.reasons.length) return empty("No bet has ended in this time", "Bets end when the model is used, when the time is over, or when it leaves memory.");
  const sum = bets.total.hits + bets.total.wastes;
  return h("table", {}, h("tbody", {}, bets.reasons.map((each) =>
    h("tr", {}, h("td", {}, REASONS[each.reason] ?? each.reason, each.detail && h("span.muted", {}, ` (${each.detail})`)), h("td.number", {}, count(each.count)), h("td.number.muted", {}, percent(each.count / sum))),
  )));
}

function tableOfForecast(predictions, context) {
  if (!predictions.predictions.length) return empty("Nothing was used yet", "Models that were ever used are listed here, the likeliest first.");
  return h("div.scroll", {}, h(
    "table",
    {},
    h("thead", {}, h("tr", {}, h("th", {scope: "col"}, "Model"), h("td"), h("th", {scope: "col"}, `Within ${span(predictions.horizon_seconds)}`), h("th.number", {scope: "col"}, "Won"), h("th.number", {scope: "col"}, "Lost"))),
    h("tbody", {}, predictions.predictions.map((each) =>
      h("tr", {}, [
        h("th.id", {scope: "row"}, h("a", {href: context.link("bets", {...context.params, model: each.model_id})}, each.model_id)),
        h("td", {}, each.loaded && badge("good", "loaded")),
        h("td.nowrap", {}, chanceBar(each.chance)),
        h("td.number", {}, count(each.won)),
        h("td.number", {}, count(each.lost)),
      ]),
    )),
  ));
}

function chanceBar(chance) {
  return [h("i.share", {style: {width: `${Math.max(1, 60 * chance)}px`}}), percent(chance)];
}

// --- each bet ------------------------------------------------------------------------------------------------------

class BetList {
  constructor(context, go) {
    this.context = context;
    this.asked = {};
    this.cursor = null;
    this.isReading = false;
    this.rows = new Rows({height: 34, key: (bet) => String(bet.made_seq), make: (bet) => this.row(bet), signal: context.signal, label: "Bets", onEnd: () => this.more()});
    this.nothing = h("div", {hidden: true}, empty("No bets in this time", "The service takes bets when a load before the first request is likely to pay."));
    const chosen = context.params.outcome ?? "";
    const buttons = Object.entries(OUTCOMES).map(([outcome, label]) => h("button.small", {type: "button", "aria-pressed": String(outcome === chosen), onclick: () => go({outcome})}, label));
    this.only = h("span.muted");
    this.element = h(
      "section.panel.bets",
      {},
      h("div.head", {}, h("h2", {}, "Expected, and what came"), context.params.model && [this.only, h("a", {href: context.link("bets", {...context.params, model: null})}, "Show all models")], h("span.grow"), h("div.group", {role: "group", "aria-label": "Which bets"}, buttons)),
      tableOf("Bets", ["Model", "Taken", "Chance", "What came", "Saved", "Memory"], this.rows),
      Object.hasOwn(OUTCOMES, chosen) ? null : h("div.body", {}, ignored(`There is no outcome ${chosen}: all bets are shown.`)),
      this.nothing,
    );
  }

  /** Says of which model they are, once it is known which is meant. */
  showModel() {
    put(this.only, `only ${this.context.params.model}`);
  }

  async show(asked) {
    const {outcome} = this.context.params;
    this.asked = {...asked, outcome: (Object.hasOwn(OUTCOMES, outcome ?? "") && outcome) || undefined, limit: PAGE};
    const reply = await this.context.ask("get_bets", this.asked);
    this.take([], reply);
  }

  take(before, reply) {
    this.cursor = reply.next_cursor;
    this.nothing.hidden = before.length + reply.bets.length > 0;
    this.rows.set([...before, ...reply.bets]);
  }

  async more() {
    if (!this.cursor || this.isReading) return;
    this.isReading = true;
    const {asked} = this;
    const reply = await this.context.ask("get_bets", {...asked, cursor: this.cursor}).catch((error) => this.context.signal.aborted || this.context.say(error.message, "error"));
    this.isReading = false;
    if (reply?.bets && asked === this.asked) this.take(this.rows.items, reply);
  }

  row(bet) {
    const link = (seq, text) => h("a", {href: this.context.link("why", {seq})}, text);
    const cells = Array.from({length: 6}, () => h("div.cut", {role: "cell"}));
    const row = h("div.row", {role: "row"}, cells);
    row.update = (bet) => {
      if (row.shown === JSON.stringify(bet)) return;
      row.shown = JSON.stringify(bet);
      set(cells[0], "title", bet.model_id);
      fill(cells[0], link(bet.made_seq, bet.model_id), h("span.muted", {}, ` ${bet.node}`));
      put(cells[1], moment(bet.made_at));
      fill(cells[2], chanceBar(bet.chance));
      fill(cells[3], cameOf(bet, link));
      fill(cells[4], bet.outcome === "hit" ? span(bet.saved_seconds ?? 0) : "–", h("span.muted", {}, ` of ${span(bet.saves_seconds)}`));
      put(cells[5], bet.outcome ? gibHours(bet.byte_seconds ?? 0) : bytes(bet.bytes));
    };
    row.update(bet);
    return row;
  }
}

function cameOf(bet, link) {
  if (!bet.outcome) return badge("busy", "open");
  const told = `${REASONS[bet.reason]}${bet.detail ? ` (${bet.detail})` : ""}`;
  return [badge(bet.outcome === "hit" ? "good" : "warn", bet.outcome), " ", link(bet.settled_seq, told)];
}
