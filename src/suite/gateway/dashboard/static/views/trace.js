// A trace: what one request has caused in all processes, and how long each part took.

import {fill, h, set} from "../dom.js";
import {canBeExplained, coloured, named} from "../events.js";
import {count, duration, moment} from "../format.js";
import {badge, empty, failed} from "../parts.js";
import {linesOf, placeOf} from "../trace.js";

const NEWEST = 100;

/** A length of time as spans have them: many are shorter than a millisecond. @param {number} seconds */
const brief = (seconds) => (seconds < 0.1 ? `${(1000 * seconds).toFixed(1)} ms` : duration(seconds));

export const view = {
  name: "trace",
  title: "Trace",
  /** @param {HTMLElement} root @param {any} context */
  mount(root, context) {
    const {id, seq} = context.params;
    const body = h("div.stack");
    const show = async () => {
      set(body, "aria-busy", "true");
      try {
        fill(body, id ? await ofTrace(context, id, seq) : await newest(context));
      } catch (error) {
        if (!context.signal.aborted) fill(body, failed(error), error.code === "trace_not_found" && howToKeep());
      } finally {
        set(body, "aria-busy", "false");
      }
    };
    fill(root, h("div.head", {}, h("h1", {}, "Trace"), form(context, show)), body);
    show();
    return () => {};
  },
};

function form(context, show) {
  const id = h("input", {
    type: "search",
    "aria-label": "A trace, a generation, a request, or the sequence of an event",
    placeholder: "Trace, generation, request, or an event",
    value: context.params.id ?? "",
    spellcheck: "false",
  });
  const submit = (event) => {
    event.preventDefault();
    context.go("trace", {id: id.value.trim()});
  };
  return [
    h("form.inline", {onsubmit: submit}, id, h("button", {type: "submit"}, "Draw")),
    h("button", {type: "button", onclick: show}, "Look again"),
    context.params.id && h("a", {href: context.link("trace")}, "All traces"),
  ];
}

function howToKeep() {
  return h("p.muted", {}, "Spans are kept while the setting ", h("code", {}, "trace"), " is not off. They come some seconds after what they tell of: look again then.");
}

const counted = (number, what) => `${count(number)} ${what}${number === 1 ? "" : "s"}`;

// --- those that are kept -------------------------------------------------------------------------------------------

async function newest(context) {
  const {traces, warnings} = await context.ask("list_traces", {limit: NEWEST});
  const longest = Math.max(...traces.map((each) => each.end_ns - each.start_ns), 1);
  const rows = traces.map((each) =>
    h("tr", {}, [
      h("td.nowrap", {}, moment(each.start_ns / 1e6)),
      h("th.id", {scope: "row"}, h("a", {href: context.link("trace", {id: each.trace_id})}, each.name)),
      h("td.number", {}, h("i.share", {style: {width: `${(90 * (each.end_ns - each.start_ns)) / longest}px`}}), brief((each.end_ns - each.start_ns) / 1e9)),
      h("td", {}, placeOf(each)),
      h("td", {}, each.error ? badge("bad", each.error) : ""),
    ]),
  );
  return [
    warnings.map((text) => h("div.notice", {}, text)),
    h("section.panel", {}, h("div.head", {}, h("h2", {}, "The newest traces")), rows.length
      ? h("div.scroll", {}, h("table", {}, head(["Began", "Begins with", "Took", "Process", "Error"], 2), h("tbody", {}, rows)))
      : empty("No traces are kept", h("span", {}, "Start the nodes with ", h("code", {}, "--trace local"), ", and each request leaves one."))),
  ];
}

function head(names, number) {
  return h("thead", {}, h("tr", {}, names.map((name, place) => h(place === number ? "th.number" : "th", {scope: "col"}, name))));
}

// --- one of them ---------------------------------------------------------------------------------------------------

async function ofTrace(context, id, seq) {
  const found = await context.get(`/ui/trace?${new URLSearchParams(seq ? {id, seq} : {id})}`);
  const lines = linesOf(found);
  const begin = Math.min(...lines.map((line) => line.begin));
  const end = Math.max(...lines.map((line) => line.begin + (line.seconds ?? 0)));
  const rows = lines.map((line) => rowOf(line, {begin, whole: end - begin || 1e-6}, context));
  return [
    found.warnings.map((text) => h("div.notice", {}, text)),
    !found.spans.length && h("div.notice", {}, "No spans of this trace are kept: these are only its events."),
    h(
      "section.panel.trace",
      {"aria-label": "Trace"},
      h("div.head", {}, h("h2", {}, moment(begin * 1000)), h("span.muted", {}, `${brief(end - begin)}, ${counted(found.spans.length, "span")}, ${counted(found.events.length, "event")}`), h("span.grow"), h("code", {}, found.trace_id)),
      h("div.scroll", {tabindex: "0", role: "region", "aria-label": "What it consists of"}, h("table", {}, head(["What", "Where", "Began", "Took", "When", ""], -1), h("tbody", {}, rows))),
    ),
  ];
}

function rowOf(line, {begin, whole}, context) {
  const share = (seconds) => `${Math.max(0, Math.min(100, (100 * seconds) / whole))}%`;
  const bar = line.seconds === null ? h("i.moment", {style: {left: share(line.begin - begin)}}) : h("i", {class: line.error ? "bad" : "", style: {left: share(line.begin - begin), width: share(line.seconds)}});
  return h("tr", {class: line.trace ? "linked" : ""}, [
    h("th", {scope: "row", style: {"--depth": String(line.depth)}}, nameOf(line)),
    h("td.nowrap.muted", {}, line.process),
    h("td.number.nowrap", {}, brief(line.begin - begin)),
    h("td.number.nowrap", {}, line.seconds === null ? "" : brief(line.seconds)),
    h("td.when", {}, h("div.track", {}, bar)),
    h("td.notes", {}, notesOf(line, context)),
  ]);
}

/** Its name, and what else is known of a span when it is opened. */
function nameOf(line) {
  if (!Object.keys(line.attributes).length) return line.name;
  return h("details", {}, h("summary", {}, line.name), h("pre.json", {}, coloured(line.attributes)));
}

function notesOf(line, context) {
  const events = line.events.flatMap((event) => {
    const {aggregate, fact} = named(event);
    return [
      h("a", {href: context.link("log", {seq: event.seq})}, `${aggregate} ${fact}, event ${event.seq}`),
      canBeExplained(event) && h("a", {href: context.link("why", {seq: event.seq})}, "why"),
    ];
  });
  const other = line.trace && h("a", {href: context.link("trace", {id: line.trace})}, "another trace");
  return [line.error && badge("bad", line.error), line.notes.join(", "), ...events, other].filter(Boolean).flatMap((each, place) => (place ? [" · ", each] : [each]));
}
