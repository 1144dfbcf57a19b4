// Events of the log, as several views show them.

import {h} from "./dom.js";
import {bytes, duration, moment} from "./format.js";

/** An event's aggregate, ids and fact, with ids as they are. @param {{subject: string}} event */
export function named(event) {
  const [aggregate, ...tokens] = event.subject.replace(/^.*?\.event\./, "").split(".").map(unescaped);
  const fact = tokens.pop() ?? "";
  return {aggregate, ids: tokens, fact};
}

function unescaped(token) {
  try {
    return decodeURIComponent(token);
  } catch {
    return token;
  }
}

const DECISIONS = new Set([
  "instance.load_started", "instance.loaded", "instance.load_failed", "instance.unloaded", "instance.crashed",
  "admission.wait_started", "admission.wait_ended", "admission.refused", "prediction.made", "prediction.settled",
  "model.pinned", "model.unpinned", "model.quarantined", "model.released",
]);

/** Whether `explain` can tell of an event. @param {{subject: string}} event */
export function canBeExplained(event) {
  const {aggregate, fact} = named(event);
  return DECISIONS.has(`${aggregate}.${fact}`);
}

/** @type {[RegExp, (value: number) => string][]} */
const BY_ENDING = [
  [/_bytes$|^bytes$/, bytes],
  [/_ms$/, (value) => duration(value / 1000)],
  [/_seconds$/, duration],
];

/** What nobody reads on one line: ids and digests. */
const UNSAID = /_id$|^pid$|^sha256$|^content$|^settings_key$/;

/** What an event says beside its subject, on one line. @param {{data: any, subject: string}} event */
export function details(event) {
  const {ids} = named(event);
  const told = [];
  for (const [name, value] of Object.entries(event.data ?? {})) {
    if (value === null || value === "" || typeof value === "object" || ids.includes(String(value)) || UNSAID.test(name)) continue;
    const write = typeof value === "number" ? BY_ENDING.find(([ending]) => ending.test(name))?.[1] : undefined;
    told.push(`${name.replace(/_(bytes|ms|seconds)$/, "")} ${write ? write(value) : value}`);
  }
  return told.join(" · ");
}

/** The whole event: its envelope and its body. @param {any} event @param {any} context */
export function wholeEvent(event, context) {
  const {aggregate, ids, fact} = named(event);
  const trace = event.traceparent?.split("-")[1];
  const model = event.data?.model_id ?? (aggregate === "model" ? ids[0] : null);
  const facts = [
    ["Sequence", event.seq],
    ["Time", moment(event.time)],
    ["Type", h("code", {}, event.type)],
    ["Source", event.source],
    ["Id", h("code", {}, event.id)],
    event.correlation_id && ["Request", h("code", {}, event.correlation_id)],
    event.causation_id && ["Caused by", h("code", {}, event.causation_id)],
    trace && ["Trace", h("code", {title: "Shows it, on the machine of the node, if that keeps traces"}, `suite trace ${trace.slice(0, 8)}`)],
    event.expires && ["Expires", moment(event.expires)],
  ].filter(Boolean);
  return [
    h("h2", {}, `${aggregate} ${fact}`),
    h("p.links", {}, [
      canBeExplained(event) && h("a", {href: context.link("why", {seq: event.seq})}, "Why it happened"),
      model && h("a", {href: context.link("why", {model})}, `Why ${model} is as it is`),
      model && h("a", {href: context.link("log", {model})}, "All its events"),
    ]),
    h("dl.facts", {}, facts.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    h("pre.json", {tabindex: "0", "aria-label": "The body of the event"}, coloured(event.data)),
  ];
}

/** A value as JSON, its parts told apart. @param {any} value */
export function coloured(value) {
  const text = JSON.stringify(value, null, 2) ?? "";
  return text.split(/("(?:[^"\\]|\\.)*"(?:\s*:)?|-?\d[\d.eE+-]*|true|false|null)/).map((part, place) => {
    if (place % 2 === 0) return part;
    return h(`span.${part.endsWith(":") ? "key" : part.startsWith('"') ? "text" : "value"}`, {}, part);
  });
}
