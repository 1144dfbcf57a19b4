// What serves under each alias, and what is being promoted to it.

import {fill, h, keep, set} from "../dom.js";
import {badge} from "../parts.js";
import {cell, header} from "./parts.js";

/** A version as people write it; of a model without one, whichever it is at. */
const named = ({model_id, version}) => (version ? `${model_id}@${version}` : model_id);
const percent = (share) => `${Number((100 * share).toPrecision(3))} %`;
const VERDICTS = {met: "met", open: "not yet known", missed: "missed"};

/** @param {any} context */
export function aliases(context) {
  const {live} = context;
  const rows = h("div", {role: "rowgroup"});
  const element = h(
    "section.panel.aliases",
    {"aria-label": "Aliases", hidden: true},
    h("div.head", {}, h("h2", {}, "Aliases")),
    h("div", {role: "table", "aria-label": "Aliases"}, header(["Alias", "Serves", "Is being promoted", ""]), rows),
  );
  const show = () => {
    element.hidden = !live.aliases.length;
    keep(rows, live.aliases, (each) => each.alias, () => aliasRow(context));
  };
  return {element, show, showAliases: show};
}

function aliasRow({link}) {
  const name = h("b.cut");
  const [serves, promotion] = [h("span.cut"), h("span.promotion")];
  const why = h("a.button.small", {}, "Why");
  const element = h("div.row", {role: "row"}, cell(name), cell(serves), cell(promotion), h("div.actions", {role: "cell"}, why));
  let shown = "";
  element.update = (each) => {
    const told = JSON.stringify(each);
    if (told === shown) return;
    shown = told;
    fill(name, each.alias);
    fill(serves, modelLink(link, each), each.promotion?.state === "canary" && h("span.muted", {}, ` ${percent(1 - each.promotion.canary_share)} of the requests`));
    fill(promotion, each.promotion ? promoted(link, each) : h("span.muted", {}, each.may_go_back ? "promoted; it can be taken back" : "–"));
    set(why, "href", link("why", {seq: each.seq}));
    set(why, "aria-label", `Why ${each.alias} stands for ${named(each)}`);
  };
  return element;
}

function modelLink(link, version) {
  return h("a", {href: link("why", {model: version.model_id})}, named(version));
}

function promoted(link, {alias, promotion}) {
  const {findings, state, canary_share: share, waits_for: waits} = promotion;
  const met = findings.filter((each) => each.verdict === "met").length;
  const gates = findings.map((each) => `${each.gate} ${VERDICTS[each.verdict] ?? each.verdict}`).join(", ");
  return [
    modelLink(link, promotion),
    " ",
    state === "canary" ? badge("busy", `canary, ${percent(share)} of the requests`) : badge("warn", "not serving yet"),
    findings.length > 0 && h("span.muted", {title: gates}, ` ${met} of ${findings.length} gates met`),
    waits && h("span.muted", {}, ` waits: ${waits}`),
    " ",
    h("a", {href: link("log", {filter: `alias.${alias}`})}, "its steps"),
  ];
}
