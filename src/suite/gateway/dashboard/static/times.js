// Ranges of time: which one is looked at, how it is chosen, and what stands at an axis of it.

import {fill, h, set} from "./dom.js";
import {clock, duration} from "./format.js";
import {ignored} from "./parts.js";

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
const STEPS = [MINUTE, 5 * MINUTE, 15 * MINUTE, 30 * MINUTE, HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 7 * DAY, 14 * DAY, 30 * DAY, 90 * DAY, 365 * DAY];
const SPANS = {"1h": HOUR, "6h": 6 * HOUR, "24h": DAY, "7d": 7 * DAY, "30d": 30 * DAY};
const LABELS = {"1h": "1 hour", "6h": "6 hours", "24h": "24 hours", "7d": "7 days", "30d": "30 days", all: "All"};
export const REFRESH = 15_000;

/** Round times for an axis. @param {number} begin @param {number} end @param {number} most @returns {{at: number, text: string}[]} */
export function timeTicks(begin, end, most) {
  const step = STEPS.find((each) => (end - begin) / each <= Math.max(2, most)) ?? STEPS[STEPS.length - 1];
  const offset = new Date(begin).getTimezoneOffset() * MINUTE;
  const ticks = [];
  for (let at = Math.ceil((begin - offset) / step) * step + offset; at < end; at += step) {
    if ((at - begin) / (end - begin) < 0.02 || (end - at) / (end - begin) < 0.03) continue;
    ticks.push({at, text: tickText(at, step)});
  }
  return ticks;
}

const SHORT_DAY = new Intl.DateTimeFormat("en-GB", {day: "numeric", month: "short"});
const MONTH = new Intl.DateTimeFormat("en-GB", {month: "short", year: "numeric"});

function tickText(at, step) {
  if (step >= 90 * DAY) return MONTH.format(at);
  const date = new Date(at);
  const isMidnight = date.getHours() === 0 && date.getMinutes() === 0;
  return step >= DAY || isMidnight ? SHORT_DAY.format(at) : clock(at).slice(0, 5);
}

/** A length of time, without a zero at its end: 30 min. @param {number} seconds */
export function span(seconds) {
  return seconds ? duration(seconds).replace(/ 0 (s|min|h)$/, "") : "0";
}

/**
 * The range that the address says: `span` is one that ends now, `since` and `until` are any.
 * @param {Record<string, string>} params
 * @param {string} usual the span if the address says nothing
 * @returns {{since: number, until: number, span: string | null}}
 */
export function rangeOf(params, usual = "24h") {
  const now = Date.now();
  const since = Date.parse(params.since ?? "");
  const until = Date.parse(params.until ?? "");
  if (since < until) return {since, until, span: null};
  const span = Object.hasOwn(LABELS, params.span ?? "") ? params.span : usual;
  return {since: span === "all" ? 0 : now - SPANS[span], until: now, span};
}

/**
 * What of the address makes no sense as a range, in words; empty: nothing.
 * @param {Record<string, string>} params
 */
export function rangeProblem({since, until, span}) {
  if (since || until) {
    const [begin, end] = [Date.parse(since ?? ""), Date.parse(until ?? "")];
    if (!since || !until) return `A range has both since and until: without ${since ? "until" : "since"} it is ignored.`;
    if (Number.isNaN(begin) || Number.isNaN(end)) return `${Number.isNaN(begin) ? since : until} is no time: write it like 2026-11-29T12:00:00Z.`;
    if (begin >= end) return "The end must be after the beginning: the range in the address is ignored.";
  }
  return span && !Object.hasOwn(LABELS, span) ? `There is no span ${span}: there are ${Object.keys(LABELS).join(", ")}.` : "";
}

/**
 * The controls of a range: spans, to and fro, and any two times. `onChange` gets the parameters for the address.
 * @param {Record<string, string>} params
 * @param {(params: Record<string, string | null>) => void} onChange
 * @param {string} [usual]
 */
export function rangePicker(params, onChange, usual = "24h") {
  const {since, until, span} = rangeOf(params, usual);
  const choose = (since, until) => onChange({span: null, since: new Date(since).toISOString(), until: new Date(until).toISOString()});
  const spans = Object.entries(LABELS).map(([name, label]) =>
    h("button", {type: "button", "aria-pressed": String(name === span), onclick: () => onChange({span: name, since: null, until: null})}, label),
  );
  const from = h("input", {type: "datetime-local", "aria-label": "From", step: "60", value: localTime(since || until - DAY)});
  const to = h("input", {type: "datetime-local", "aria-label": "To", step: "60", value: localTime(until)});
  const shift = (part) => choose(since + (until - since) * part, until + (until - since) * part);
  const set_ = (event) => {
    event.preventDefault();
    const [begin, end] = [Date.parse(from.value), Date.parse(to.value)];
    if (begin < end) return choose(begin, end);
    tell(Number.isNaN(begin) || Number.isNaN(end) ? "A range needs a beginning and an end" : "The end must be after the beginning");
  };
  const problem = h("div.problem");
  const tell = (text) => {
    fill(problem, text && ignored(text));
    for (const input of [from, to]) set(input, "aria-invalid", text ? "true" : null);
  };
  for (const input of [from, to]) input.addEventListener("input", () => tell(""));
  tell(rangeProblem(params));
  return h(
    "form.range",
    {onsubmit: set_},
    h("div.group", {role: "group", "aria-label": "How long a time"}, spans),
    h("div.group", {role: "group", "aria-label": "To and fro"}, [
      h("button", {type: "button", title: "Earlier", "aria-label": "Earlier", disabled: since === 0, onclick: () => shift(-0.5)}, "‹"),
      h("button", {type: "button", title: "Later", "aria-label": "Later", disabled: since === 0 || span !== null, onclick: () => shift(0.5)}, "›"),
    ]),
    h("span.any", {}, from, "–", to, h("button", {type: "submit"}, "Show")),
    problem,
  );
}

/** A time as an input of it has it. @param {number} at */
export function localTime(at) {
  const date = new Date(at);
  return new Date(at - date.getTimezoneOffset() * MINUTE).toISOString().slice(0, 16);
}

/**
 * Shows something, and again from time to time while it is about now. What is asked for is shown when all of it is there.
 * @param {any} context
 * @param {boolean} isNow
 * @param {() => Promise<void>} show
 * @param {(error: any) => void} onError
 */
export function refreshing(context, isNow, show, onError) {
  let isBusy = false;
  const again = async () => {
    if (isBusy) return;
    isBusy = true;
    await show().catch((error) => context.signal.aborted || onError(error));
    isBusy = false;
  };
  again();
  const timer = isNow ? setInterval(() => document.hidden || again(), REFRESH) : undefined;
  context.signal.addEventListener("abort", () => clearInterval(timer));
}

/** Marks what is looked up anew, without taking away what is there. @param {HTMLElement} element @param {boolean} isBusy */
export function busy(element, isBusy) {
  set(element, "aria-busy", String(isBusy));
}

