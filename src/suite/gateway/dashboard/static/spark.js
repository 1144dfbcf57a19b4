// A small line without axes, beside a figure.

import {s, set} from "./dom.js";

const WIDTH = 96;
const HEIGHT = 22;

/** @param {string} label */
export function sparkline(label) {
  const line = s("polyline", {fill: "none", stroke: "currentColor", "stroke-width": "1.5", "stroke-linejoin": "round"});
  const element = s("svg.spark", {viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: WIDTH, height: HEIGHT, role: "img", "aria-label": label}, line);
  return {
    element,
    /** @param {number[]} values the newest last @param {number} most how many fill the width */
    set(values, most) {
      const top = Math.max(...values, 1);
      const points = values.map((value, place) => {
        const x = WIDTH - ((values.length - 1 - place) * WIDTH) / (most - 1);
        return `${x.toFixed(1)},${(HEIGHT - 1 - (value / top) * (HEIGHT - 3)).toFixed(1)}`;
      });
      set(line, "points", points.join(" "));
    },
  };
}
