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

/** The facts that `explain` tells of. */
const EXPLAINED = new Set([
  "admission.refused", "admission.wait_ended", "admission.wait_started",
  "alias.canary_started", "alias.promoted", "alias.promotion_started", "alias.promotion_stopped", "alias.removed", "alias.set",
  "alias.taken_back",
  "benchmark.cancelled", "benchmark.failed", "benchmark.finished", "benchmark.moved", "benchmark.progressed",
  "benchmark.started",
  "instance.crashed", "instance.grew", "instance.load_failed", "instance.load_started", "instance.loaded", "instance.unloaded",
  "model.pinned", "model.quarantined", "model.registered", "model.released", "model.removed", "model.unpinned",
  "node.draining", "node.resumed",
  "prediction.made", "prediction.settled",
]);

/** Whether `explain` can tell of an event. @param {{subject: string}} event */
export function canBeExplained(event) {
  const {aggregate, fact} = named(event);
  return EXPLAINED.has(`${aggregate}.${fact}`);
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
  const data = event.data ?? {};
  const told = [];
  if (data.model_id && !ids.includes(data.model_id)) told.push(versionOf(data.model_id, data.version));
  if (data.old_model_id) told.push(`was ${versionOf(data.old_model_id, data.old_version)}`);
  const isNamed = told.length > 0;
  for (const [name, value] of Object.entries(data)) {
    if ((name === "version" || name === "old_version") && isNamed) continue; // it stands behind its model
    if (value === null || value === "" || typeof value === "object" || ids.includes(String(value)) || UNSAID.test(name)) continue;
    const write = typeof value === "number" ? BY_ENDING.find(([ending]) => ending.test(name))?.[1] : undefined;
    told.push(`${name.replace(/_(bytes|ms|seconds)$/, "")} ${write ? write(value) : value}`);
  }
  return told.join(" · ");
}

/** A version of a model as people write it. @param {string} model @param {number} [version] */
function versionOf(model, version) {
  return version ? `${model}@${version}` : model;
}

/** The trace of an event; empty: it has none. @param {{traceparent?: string}} event */
export function traceOf(event) {
  return event?.traceparent?.split("-")[1] ?? "";
}

/** The whole event: its envelope and its body. @param {any} event @param {any} context */
export function wholeEvent(event, context) {
  const {aggregate, ids, fact} = named(event);
  const trace = traceOf(event);
  const model = event.data?.model_id ?? (aggregate === "model" ? ids[0] : null);
  const facts = [
    ["Sequence", event.seq],
    ["Time", moment(event.time)],
    ["Type", h("code", {}, event.type)],
    ["Source", event.source],
    ["Id", h("code", {}, event.id)],
    event.correlation_id && ["Request", h("code", {}, event.correlation_id)],
    event.causation_id && ["Caused by", h("code", {}, event.causation_id)],
    trace && ["Trace", h("a.mono", {href: context.link("trace", {id: trace, seq: event.seq})}, trace.slice(0, 8))],
    event.expires && ["Expires", moment(event.expires)],
  ].filter(Boolean);
  return [
    h("h2", {}, `${aggregate} ${fact}`),
    h("p.links", {}, [
      canBeExplained(event) && h("a", {href: context.link("why", {seq: event.seq})}, "Why it happened"),
      model && h("a", {href: context.link("why", {model})}, `Why ${model} is as it is`),
      model && h("a", {href: context.link("log", {model})}, "All its events"),
      aggregate === "alias" && h("a", {href: context.link("log", {filter: `alias.${ids[0]}`})}, `All that happened to ${ids[0]}`),
      trace && h("a", {href: context.link("trace", {id: trace, seq: event.seq})}, "Its trace"),
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
