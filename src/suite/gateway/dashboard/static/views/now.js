// What the fleet does at this moment.

import {fill, h} from "../dom.js";

export const view = {
  name: "now",
  title: "Now",
  mount(root, context) {
    const list = h("ul");
    fill(root, h("h1", {}, "Now"), list);
    const show = () =>
      fill(list, (context.live.fleet?.nodes ?? []).map((node) => h("li", {}, `${node.node}: ${node.status}`)));
    context.on("fleet", show);
    show();
    return () => {};
  },
};
