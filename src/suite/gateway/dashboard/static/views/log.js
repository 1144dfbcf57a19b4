// The log: live, with a filter, each event whole. The newest is on top.

import {eachFrame, fill, h, put, set} from "../dom.js";
import {details, named, wholeEvent} from "../events.js";
import {clock, count} from "../format.js";
import {empty, failed, meant} from "../parts.js";
import {Rows, rowHeight} from "../virtual.js";

const ROW = 30;
const SMALL_ROW = 48;
const PAGE = 200;
const MOST = 5_000; // events that are kept while new ones come; older ones are asked for again
const FILTER_PAUSE = 400;
const AGGREGATES = ["admission", "alias", "benchmark", "breaker", "error", "evaluation", "instance", "key", "metric", "model", "node", "prediction", "usage"];

export const view = {
  name: "log",
  title: "Log",
  /** @param {HTMLElement} root @param {any} context */
  mount(root, context) {
    const log = new Log(context);
    fill(root, log.element);
    log.start();
    context.on("events", (told) => log.hear(told));
    return () => {};
  },
};

const CELLS = ["number", "cut", "cut", "cut details"];

class Log {
  constructor(context) {
    this.context = context;
    /** The newest first. @type {any[]} */
    this.events = [];
    this.hasMore = false;
    this.isAsking = false;
    /** What came while the log is being read anew. @type {any[] | null} */
    this.early = null;
    this.isPaused = false;
    this.unseen = 0;
    this.selected = 0;
    this.show = eachFrame(() => this.draw(), context.signal);
    this.rowHeight = rowHeight(ROW, SMALL_ROW);
    this.makeControls();
    this.rows = new Rows({
      height: this.rowHeight,
      key: (event) => String(event.seq),
      make: () => this.row(),
      signal: context.signal,
      label: "Events",
      onEnd: () => this.more(),
    });
    this.table = h("div", {role: "table", "aria-label": "Events"}, columns(), this.rows.element);
    this.note = h("div");
    this.side = h("aside.panel.side", {"aria-label": "Event", hidden: true, tabindex: "-1"});
    this.side.addEventListener("keydown", (event) => event.key === "Escape" && this.close());
    const panel = h("section.panel.log", {"aria-label": "Log"}, this.controls, this.table, this.note);
    this.split = h("div.split", {}, panel, this.side);
    this.element = [h("h1.visually-hidden", {}, "Log"), this.split];
    window.addEventListener("scroll", () => this.scrolled(), {passive: true, signal: context.signal});
  }

  makeControls() {
    const {params} = this.context;
    const list = h("datalist", {id: "aggregates"}, AGGREGATES.map((name) => h("option", {value: name})));
    this.filter = h("input.filter", {
      type: "search",
      "aria-label": "Filter",
      placeholder: "Filter: usage, instance.loaded …",
      list: "aggregates",
      value: params.model ? `model:${params.model}` : (params.filter ?? ""),
      spellcheck: "false",
    });
    this.pause = h("button", {type: "button", "aria-pressed": "false", onclick: () => this.setPaused(!this.isPaused)}, "Pause");
    this.total = h("span.muted", {"aria-live": "off"});
    this.newer = h("button.small.primary", {type: "button", hidden: true, onclick: () => this.toTop()});
    let timer = 0;
    this.filter.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.begin(), FILTER_PAUSE);
    });
    this.controls = h("div.head", {}, h("h2", {}, "Events"), this.total, h("span.grow"), this.newer, this.filter, list, this.pause);
  }

  /** What the gateway is asked for. */
  wanted(more) {
    const text = this.filter.value.trim();
    const about = text.startsWith("model:") ? {model_id: text.slice(6)} : text ? {filter: text} : {};
    return `/ui/events?${new URLSearchParams({...about, ...more})}`;
  }

  get isFiltered() {
    return this.filter.value.trim() !== "";
  }

  /** Begins with what the address says: an event, and a model by any of its names. The log may know others, too. */
  async start() {
    const {seq, model} = this.context.params;
    if (Number.isSafeInteger(Number(seq ?? 1)) && !(Number(seq) < 1)) this.selected = Number(seq ?? 0);
    else this.context.say(`${seq} is no sequence of an event: those are whole numbers from 1 on`, "error");
    if (model) {
      const found = await meant(this.context, model).catch((error) => this.context.signal.aborted || this.context.say(error.message, "error"));
      if (typeof found === "string" && this.filter.value === `model:${model}`) this.filter.value = `model:${found}`;
    }
    if (!this.context.signal.aborted) await this.begin();
  }

  /** Begins anew with the newest events. */
  async begin() {
    const text = this.filter.value.trim();
    const params = text.startsWith("model:") ? {model: text.slice(6)} : {filter: text};
    this.context.replace({...params, seq: this.selected || ""});
    this.unseen = 0;
    const early = (this.early = []);
    const page = await this.asked({limit: PAGE}, (error) => this.refuse(error));
    if (early !== this.early) return;
    this.early = null;
    if (!page) return;
    this.events = [...early.filter((event) => event.seq > page.last_seq), ...page.events];
    this.hasMore = page.has_more;
    this.lastSeq = page.last_seq;
    this.show();
    if (this.selected) this.open(this.selected);
  }

  /** Asks for older events. */
  async more() {
    if (!this.hasMore || this.isAsking || !this.events.length) return;
    const oldest = this.events.at(-1).seq;
    const page = await this.asked({limit: PAGE, before: Math.ceil(oldest)}); // that of a gap lies between two
    if (!page || this.events.at(-1)?.seq !== oldest) return;
    this.events = [...this.events, ...page.events];
    this.hasMore = page.has_more;
    this.show();
  }

  /** A page of the log; null if the filter was changed meanwhile, or it was refused. */
  async asked(more, refuse = (error) => this.context.say(error.message, "error")) {
    const request = (this.request = Symbol("the newest request"));
    this.isAsking = true;
    try {
      const page = await this.context.get(this.wanted(more));
      if (request !== this.request) return null; // the filter has changed meanwhile
      fill(this.note);
      return page;
    } catch (error) {
      if (!this.context.signal.aborted && request === this.request) refuse(error);
      return null;
    } finally {
      if (request === this.request) this.isAsking = false;
    }
  }

  refuse(error) {
    this.events = [];
    this.hasMore = false;
    this.show();
    fill(this.note, h("div.body", {}, failed(error)));
  }

  // --- what comes ---------------------------------------------------------------------------------------------------

  hear({events, skipped}) {
    if (this.isFiltered) return this.catchUpSoon();
    const last = this.events[0]?.seq ?? 0;
    const fresh = events.filter((event) => event.seq > last).reverse();
    if (skipped && fresh.length) fresh.push({seq: fresh.at(-1).seq - 0.5, gap: skipped});
    if (this.early) this.early.unshift(...fresh);
    else this.add(fresh);
  }

  /** Asks for the new events that match, some moments after one has come. */
  catchUpSoon() {
    if (this.catching) return;
    this.catching = setTimeout(async () => {
      this.catching = 0;
      const after = Math.max(this.lastSeq ?? 0, Math.floor(this.events[0]?.seq ?? 0));
      const page = await this.asked({after, limit: PAGE});
      if (!page) return;
      if (page.has_more) return this.begin();
      this.lastSeq = page.last_seq;
      this.add(page.events);
    }, FILTER_PAUSE);
  }

  add(fresh) {
    if (!fresh.length) return;
    if (this.isPaused || window.scrollY > this.rowHeight * 4) {
      this.unseen += fresh.length;
      this.waiting = [...fresh, ...(this.waiting ?? [])].slice(0, MOST);
    } else {
      this.events = [...fresh, ...this.events];
      if (this.events.length > MOST) {
        this.events.length = MOST;
        this.hasMore = true;
      }
    }
    this.show();
  }

  takeWaiting() {
    if (!this.waiting?.length || this.isPaused) return;
    const waiting = this.waiting;
    this.waiting = [];
    this.unseen = 0;
    if (waiting.length >= MOST) return this.begin();
    this.add(waiting);
  }

  scrolled() {
    if (window.scrollY <= this.rowHeight * 4) this.takeWaiting();
  }

  toTop() {
    window.scrollTo({top: 0});
    if (this.isPaused) this.setPaused(false);
    this.takeWaiting();
  }

  setPaused(paused) {
    this.isPaused = paused;
    set(this.pause, "aria-pressed", String(paused));
    put(this.pause, paused ? "Go on" : "Pause");
    this.takeWaiting();
  }

  // --- what is shown ------------------------------------------------------------------------------------------------

  draw() {
    this.rows.set(this.events);
    this.table.hidden = !this.events.length;
    set(this.table, "aria-rowcount", String(this.hasMore ? -1 : this.events.length + 1));
    put(this.total, this.events.length ? `${count(this.events.length)}${this.hasMore ? " newest" : ""} shown` : "");
    this.newer.hidden = !this.unseen;
    put(this.newer, `${count(this.unseen)} new`);
    if (!this.events.length && !this.note.childElementCount) fill(this.note, this.nothing());
    else if (this.events.length) fill(this.note);
  }

  nothing() {
    if (this.isFiltered) return empty("No event matches so far", "What matches appears here as it happens.");
    return empty("The log is empty", "Every load, use and evaluation is written here as it happens.");
  }

  row() {
    const [seq, time, subject, more] = [h("span.muted"), h("span.mono"), h("span.cut.subject"), h("span.cut.muted")];
    const open = h("a", {href: "#"}, subject);
    const element = h("div.row", {role: "row"}, [seq, time, open, more].map((each, place) => h("div", {role: "cell", class: CELLS[place]}, each)));
    let event;
    element.addEventListener("click", (click) => {
      click.preventDefault();
      if (event && !event.gap) this.open(event.seq);
    });
    element.update = (item) => {
      if (item.gap) return showGap(element, item);
      set(open, "aria-current", this.selected === item.seq ? "true" : null);
      set(element, "class", this.selected === item.seq ? "row selected" : "row");
      if (item === event) return;
      event = item;
      const {aggregate, ids, fact} = named(item);
      put(seq, item.seq);
      put(time, clock(item.time, true));
      fill(subject, h("b", {}, `${aggregate} ${fact}`), ids.length ? ` ${ids.join(" ")}` : "");
      put(more, details(item));
    };
    return element;
  }

  async open(seq) {
    this.selected = seq;
    this.context.replace({...this.context.params, filter: this.filter.value, model: "", seq});
    const event = this.events.find((each) => each.seq === seq) ?? (await this.oneEvent(seq));
    const close = h("button.quiet", {type: "button", "aria-label": "Close the event", onclick: () => this.close()}, "Close");
    fill(
      this.side,
      h("div.head", {}, h("h2", {}, `Event ${seq}`), h("span.grow"), close),
      h("div.body.stack", {}, event ? wholeEvent(event, this.context) : empty("This event is gone", "It has expired, or there never was one.")),
    );
    this.side.hidden = false;
    set(this.split, "class", "split open");
    this.rows.draw();
    this.side.focus({preventScroll: true});
  }

  async oneEvent(seq) {
    const page = await this.context.get(`/ui/events?${new URLSearchParams({after: String(seq - 1), limit: "1"})}`).catch(() => null);
    return page?.events.find((event) => event.seq === seq) ?? null;
  }

  close() {
    const seq = String(this.selected);
    this.selected = 0;
    this.side.hidden = true;
    set(this.split, "class", "split");
    this.context.replace({filter: this.filter.value});
    this.rows.draw();
    [...this.rows.element.children].find((row) => row.dataset_key === seq)?.querySelector("a")?.focus();
  }
}

function columns() {
  const names = ["Sequence", "Time", "What", "Details"];
  return h("div", {role: "rowgroup"}, h("div.row.columns", {role: "row"}, names.map((name, place) => h("span", {role: "columnheader", class: CELLS[place]}, name))));
}

function showGap(element, {gap}) {
  set(element, "class", "row gap");
  fill(element, h("div", {role: "cell"}, `${count(gap)} events came too fast to be shown: filter, to see all that match`));
}
