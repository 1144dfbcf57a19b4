// The frame around the views: navigation, key, connection.

import {act, ask, get, key} from "./api.js";
import {eachFrame, fill, h, set} from "./dom.js";
import {moment} from "./format.js";
import {Live} from "./live.js";
import {SMALL} from "./virtual.js";
import {views} from "./views.js";

const live = new Live();
const nav = document.querySelector("nav");
const main = document.querySelector("main");
const tools = document.querySelector("header .tools");
/** @type {HTMLElement} */
const banner = document.querySelector("#banner");
const status = document.querySelector("header .status");

/** @type {{name: string, end: () => void} | null} */
let shown = null;

// --- addresses -----------------------------------------------------------------------------------------------------

function address() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  return {name: path || views[0].name, params: Object.fromEntries(new URLSearchParams(query ?? ""))};
}

function link(name, params = {}) {
  const given = Object.entries(params).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const query = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  return `#/${name}${query ? `?${query}` : ""}`;
}

function route() {
  const {name, params} = address();
  const view = views.find((each) => each.name === name) ?? unknown(name);
  shown?.end();
  window.scrollTo({top: 0});
  if (!nav.contains(document.activeElement)) main.focus({preventScroll: true}); // what had it is gone
  document.title = `${view.title} · Model Manager Suite`;
  for (const each of nav.querySelectorAll("a")) {
    set(each, "aria-current", each.dataset.view === view.name ? "page" : null);
    if (each.dataset.view === view.name) each.scrollIntoView({block: "nearest", inline: "nearest"});
  }
  shown = {name: view.name, end: mounted(view, params)};
}

/** What is shown for an address that no view has. */
function unknown(name) {
  return {
    name,
    title: "No such view",
    mount(root) {
      const all = views.map((each) => h("a", {href: link(each.name)}, each.title));
      fill(root, h("h1", {}, "No such view"), h("div.notice.bad", {role: "alert"}, `There is no view ${name.slice(0, 80)}. There are these:`), h("p.links", {}, all));
      return () => {};
    },
  };
}

/** What tells how things are, so that only the last counts. */
const STATES_ONLY = new Set(["fleet", "models"]);

function mounted(view, params) {
  const ended = new AbortController();
  const root = h("div.view", {dataset: {view: view.name}});
  const context = {
    live,
    params,
    link,
    signal: ended.signal,
    ask: (action, fields) => ask(action, fields, ended.signal),
    act,
    get: (path) => get(path, ended.signal),
    go: (name, params) => (location.hash = link(name, params)),
    replace: (params) => history.replaceState(null, "", link(view.name, params)),
    on: (topic, listener) => {
      const hear = STATES_ONLY.has(topic) ? eachFrame(listener, ended.signal) : listener;
      ended.signal.addEventListener("abort", live.on(topic, hear));
    },
    say,
  };
  fill(main, root);
  const end = view.mount(root, context) ?? (() => {});
  return () => {
    ended.abort();
    end();
  };
}

// --- what is said beside the view ----------------------------------------------------------------------------------

const messages = h("div.messages", {"aria-live": "polite"});

function say(text, kind = "") {
  const message = h("div.message", {class: kind, role: kind === "error" ? "alert" : "status"}, text);
  messages.append(message);
  setTimeout(() => message.remove(), kind === "error" ? 10_000 : 4_000);
}

const TROUBLES = {service: "The service does not answer", log: "The log cannot be read"};
const STATES = {
  connecting: "connecting",
  live: "live",
  lost: "connection lost, trying again",
  refused: "no key",
  resting: "resting",
};

function showConnection() {
  set(status, "data-state", live.connection);
  fill(status, h("span.dot", {"aria-hidden": "true"}), h("span", {}, STATES[live.connection]));
  if (live.connection === "refused") return askForKey(live.refusal);
  showBanner();
}

function showBanner() {
  const trouble =
    live.connection === "lost"
      ? "The gateway does not answer. What you see is what was last known; it is tried again until it does."
      : [...live.troubles].map(([about, {code, message}]) => `${TROUBLES[about]}: ${message} (${code})`).join("; ");
  banner.hidden = !trouble;
  fill(banner, trouble || "");
}

// --- the key -------------------------------------------------------------------------------------------------------

function askForKey(refusal) {
  shown?.end();
  shown = null;
  const secret = h("input", {type: "password", id: "secret", autocomplete: "off", spellcheck: "false", required: true});
  const remember = h("input", {type: "checkbox", id: "remember"});
  const form = h(
    "form.entry",
    {
      onsubmit: (event) => {
        event.preventDefault();
        key.set(secret.value.trim(), remember.checked);
        enter();
      },
    },
    h("h1", {}, "This dashboard needs a key"),
    h("p.refusal", {role: "alert", class: key.value ? "bad" : ""}, key.value ? refusal.message : "The gateway lets in only who has a key."),
    h("label", {for: "secret"}, "Key"),
    secret,
    h("label.check", {for: "remember"}, remember, "Remember it in this browser"),
    h("button.primary", {type: "submit"}, "Open the dashboard"),
    h("p.hint", {}, "A key that may only look is made with ", h("code", {}, "suite keys create NAME --endpoint view")),
  );
  fill(main, form);
  banner.hidden = true;
  secret.focus();
}

function enter() {
  fill(main);
  live.run();
}

// --- small screens -------------------------------------------------------------------------------------------------

// Rows of long lists have their height from the view, which is made again when that changes.
matchMedia(SMALL).addEventListener("change", () => shown && route());

// --- light and dark, and the key -----------------------------------------------------------------------------------

const THEME = "suite.theme";
const THEMES = ["", "light", "dark"];
const theme = h("button.quiet", {type: "button", onclick: nextTheme});
const leave = h("button.quiet", {type: "button", hidden: true, onclick: forgetKey}, "Forget the key");

function nextTheme() {
  const now = localStorage.getItem(THEME) ?? "";
  localStorage.setItem(THEME, THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
  showTheme();
}

function showTheme() {
  const now = localStorage.getItem(THEME) ?? "";
  set(document.documentElement, "data-theme", now || null);
  fill(theme, `Colours: ${now || "auto"}`);
}

function showKey({key: name, expires_at: end}) {
  leave.hidden = !name;
  set(leave, "title", name && `${name}${end ? `, which expires on ${moment(end)}` : ""}`);
}

function forgetKey() {
  key.forget();
  live.run();
}

// --- begin ---------------------------------------------------------------------------------------------------------

fill(
  nav,
  views.map((view) => h("a", {href: link(view.name), dataset: {view: view.name}}, view.title)),
);
tools.append(theme, leave);
document.body.append(messages);
showTheme();
// A browser has few connections to one gateway for all its tabs: one that nobody looks at gives its own back.
const REST = 60_000;
let resting = 0;
document.addEventListener("visibilitychange", () => {
  clearTimeout(resting);
  if (document.hidden) resting = setTimeout(() => live.connection === "live" && live.rest(), REST);
  else if (live.connection === "resting") live.run();
});

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // its address would be that of a view
  main.focus();
});

live.on("connection", showConnection);
live.on("trouble", showBanner);
live.on("fleet", showBanner);
live.on("events", showBanner);
live.on("hello", showKey);
live.on("hello", () => shown ?? route());
window.addEventListener("hashchange", () => live.hello && live.connection !== "refused" && route());
live.run();
