// A chat with any model, with what each answer cost.

import {request, serverEvents} from "../api.js";
import {fill, h, put, set} from "../dom.js";
import {count, duration} from "../format.js";
import {empty, failed, meant} from "../parts.js";

export const view = {
  name: "try",
  title: "Try",
  /** @param {HTMLElement} root @param {any} context */
  mount(root, context) {
    const chat = new Chat(context);
    fill(root, chat.element);
    context.on("models", () => chat.listModels());
    context.on("fleet", () => chat.showWaiting());
    return () => chat.stop();
  },
};

class Chat {
  constructor(context) {
    this.context = context;
    /** @type {{role: string, content: string}[]} */
    this.messages = [];
    /** @type {AbortController | null} */
    this.running = null;
    this.turns = h("div.turns", {role: "log", "aria-label": "Chat", tabindex: "0"});
    this.none = empty("Ask a model something", "It is loaded by the first message if it is not in memory. Nothing of what you write is stored.");
    this.model = h("select", {onchange: () => this.changeModel()});
    this.system = h("textarea", {rows: "3", placeholder: "What the model is to be"});
    this.temperature = h("input", {type: "number", min: "0", max: "5", step: "0.1", placeholder: "the model's"});
    this.most = h("input", {type: "number", min: "1", max: "100000", step: "1", value: "512"});
    this.text = h("textarea", {rows: "2", "aria-label": "Message", placeholder: "Message", onkeydown: (event) => this.typed(event)});
    this.send = h("button.primary", {type: "submit"}, "Send");
    this.end = h("button", {type: "button", hidden: true, onclick: () => this.stop()}, "Stop");
    const form = h("form.compose", {onsubmit: (event) => this.submit(event)}, this.text, this.end, this.send);
    this.wrong = h("div");
    this.element = [
      h("h1.visually-hidden", {}, "Try"),
      this.wrong,
      h("div.try", {}, h("section.panel.chat", {"aria-label": "Chat"}, this.turns, form), this.fields()),
    ];
    fill(this.turns, this.none);
    this.listModels();
    this.chooseMeant();
    this.text.focus({preventScroll: true});
  }

  /** Chooses the model that the address means, and says so if there is none. */
  async chooseMeant() {
    const {params, live} = this.context;
    if (!params.model || live.models.has(params.model)) return;
    try {
      params.model = await meant(this.context, params.model);
      this.listModels();
    } catch (error) {
      if (!this.context.signal.aborted) fill(this.wrong, failed(error));
    }
  }

  fields() {
    return h(
      "section.panel",
      {"aria-label": "Settings"},
      h(
        "div.body.fields",
        {},
        h("label", {}, "Model", this.model),
        h("label", {}, "System message", this.system),
        h("label", {}, "Temperature", this.temperature),
        h("label", {}, "Most tokens", this.most),
        h("button", {type: "button", onclick: () => this.clear()}, "New chat"),
      ),
    );
  }

  changeModel() {
    this.context.params.model = this.model.value;
    this.context.replace({model: this.model.value});
    fill(this.wrong);
  }

  listModels() {
    const chosen = this.context.params.model || this.model.value;
    const all = [...this.context.live.models.values()].filter((model) => model.status !== "invalid" && isForText(model));
    /** @type {(isHeld: boolean) => string[]} */
    const ids = (isHeld) => all.filter((model) => (model.instances?.length ?? 0) > 0 === isHeld).map((model) => model.id).sort();
    /** @type {[string, string[]][]} */
    const groups = [["In memory", ids(true)], ["Not loaded", ids(false)]];
    const key = JSON.stringify([groups, chosen]);
    if (key === this.listed || this.model === document.activeElement) return;
    this.listed = key;
    fill(this.model, groups.filter(([, each]) => each.length).map(([name, each]) => h("optgroup", {label: name}, each.map((id) => h("option", {value: id}, id)))));
    if (all.some((model) => model.id === chosen)) this.model.value = chosen;
    this.send.disabled = !all.length;
  }

  typed(event) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) this.submit(event);
  }

  submit(event) {
    event.preventDefault();
    const text = this.text.value.trim();
    if (!text || this.running || !this.model.value) return;
    this.text.value = "";
    this.none.remove();
    this.messages.push({role: "user", content: text});
    this.turns.append(h("div.turn.user", {}, h("div.who", {}, "You"), h("div.text", {}, text)));
    this.answer();
  }

  async answer() {
    const turn = new Turn(this.model.value);
    this.turn = turn;
    this.turns.append(turn.element);
    this.running = new AbortController();
    this.show();
    try {
      const reply = await this.told(turn);
      this.messages.push({role: "assistant", content: reply.text});
    } catch (error) {
      this.messages.pop();
      turn.fail(this.running.signal.aborted ? {message: "Stopped"} : error);
    } finally {
      this.running = null;
      this.turn = null;
      this.show();
    }
  }

  /** Reads the answer, and returns its last message. */
  async told(turn) {
    const system = this.system.value.trim();
    const body = {
      model: this.model.value,
      messages: [...(system ? [{role: "system", content: system}] : []), ...this.messages],
      ...(this.most.value ? {max_tokens: Number(this.most.value)} : {}),
      ...(this.temperature.value ? {temperature: Number(this.temperature.value)} : {}),
    };
    const answer = await request("/ui/chat", {method: "POST", body: JSON.stringify(body), signal: this.running.signal});
    for await (const {name, data} of serverEvents(answer)) {
      if (name === "chunk") turn.add(data);
      else if (name === "end") return turn.finish(data, this.context);
      else if (name === "error") throw data;
      this.follow();
    }
    throw {message: "The answer ended early: the gateway has closed the connection."};
  }

  /** Keeps the end in sight for whoever looks at it. */
  follow() {
    const {scrollHeight, scrollTop, clientHeight} = this.turns;
    if (scrollHeight - scrollTop - clientHeight < 120) this.turns.scrollTop = scrollHeight;
  }

  showWaiting() {
    this.turn?.wait(this.context.live.models.get(this.turn.model));
  }

  show() {
    this.end.hidden = !this.running;
    this.send.disabled = Boolean(this.running) || !this.model.value;
    this.turns.scrollTop = this.turns.scrollHeight;
  }

  stop() {
    this.running?.abort();
  }

  clear() {
    this.stop();
    this.messages = [];
    fill(this.turns, this.none);
    this.text.focus();
  }
}

/** One answer. */
class Turn {
  constructor(model) {
    this.model = model;
    this.text = h("div.text");
    this.cost = h("div.cost", {}, "working …");
    this.thought = h("div.text");
    this.thoughts = h("details", {hidden: true}, h("summary", {}, "What it thought"), this.thought);
    this.element = h("div.turn.model", {}, h("div.who", {}, model), this.thoughts, this.text, this.cost);
    this.begun = false;
  }

  add({text, reasoning}) {
    if (reasoning) {
      this.thoughts.hidden = false;
      this.thought.append(reasoning);
    }
    if (text) this.text.append(text);
    if (!this.begun) put(this.cost, "writing …");
    this.begun = true;
  }

  /** Says what the answer waits for. */
  wait(model) {
    if (this.begun || !model) return;
    if (model.status === "loading") put(this.cost, `loading ${model.id}, ${Math.round(100 * (model.instances?.[0]?.load_progress ?? 0))} %`);
    else if (model.waiting) put(this.cost, `waits until there is memory${model.place ? `, place ${model.place}` : ""}`);
    else put(this.cost, "reading …");
  }

  finish(reply, context) {
    const {usage, timings} = reply;
    put(this.text, reply.text);
    const told = [
      ["first token", timings.time_to_first_token_ms === null ? "–" : duration(timings.time_to_first_token_ms / 1000)],
      ["speed", timings.tokens_per_second === null ? "–" : `${timings.tokens_per_second.toFixed(1)} tokens/s`],
      ["answer", `${count(usage.completion_tokens)} tokens`],
      ["prompt", `${count(usage.prompt_tokens)} tokens`],
      ["reused", `${count(usage.reused_tokens)} (${usage.prompt_tokens ? Math.round((100 * usage.reused_tokens) / usage.prompt_tokens) : 0} %)`],
      ["queue", duration(timings.queue_ms / 1000)],
      ["node", reply.node],
      ["ended by", reply.finish_reason],
    ];
    fill(
      this.cost,
      told.map(([name, value]) => h("span", {}, `${name} `, h("b", {}, value))),
      h("a", {href: context.link("log", {seq: reply.seq})}, `event ${reply.seq}`),
      h("a", {href: context.link("trace", {id: reply.generation_id})}, "trace"),
    );
    return reply;
  }

  fail(error) {
    set(this.cost, "class", "cost");
    fill(this.cost, h("span.notice.bad", {role: "alert"}, `${error.message}${error.code ? ` (${error.code})` : ""}`));
  }
}

function isForText(model) {
  return !model.capabilities?.length || model.capabilities.some((each) => !/embed|rerank/.test(each));
}
