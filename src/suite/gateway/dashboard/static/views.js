// The views, in the order of the navigation.
//
// A view is a module that exports
//
//     export const view = {
//       name: "now",                 // its address: #/now
//       title: "Now",                // its name in the navigation and in the title of the window
//       mount(root, context) { ...; return () => { ... } },   // fills root; what it returns ends it
//     };
//
// `context` is what app.js makes for it:
//
//     context.live       what the page knows (live.js): fleet, models, aliases, rates; context.on(topic, listener) hears
//                        of changes until the view is left: of "fleet" and "models" of the last, once a picture
//     context.ask(action, fields)  looks something up: a promise of the reply, as the service has it
//     context.act(action, fields)  changes something, if context.live.may("admin")
//     context.params     the parameters of the address: #/why?model=x  ->  {model: "x"}
//     context.go(name, params)     goes to a view;  context.link(name, params) is its address
//     context.replace(params)      changes the parameters of the address, without a new mount
//     context.signal     an AbortSignal that ends with the view
//     context.say(text, kind)      a short message; kind: "" or "error"
//
// dom.js makes elements (h, s for SVG, fill, keep, put), format.js writes values, virtual.js lists what is long.

import {view as bets} from "./views/bets.js";
import {view as log} from "./views/log.js";
import {view as now} from "./views/now.js";
import {view as quality} from "./views/quality.js";
import {view as time} from "./views/time.js";
import {view as trace} from "./views/trace.js";
import {view as tryIt} from "./views/try.js";
import {view as why} from "./views/why.js";

export const views = [now, time, why, bets, quality, log, trace, tryIt];
