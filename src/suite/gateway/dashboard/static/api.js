// Asks the gateway. The key is sent as programs send it, and stays in this tab unless its owner has it remembered.

const NAME = "suite.key";

/** What the gateway has refused, or that it does not answer. */
export class Refusal extends Error {
  /** @param {string} code @param {string} message @param {number} status */
  constructor(code, message, status) {
    super(message);
    this.code = code;
    this.status = status;
  }

  /** Whether another key would help. */
  get isAboutKey() {
    return this.status === 401 || this.code === "key_not_permitted";
  }
}

export const key = {
  get value() {
    return sessionStorage.getItem(NAME) ?? localStorage.getItem(NAME) ?? "";
  },
  /** @param {string} secret @param {boolean} remembered whether it is kept when the tab is closed */
  set(secret, remembered) {
    key.forget();
    (remembered ? localStorage : sessionStorage).setItem(NAME, secret);
  },
  forget() {
    sessionStorage.removeItem(NAME);
    localStorage.removeItem(NAME);
  },
};

/**
 * Has an action look something up, with its fields as the service takes them. Throws a Refusal.
 * @param {string} action such as "explain"
 * @param {Record<string, any>} [fields]
 * @param {AbortSignal} [signal]
 */
export function ask(action, fields = {}, signal) {
  return post(`/ui/ask/${action}`, fields, signal);
}

/** Has an action change something: it needs a key with the right admin. Throws a Refusal.
 * @param {string} action @param {Record<string, any>} [fields] */
export function act(action, fields = {}) {
  return post(`/ui/do/${action}`, fields);
}

/** @param {string} path @param {any} body @param {AbortSignal} [signal] */
async function post(path, body, signal) {
  const answer = await request(path, {method: "POST", body: JSON.stringify(body), signal});
  return answer.json();
}

/** @param {string} path @param {AbortSignal} [signal] */
export async function get(path, signal) {
  return (await request(path, {signal})).json();
}

/** @param {string} path @param {RequestInit} options @returns {Promise<Response>} */
export async function request(path, options) {
  const sent = headers();
  let answer;
  try {
    answer = await fetch(path, {...options, headers: sent, cache: "no-store"});
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Refusal("unreachable", "the gateway cannot be reached", 0);
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => null);
  const about = told?.error ?? {code: "unknown", message: `the gateway answers ${answer.status}`};
  throw new Refusal(about.code, about.message, answer.status);
}

function headers() {
  const all = new Headers({"content-type": "application/json"});
  try {
    if (key.value) all.set("authorization", `Bearer ${key.value}`);
  } catch {
    throw new Refusal("invalid_api_key", "this key has letters that no key has: copy it again", 401);
  }
  return all;
}

/**
 * Reads server-sent events. EventSource could not send the key.
 * @param {Response} answer
 * @param {() => void} [hear] called with whatever comes, signs of life too
 * @returns {AsyncGenerator<{name: string, data: any}>}
 */
export async function* serverEvents(answer, hear = () => {}) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  while (true) {
    const {value, done} = await reader.read();
    if (done) return;
    hear();
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop() ?? "";
    for (const block of blocks) {
      let name = "message";
      let data = "";
      for (const line of block.split("\n")) {
        if (line.startsWith("event: ")) name = line.slice(7);
        else if (line.startsWith("data: ")) data += line.slice(6);
      }
      if (data) yield {name, data: data === "[DONE]" ? null : JSON.parse(data)};
    }
  }
}
