// What happens, over one connection, which is made again when it is lost.

import {Refusal, request, serverEvents} from "./api.js";

const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 15_000;
export const RATES = 120; // looks: two minutes
const SILENCE = 25_000; // a sign of life comes every 10 s

/**
 * @typedef {"connecting" | "live" | "lost" | "refused" | "resting"} Connection
 * @typedef {"connection" | "hello" | "fleet" | "models" | "aliases" | "events" | "trouble"} Topic
 */

/** What the page knows: `live.on("fleet", (fleet) => ...)` is called with each change; it returns what ends that. */
export class Live {
  constructor() {
    /** @type {Connection} */
    this.connection = "connecting";
    /** @type {Refusal | null} */
    this.refusal = null;
    /** @type {any} */
    this.hello = null;
    /** What the nodes do. @type {any} */
    this.fleet = null;
    /** All models by id. @type {Map<string, any>} */
    this.models = new Map();
    /** What serves under each alias. @type {any[]} */
    this.aliases = [];
    /** Whether `models` has all of them. */
    this.areAllKnown = false;
    /** What does not answer, by what it is about: "service" or "log". @type {Map<string, {code: string, message: string}>} */
    this.troubles = new Map();
    /** Tokens a second by node; "" is the sum. @type {Map<string, number>} */
    this.rates = new Map();
    /** Their sum at the last looks, the newest last. @type {number[]} */
    this.lastRates = [];
    /** Nodes that this page has seen and that are gone. @type {Map<string, {row: any, since: number}>} */
    this.lost = new Map();
    /** @type {Map<Topic, Set<Function>>} */
    this.listeners = new Map();
    /** @type {AbortController | null} */
    this.open = null;
    /** Before the next connection, in milliseconds. */
    this.pause = FIRST_PAUSE;
  }

  /** @param {Topic} topic @param {(told: any) => void} listener @returns {() => void} */
  on(topic, listener) {
    const all = this.listeners.get(topic) ?? new Set();
    this.listeners.set(topic, all.add(listener));
    return () => all.delete(listener);
  }

  /** What this key may do. @param {string} right */
  may(right) {
    return this.hello?.may.includes(right) ?? false;
  }

  /** Connects, and again whenever the connection is lost, until the key is refused. */
  async run() {
    this.open?.abort();
    const open = (this.open = new AbortController());
    this.pause = FIRST_PAUSE;
    while (!open.signal.aborted) {
      try {
        await this.follow(open.signal);
      } catch (error) {
        if (open.signal.aborted) return;
        if (error instanceof Refusal && error.isAboutKey) {
          this.refusal = error;
          this.become("refused");
          return;
        }
      }
      if (open.signal.aborted) return;
      this.become("lost");
      await new Promise((resolve) => setTimeout(resolve, this.pause));
      this.pause = Math.min(2 * this.pause, LONGEST_PAUSE);
    }
  }

  /** Ends the connection, until the next run(). */
  rest() {
    this.open?.abort();
    this.become("resting");
  }

  /** Makes one connection, and reads it until it ends or is silent: after a sleep nothing else tells that it is dead.
   * @param {AbortSignal} ended */
  async follow(ended) {
    const silent = new AbortController();
    let timer = 0;
    const hear = () => {
      clearTimeout(timer);
      timer = setTimeout(() => silent.abort(), SILENCE);
    };
    try {
      hear();
      this.become("connecting");
      const answer = await request("/ui/live", {signal: AbortSignal.any([ended, silent.signal])});
      this.become("live");
      this.pause = FIRST_PAUSE;
      for await (const {name, data} of serverEvents(answer, hear)) {
        if (ended.aborted) return;
        if (name === "refused") throw new Refusal(data.code, data.message, 401);
        this.take(/** @type {Topic} */ (name), data);
      }
    } finally {
      clearTimeout(timer);
    }
  }

  /** @param {Topic} name @param {any} data */
  take(name, data) {
    if (name === "hello") {
      this.hello = data;
      this.models.clear();
      this.aliases = [];
      this.areAllKnown = false;
      this.troubles.clear();
    } else if (name === "fleet") this.takeFleet(data);
    else if (name === "models") this.takeModels(data);
    else if (name === "aliases") this.aliases = data.aliases;
    else if (name === "events") this.troubles.delete("log");
    else if (name === "trouble") this.troubles.set(data.about, data);
    this.tell(name, data);
  }

  takeFleet(fleet) {
    this.troubles.delete("service");
    this.rates = rates(this.fleet, fleet, this.rates);
    this.lastRates = [...this.lastRates.slice(1 - RATES), this.rates.get("")];
    const there = new Set(fleet.nodes.map((node) => node.node));
    for (const row of this.fleet?.nodes ?? []) {
      if (!there.has(row.node)) this.lost.set(row.node, {row, since: Date.now()});
    }
    for (const name of there) this.lost.delete(name);
    this.fleet = fleet;
  }

  takeModels({rows, removed, are_all_known}) {
    for (const row of rows) this.models.set(row.id, row);
    for (const id of removed) this.models.delete(id);
    this.areAllKnown = are_all_known;
  }

  /** @param {Connection} connection */
  become(connection) {
    this.connection = connection;
    this.tell("connection", connection);
  }

  tell(topic, told) {
    for (const listener of [...(this.listeners.get(topic) ?? [])]) listener(told);
  }
}

const SMOOTH = 0.5;

/** Tokens a second since the last look, a little smoothed. */
function rates(before, now, had) {
  const found = new Map();
  const seconds = before ? (new Date(now.at).getTime() - new Date(before.at).getTime()) / 1000 : 0;
  let sum = 0;
  for (const node of now.nodes) {
    const last = before?.nodes.find((each) => each.node === node.node);
    const tokens = last ? Math.max(0, node.completion_tokens - last.completion_tokens) : 0;
    const rate = seconds > 0 ? tokens / seconds : 0;
    const smooth = SMOOTH * rate + (1 - SMOOTH) * (had.get(node.node) ?? rate);
    found.set(node.node, smooth < 0.05 ? 0 : smooth);
    sum += found.get(node.node);
  }
  return found.set("", sum);
}
