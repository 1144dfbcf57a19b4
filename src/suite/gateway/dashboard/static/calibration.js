// A calibration curve: how often models were used, by how likely that was said to be. A good forecast is on the diagonal.

import {fill, h, s, set} from "./dom.js";
import {count} from "./format.js";

const SIZE = 320;
const EDGE = 62;
const INNER = SIZE - EDGE - 24;

/** @param {{title: string}} options */
export function calibrationChart({title}) {
  const svg = s("svg.chart.calibration", {viewBox: `0 0 ${SIZE} ${SIZE}`, role: "img", "aria-label": title});
  const legend = h("div.legend");
  const element = h("figure.panel.charted", {}, h("figcaption.head", {}, h("h2", {}, title), h("span.grow"), legend), h("div.plot", {}, svg));
  return {
    element,
    /** @param {{name: string, tone: string, told: any}[]} curves told: a CalibrationInfo of the service */
    set(curves) {
      const known = curves.filter((each) => each.told.count);
      fill(legend, known.map(({name, tone, told}) => h("span", {}, h("i", {class: tone}), `${name} (${count(told.count)})`)));
      fill(
        svg,
        axes(),
        known.length ? null : s("text.nothing", {x: EDGE + INNER / 2, y: SIZE / 2}, "Nothing is settled yet"),
        known.map(({tone, told}) => curve(tone, told)),
      );
      set(svg, "aria-label", `${title}: ${known.map(({name, told}) => `${name}, ${sentence(told)}`).join("; ") || "nothing is settled yet"}`);
    },
  };
}

const x = (share) => EDGE + share * INNER;
const y = (share) => 12 + (1 - share) * INNER;

function axes() {
  const lines = [0, 0.25, 0.5, 0.75, 1].map((share) => [
    s("line.grid", {x1: x(0), x2: x(1), y1: y(share), y2: y(share)}),
    s("text.value", {x: x(0) - 7, y: y(share) + 4}, `${share * 100} %`),
    s("text.tick", {x: x(share), y: y(0) + 18}, `${share * 100} %`),
  ]);
  return [
    lines,
    s("line.reference", {x1: x(0), y1: y(0), x2: x(1), y2: y(1)}),
    s("text.tick", {x: x(0.5), y: SIZE - 4}, "expected"),
    s("text.tick", {x: 11, y: y(0.5), transform: `rotate(-90 11 ${y(0.5)})`}, "came true"),
  ];
}

function curve(tone, told) {
  const most = Math.max(...told.curve.map((each) => each.count));
  const points = told.curve.map((each) => `${x(each.predicted).toFixed(1)},${y(each.observed).toFixed(1)}`);
  return [
    s("polyline.stroke", {class: tone, points: points.join(" ")}),
    told.curve.map((each) =>
      s("circle.fill", {class: tone, cx: x(each.predicted), cy: y(each.observed), r: 3 + 5 * Math.sqrt(each.count / most)}, s("title", {}, `${count(each.count)} with ${percent(each.predicted)}: ${percent(each.observed)} came true`)),
    ),
  ];
}

/** How good a forecast was, in words. @param {any} told */
export function sentence(told) {
  if (!told.count) return "nothing is settled yet";
  const is = told.brier < told.brier_of_base_rate ? "better" : "no better";
  return `mean squared error ${told.brier.toFixed(3)}: ${is} than always saying the share that came true (${told.brier_of_base_rate.toFixed(3)})`;
}

const percent = (share) => `${(100 * share).toFixed(0)} %`;
