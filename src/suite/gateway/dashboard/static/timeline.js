// Who was in memory when: a lane a model, read a page at a time, of which only those are drawn that can be seen.

import {fill, h, put, set} from "./dom.js";
import {bytes, count, duration, moment} from "./format.js";
import {empty, tableOf} from "./parts.js";
import {timeTicks} from "./times.js";
import {Rows} from "./virtual.js";

const HEIGHT = 30;
const PAGE = 200;
const PURPOSES = {
  request: "a request needed it",
  preload: "it was likely to be used soon",
  pin: "it is pinned",
  replica: "requests for it waited on other nodes",
  promotion: "it is being promoted",
  excess: "memory",
};
const ENDS = {
  requested: "unloaded on request",
  idle: "left, as nobody used it",
  evicted: "evicted",
  shutdown: "left, as the service stopped",
  node_lost: "gone with its node",
  file_removed: "left, as its file was deleted",
  file_changed: "left, as its file has changed",
  spare: "left, as other copies are enough",
  crashed: "crashed",
  cancelled: "its load was ended",
  failed: "its load failed",
};
const BAD = new Set(["crashed", "failed", "node_lost"]);

export class Timeline {
  /** @param {any} context */
  constructor(context) {
    this.context = context;
    this.begin = 0;
    this.end = 1;
    /** @type {any[]} */
    this.lanes = [];
    /** @type {string | null} */
    this.cursor = null;
    this.asked = {};
    this.isReading = false;
    this.count = h("span.muted");
    this.axis = h("div.axis");
    this.tip = h("div.reading.tip", {role: "status", hidden: true});
    this.nothing = h("div", {hidden: true}, empty("No model was in memory in this time", "A model that is loaded appears here as a lane."));
    this.rows = new Rows({
      height: HEIGHT,
      key: (lane) => `${lane.model_id}\n${lane.lane_node}`,
      make: (lane) => this.row(lane),
      signal: context.signal,
      label: "Models in memory",
      onEnd: () => this.more(),
    });
    this.element = h(
      "section.panel.timeline",
      {"aria-label": "Models in memory"},
      h("div.head", {}, h("h2", {}, "Models in memory"), this.count, h("span.grow"), legend()),
      tableOf("Models in memory", ["Model", this.axis], this.rows),
      this.nothing,
      this.tip,
    );
  }

  /** @param {number} since @param {number} until @param {Record<string, string>} params */
  async show(since, until, params) {
    const asked = (this.asked = {since: since / 1000, until: until / 1000, model_id: params.model, limit: PAGE});
    const reply = await this.context.ask("get_residency_timeline", asked);
    [this.begin, this.end] = [Date.parse(reply.since), until];
    this.lanes = reply.lanes;
    this.cursor = reply.next_cursor;
    this.draw();
  }

  async more() {
    if (!this.cursor || this.isReading) return;
    this.isReading = true;
    const {asked} = this;
    try {
      const reply = await this.context.ask("get_residency_timeline", {...asked, cursor: this.cursor});
      if (asked !== this.asked) return; // another time is looked at by now
      this.lanes = [...this.lanes, ...reply.lanes];
      this.cursor = reply.next_cursor;
      this.draw();
    } catch (error) {
      if (!this.context.signal.aborted) this.context.say(error.message, "error");
    } finally {
      this.isReading = false;
    }
  }

  draw() {
    const loads = this.lanes.reduce((sum, lane) => sum + lane.loads, 0);
    put(this.count, this.lanes.length ? `${count(this.lanes.length)}${this.cursor ? "+" : ""} models, ${count(loads)} loads` : "");
    this.nothing.hidden = this.lanes.length > 0;
    const width = this.axis.clientWidth || 800;
    fill(this.axis, timeTicks(this.begin, this.end, width / 95).map(({at, text}) => h("span", {style: {left: this.left(at)}}, text)));
    this.areNodesTold = new Set(this.lanes.map((lane) => lane.lane_node)).size > 1;
    this.rows.set(this.lanes);
  }

  left(at) {
    return `${(100 * (Math.max(this.begin, Math.min(this.end, at)) - this.begin)) / (this.end - this.begin)}%`;
  }

  row(lane) {
    const name = h("a.cut", {});
    const track = h("div.track", {onkeydown: (event) => this.move(event)});
    const row = h("div.row", {role: "row"}, h("div.name", {role: "rowheader"}, name), h("div", {role: "cell"}, track));
    let shown = null;
    row.update = (lane) => {
      const told = this.areNodesTold ? `${lane.model_id} · ${lane.lane_node}` : lane.model_id;
      put(name, told);
      set(name, "title", told);
      set(name, "href", this.context.link("time", {...this.context.params, model: lane.model_id}));
      if (shown?.lane === lane && shown.begin === this.begin && shown.end === this.end) return;
      shown = {lane, begin: this.begin, end: this.end};
      const at = [...track.children].indexOf(document.activeElement);
      fill(track, lane.stays.map((stay, place) => this.stay(lane, stay, place)));
      if (at >= 0) track.children[Math.min(at, track.children.length - 1)]?.focus();
    };
    row.update(lane);
    return row;
  }

  stay(lane, stay, place) {
    const begun = Date.parse(stay.begun_at);
    const ended = stay.ended_at ? Date.parse(stay.ended_at) : this.end;
    const ready = stay.ready_at ? Date.parse(stay.ready_at) : ended;
    const share = (from, to) => Math.max(0, Math.min(to, this.end) - Math.max(from, this.begin));
    const whole = share(begun, ended) || 1;
    const several = stay.stays > 1;
    const how = BAD.has(stay.end) ? "bad" : stay.end === "evicted" ? "evicted" : "";
    const parts = [
      !several && begun < ready && h("i.loading", {style: {"flex-grow": String(share(begun, ready) / whole)}}),
      (several || stay.ready_at) && h("i", {class: several ? "several" : "resident", style: {"flex-grow": String(several ? 1 : share(ready, ended) / whole)}}),
    ];
    const show = (event) => this.read(lane, stay, event.currentTarget);
    return h(
      "a.stay",
      {
        class: `${how} ${stay.ended_at && Date.parse(stay.ended_at) <= this.end ? "ended" : ""}`,
        href: this.context.link("why", {seq: stay.ended_seq ?? stay.begun_seq}),
        tabindex: place ? "-1" : "0",
        "aria-label": this.sentence(lane, stay),
        style: {left: this.left(begun), width: `${(100 * whole) / (this.end - this.begin)}%`},
        onpointerenter: show,
        onfocus: show,
        onpointerleave: () => this.read(null),
        onblur: () => this.read(null),
      },
      parts,
    );
  }

  /** Left and right go from stay to stay. */
  move(event) {
    const step = {ArrowRight: "nextElementSibling", ArrowLeft: "previousElementSibling"}[event.key];
    const next = step && event.target[step];
    if (!next) return;
    event.preventDefault();
    set(event.target, "tabindex", "-1");
    set(next, "tabindex", "0");
    next.focus();
  }

  sentence(lane, stay) {
    const loaded = stay.stays > 1 ? `${lane.model_id}: ${stay.stays} stays from ${moment(stay.begun_at)}` : `${lane.model_id}: loaded ${moment(stay.begun_at)}`;
    return `${loaded}; ${stay.ended_at ? `${endOf(stay)} ${moment(stay.ended_at)}` : "still there"}`;
  }

  read(lane, stay, element) {
    this.reading = stay;
    this.tip.hidden = !lane;
    if (!lane) return;
    const why = h("div.muted");
    fill(
      this.tip,
      h("b", {}, lane.model_id),
      h("div.muted", {}, `${stay.version ? `version ${stay.version} ` : ""}on ${lane.lane_node}${stay.bytes ? `, ${bytes(stay.bytes)}` : ""}`),
      facts(stay).map(([name, value]) => h("div", {}, `${name} `, h("b", {}, value))),
      why,
    );
    this.putTip(element);
    this.explain(stay, why, element);
  }

  /** Puts what is read below what it is about, or above where there is no room. */
  putTip(element) {
    const at = element.getBoundingClientRect();
    const box = this.element.getBoundingClientRect();
    const isRight = at.left > window.innerWidth / 2;
    const height = this.tip.offsetHeight + 6;
    const isAbove = at.bottom + height > window.innerHeight && at.top > height;
    this.tip.style.setProperty("top", `${(isAbove ? at.top - height : at.bottom + 6) - box.top}px`);
    this.tip.style.setProperty("left", isRight ? "auto" : `${Math.max(10, at.left - box.left)}px`);
    this.tip.style.setProperty("right", isRight ? `${Math.max(10, box.right - at.right)}px` : "auto");
  }

  /** Says why, in the words of the service, when the eye rests there. */
  explain(stay, why, element) {
    clearTimeout(this.timer);
    this.timer = setTimeout(async () => {
      const seq = stay.ended_seq ?? stay.begun_seq;
      const reply = await this.context.ask("explain", {seq}).catch(() => null);
      if (!reply || this.reading !== stay || this.tip.hidden) return;
      put(why, reply.events[0]?.sentences.slice(0, 2).join(" "));
      this.putTip(element);
    }, 250);
  }
}

function facts(stay) {
  if (stay.stays > 1) {
    return [
      ["Stays", count(stay.stays)],
      ["From", moment(stay.begun_at)],
      ["To", stay.ended_at ? moment(stay.ended_at) : "now"],
      ["Ready for", duration(stay.resident_seconds)],
      stay.end && ["The last", endOf(stay)],
    ].filter(Boolean);
  }
  const load = stay.ready_at ? (Date.parse(stay.ready_at) - Date.parse(stay.begun_at)) / 1000 : null;
  return [
    ["Load begun", moment(stay.begun_at)],
    ["As", PURPOSES[stay.purpose] ?? PURPOSES.request],
    load === null ? null : ["Ready after", duration(load)],
    ["Ready for", duration(stay.resident_seconds)],
    stay.ended_at ? ["End", `${moment(stay.ended_at)}: ${endOf(stay)}`] : ["End", "it is still there"],
  ].filter(Boolean);
}

function endOf(stay) {
  const words = ENDS[stay.end] ?? "ended";
  if (!stay.end_detail) return words;
  return stay.end === "evicted" ? `${words} for ${stay.end_detail}` : stay.end === "requested" ? `${words} of ${stay.end_detail}` : `${words} (${stay.end_detail})`;
}

function legend() {
  const parts = [["loading", "loading"], ["resident", "in memory"], ["several", "several short stays"], ["end", "evicted"], ["end bad", "crashed or failed"]];
  return h("div.legend.stays", {}, parts.map(([kind, name]) => h("span", {}, h("i", {class: kind}), name)));
}
