// The tree of a trace: its spans below those that led to them, with the events that they appended.

/**
 * @typedef {{
 *   name: string,
 *   process: string,
 *   begin: number,
 *   seconds: number | null,
 *   depth: number,
 *   error: string,
 *   notes: string[],
 *   events: any[],
 *   attributes: Record<string, any>,
 *   trace: string,
 * }} Line begin: in seconds since 1970; seconds: null for an event whose span is not kept; trace: that of a span which is
 *   only linked
 */

/**
 * The lines of a trace from top to bottom, as `suite trace` draws them.
 * @param {{spans: any[], linked: any[], events: any[]}} found
 * @returns {Line[]}
 */
export function linesOf({spans, linked, events}) {
  const ids = new Set(spans.map((each) => each.span_id));
  const known = (id) => (ids.has(id) ? id : "");
  const children = grouped([...spans].sort((a, b) => a.start_ns - b.start_ns), (each) => known(each.parent_id ?? ""));
  const links = grouped(linked, (each) => known((each.links ?? []).find((link) => ids.has(link.span_id))?.span_id ?? ""));
  const appended = grouped(events, (each) => known(each.traceparent?.split("-")[2] ?? ""));
  const lines = [];
  const add = (id, depth) => {
    for (const span of children.get(id) ?? []) {
      lines.push(lineOf(span, depth, appended.get(span.span_id) ?? []));
      add(span.span_id, depth + 1);
    }
    if (!id) for (const event of appended.get("") ?? []) lines.push(lineOfEvent(event, depth));
    for (const span of links.get(id) ?? []) lines.push({...lineOf(span, depth, []), trace: span.trace_id});
  };
  add("", 0);
  return lines;
}

function grouped(items, key) {
  const groups = new Map();
  for (const item of items) {
    const id = key(item);
    if (!groups.has(id)) groups.set(id, []);
    groups.get(id).push(item);
  }
  return groups;
}

/** The node and the process of a span. @param {{node?: string, process: string}} span */
export function placeOf({node = "", process}) {
  return process === "node" ? node : `${node} ${process}`.trim();
}

function lineOf(span, depth, events) {
  const {attributes = {}} = span;
  return {
    name: span.name,
    process: placeOf(span),
    begin: span.start_ns / 1e9,
    seconds: (span.end_ns - span.start_ns) / 1e9,
    depth,
    error: span.error ?? "",
    notes: notesOf(attributes),
    events,
    attributes,
    trace: "",
  };
}

function lineOfEvent(event, depth) {
  return {name: event.type, process: event.source, begin: Date.parse(event.time) / 1000, seconds: null, depth, error: "", notes: [], events: [event], attributes: {}, trace: ""};
}

function notesOf(attributes) {
  const tokens = attributes["gen_ai.usage.output_tokens"];
  const status = attributes["http.response.status_code"];
  return [
    ...(tokens === undefined ? [] : [`${attributes["gen_ai.usage.input_tokens"]} + ${tokens} tokens`]),
    ...(status === undefined ? [] : [`status ${status}`]),
  ];
}
