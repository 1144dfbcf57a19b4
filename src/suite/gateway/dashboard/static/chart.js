// Charts over time as SVG: lines, stacked bars and dots over one axis of time, read with the mouse or with the arrows.

import {fill, h, s, set} from "./dom.js";
import {count, moment} from "./format.js";
import {span, timeTicks} from "./times.js";

const LEFT = 54;
const RIGHT = 10;
const TOP = 8;
const BOTTOM = 22;
const LEAST_DRAG = 6;
const MOST_LETTERS = 8; // left of the axis

/**
 * @typedef {{
 *   name: string,
 *   kind: "line" | "bar" | "dots",
 *   tone: string,
 *   points: [number, number][],
 * }} Series kind: bars are put on each other; tone: a class of charts.css; points: time in ms and value, in order
 */

export class Chart {
  /**
   * @param {{
   *   title: string,
   *   format?: (value: number) => string,
   *   height?: number,
   *   most?: number,
   *   ticks?: number[],
   *   isPlain?: boolean,
   *   onSelect?: (begin: number, end: number) => void,
   * }} options most: the top of the axis, if it is always the same; ticks: the axis is logarithmic, with these; isPlain:
   *   the colours are explained elsewhere; onSelect: a part of the time was chosen
   */
  constructor(options) {
    this.options = {format: count, height: 180, ...options};
    this.legend = h("div.legend");
    this.svg = s("svg.chart", {height: this.options.height, role: "img", tabindex: "0", "aria-label": options.title});
    this.read = h("div.reading", {role: "status", hidden: true});
    this.element = h(
      "figure.panel.charted",
      {},
      h("figcaption.head", {}, h("h2", {}, options.title), h("span.grow"), this.legend),
      h("div.plot", {}, this.svg, this.read),
    );
    /** @type {{begin: number, end: number, step: number, series: Series[], marks?: any[]}} */
    this.data = {begin: 0, end: 1, step: 0, series: []};
    this.place = -1;
    this.drag = null;
    this.listen();
    new ResizeObserver(() => this.draw()).observe(this.element);
  }

  /**
   * @param {{begin: number, end: number, step: number, series: Series[], marks?: {at: number, tone: string, text: string}[]}} data
   *   times in ms; step: of bars; marks: moments to be told
   */
  set(data) {
    this.data = data;
    this.times = [...new Set(data.series.flatMap((each) => each.points.map(([at]) => at)))].sort((a, b) => a - b);
    fill(this.legend, !this.options.isPlain && data.series.length > 1 && data.series.map((each) => h("span", {}, h("i", {class: each.tone}), each.name)));
    set(this.svg, "aria-label", `${this.options.title}: ${this.summary()}`);
    this.draw();
  }

  summary() {
    const told = this.data.series.filter((each) => each.points.length).map((each) => {
      const values = each.points.map(([, value]) => value);
      const {format} = this.options;
      return `${each.name} from ${format(Math.min(...values))} to ${format(Math.max(...values))}, last ${format(values.at(-1) ?? 0)}`;
    });
    return told.join("; ") || "nothing in this time";
  }

  // --- drawing -------------------------------------------------------------------------------------------------

  draw() {
    const width = this.svg.clientWidth;
    if (!width) return;
    this.width = width;
    this.scale();
    set(this.svg, "viewBox", `0 0 ${width} ${this.options.height}`);
    const bars = this.data.series.filter((each) => each.kind === "bar");
    const others = this.data.series.filter((each) => each.kind !== "bar");
    this.cursor = s("line.cursor", {y1: TOP, y2: this.options.height - BOTTOM, visibility: "hidden"});
    this.chosen = s("rect.chosen", {y: TOP, height: this.options.height - BOTTOM - TOP, visibility: "hidden"});
    fill(
      this.svg,
      this.axes(),
      this.data.series.some((each) => each.points.length) ? null : s("text.nothing", {x: width / 2, y: this.options.height / 2}, "Nothing in this time"),
      this.stacked(bars),
      others.map((each) => (each.kind === "dots" ? this.dots(each) : this.line(each))),
      (this.data.marks ?? []).map((mark) => this.mark(mark)),
      this.chosen,
      this.cursor,
    );
  }

  mark({at, tone, text}) {
    const x = this.x(at);
    return [s("line.stroke.mark", {class: tone, x1: x, x2: x, y1: TOP, y2: this.options.height - BOTTOM}, s("title", {}, text)), s("text.marked", {x: x + 4, y: TOP + 9}, text)];
  }

  /** Finds the ends of the axis of values. */
  scale() {
    const {most, ticks, format} = this.options;
    const [lowest, highest] = this.extent();
    this.bottom = 0;
    if (ticks) {
      this.bottom = ticks.findLast((each) => each <= lowest && each < ticks[ticks.length - 1]) ?? ticks[0];
      this.top = ticks.find((each) => each >= highest && each > this.bottom) ?? ticks[ticks.length - 1];
      this.ticks = ticks.filter((each) => each >= this.bottom && each <= this.top);
    } else {
      this.top = most ?? (format === span ? niceSeconds(highest) : nice(highest));
      this.ticks = [0, 0.25, 0.5, 0.75, 1].map((share) => share * this.top);
    }
  }

  extent() {
    const sums = new Map();
    let lowest = Infinity;
    let highest = 0;
    for (const {kind, points} of this.data.series) {
      for (const [at, value] of points) {
        const sum = kind === "bar" ? (sums.get(at) ?? 0) + value : value;
        if (kind === "bar") sums.set(at, sum);
        highest = Math.max(highest, sum);
        if (value > 0) lowest = Math.min(lowest, value);
      }
    }
    return [Math.min(lowest, highest || 1), highest];
  }

  x(at) {
    const {begin, end} = this.data;
    return LEFT + ((at - begin) / (end - begin || 1)) * (this.width - LEFT - RIGHT);
  }

  y(value) {
    const {bottom, top} = this;
    const share = bottom ? Math.log(Math.max(value, bottom) / bottom) / Math.log(top / bottom) : value / (top || 1);
    return this.options.height - BOTTOM - Math.min(share, 1) * (this.options.height - BOTTOM - TOP);
  }

  at(x) {
    const {begin, end} = this.data;
    return begin + ((x - LEFT) / (this.width - LEFT - RIGHT)) * (end - begin);
  }

  axes() {
    const {height, format} = this.options;
    const isTold = (value, place) => (this.bottom > 0 || place % 2 === 0) && format(value).length <= MOST_LETTERS;
    const parts = this.ticks.map((value, place) => {
      const y = this.y(value);
      return [s("line.grid", {x1: LEFT, x2: this.width - RIGHT, y1: y, y2: y}), isTold(value, place) && s("text.value", {x: LEFT - 7, y: y + 4}, format(value))];
    });
    const ticks = timeTicks(this.data.begin, this.data.end, this.width / 95).map(({at, text}) => s("text.tick", {x: this.x(at), y: height - 6}, text));
    return [parts, ticks];
  }

  stacked(series) {
    const bottoms = new Map();
    const broad = Math.max(1, this.x(this.data.begin + this.data.step) - this.x(this.data.begin) - 1);
    return series.map((each) => {
      const parts = each.points.map(([at, value]) => {
        const bottom = bottoms.get(at) ?? 0;
        bottoms.set(at, bottom + value);
        const y = this.y(bottom + value);
        const high = value ? Math.max(1, this.y(bottom) - y) : 0;
        return `M${this.x(at).toFixed(1)} ${(this.y(bottom) - high).toFixed(1)}h${broad.toFixed(1)}v${high.toFixed(1)}h-${broad.toFixed(1)}z`;
      });
      return s("path.fill", {class: each.tone, d: parts.join("")});
    });
  }

  /** A line that is broken where steps are missing. */
  line(series) {
    let path = "";
    let before = -Infinity;
    const half = this.data.step / 2;
    for (const [at, value] of series.points) {
      const gap = this.data.step && at - before > this.data.step * 1.5;
      path += `${gap || !path ? "M" : "L"}${this.x(at + half).toFixed(1)} ${this.y(value).toFixed(1)}`;
      if (gap || before === -Infinity) path += "h0.01"; // a single point can be seen
      before = at;
    }
    return s("path.stroke", {class: series.tone, d: path});
  }

  dots(series) {
    const half = this.data.step / 2;
    return series.points.map(([at, value]) => s("circle.fill", {class: series.tone, cx: this.x(at + half), cy: this.y(value), r: 3}));
  }

  // --- reading -------------------------------------------------------------------------------------------------

  listen() {
    const svg = this.svg;
    const x = (event) => event.clientX - svg.getBoundingClientRect().left;
    svg.addEventListener("pointermove", (event) => (this.drag === null ? this.point(this.nearest(this.at(x(event)))) : this.choose(x(event))));
    svg.addEventListener("pointerleave", () => this.drag === null && this.point(-1));
    svg.addEventListener("blur", () => this.point(-1));
    svg.addEventListener("keydown", (event) => this.key(event));
    if (!this.options.onSelect) return;
    svg.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || x(event) < LEFT) return;
      this.drag = x(event);
      svg.setPointerCapture(event.pointerId);
    });
    svg.addEventListener("pointerup", (event) => this.chose(x(event)));
    svg.addEventListener("pointercancel", () => this.chose(this.drag ?? 0));
  }

  nearest(at) {
    const times = this.times ?? [];
    const half = this.data.step / 2;
    let found = -1;
    for (let place = 0; place < times.length; place++) {
      if (found < 0 || Math.abs(times[place] + half - at) < Math.abs(times[found] + half - at)) found = place;
    }
    return found;
  }

  key(event) {
    const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    const times = this.times ?? [];
    if (event.key === "Escape") return this.point(-1);
    if (!step || !times.length) return;
    event.preventDefault();
    this.point(this.place < 0 ? (step > 0 ? 0 : times.length - 1) : Math.max(0, Math.min(times.length - 1, this.place + step)));
  }

  point(place) {
    this.place = place;
    const at = this.times?.[place];
    this.read.hidden = at === undefined;
    this.cursor?.setAttribute("visibility", at === undefined ? "hidden" : "visible");
    if (at === undefined) return;
    const x = this.x(at + this.data.step / 2);
    set(this.cursor, "x1", x);
    set(this.cursor, "x2", x);
    const values = this.data.series.map((each) => ({each, value: each.points.find(([time]) => time === at)?.[1]}));
    fill(
      this.read,
      h("b", {}, moment(at)),
      values.filter(({value}) => value !== undefined).map(({each, value}) => h("div", {}, h("i", {class: each.tone}), `${each.name} `, h("b", {}, this.options.format(value ?? 0)))),
    );
    const isRight = x > this.width / 2;
    this.read.style.setProperty("left", isRight ? "auto" : `${x + 12}px`);
    this.read.style.setProperty("right", isRight ? `${this.width - x + 12}px` : "auto");
  }

  choose(x) {
    const from = Math.max(LEFT, Math.min(x, this.drag));
    set(this.chosen, "x", from);
    set(this.chosen, "width", Math.max(0, Math.min(this.width - RIGHT, Math.max(x, this.drag)) - from));
    set(this.chosen, "visibility", "visible");
  }

  chose(x) {
    const from = this.drag;
    this.drag = null;
    if (this.chosen) set(this.chosen, "visibility", "hidden");
    if (from === null || Math.abs(x - from) < LEAST_DRAG) return;
    const [begin, end] = [this.at(Math.min(from, x)), this.at(Math.max(from, x))];
    this.options.onSelect?.(Math.max(begin, this.data.begin), Math.min(end, this.data.end));
  }
}

/** A round number at or above a value, for the top of an axis. @param {number} value */
export function nice(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return ([1, 2, 4, 5, 8, 10].find((each) => each * power >= value) ?? 10) * power;
}


const ROUND = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 3 * 3600, 6 * 3600, 12 * 3600, 86400];

/** The same for seconds. @param {number} value */
export function niceSeconds(value) {
  return value < 1 ? nice(value) : (ROUND.find((each) => each >= value) ?? nice(value / 86400) * 86400);
}
