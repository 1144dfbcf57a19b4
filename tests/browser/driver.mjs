// Drives Chromium for a test: each line of stdin is a command as JSON, each line of stdout its answer.

import {createRequire} from "node:module";
import {createInterface} from "node:readline";
import {chromium} from "playwright-core";

const SECONDS = 100; // on a machine that does much else
const AXE = createRequire(import.meta.url).resolve("axe-core/axe.min.js");

const browser = await chromium.launch({executablePath: process.argv[2], args: ["--disable-gpu", "--js-flags=--expose-gc"]});
const pages = new Map();

const commands = {
  async open({page: name, url, key, theme, width, height, live, clock}) {
    const context = await browser.newContext({
      colorScheme: theme,
      viewport: {width, height},
      reducedMotion: "reduce",
      locale: "en-GB",
      timezoneId: "UTC",
    });
    const page = await context.newPage();
    const found = {page, context, problems: [], hosts: new Set(), streams: [], waiting: []};
    page.setDefaultTimeout(SECONDS * 1000);
    page.on("console", (message) => message.type() === "error" && !isExpected(message) && found.problems.push(message.text()));
    page.on("pageerror", (error) => found.problems.push(String(error.stack ?? error)));
    page.on("request", (request) => found.hosts.add(new URL(request.url()).host));
    if (key) await context.addInitScript((key) => sessionStorage.setItem("suite.key", key), key);
    if (clock) await page.clock.install();
    if (live) await page.route("**/ui/live", (route) => (found.waiting.push(route), stream(found)));
    pages.set(name, found);
    await page.goto(url);
  },
  /** Has the page get this stream, once it asks for one. */
  async stream({page, body}) {
    of(page).streams.push(body);
    stream(of(page));
  },
  /** Has the page wake as after a sleep of so many seconds. */
  async sleep({page, seconds}) {
    await of(page).page.clock.fastForward(seconds * 1000);
  },
  /** Has so much time pass so many times, and the view look again each time. */
  async refresh({page, seconds, times}) {
    for (let time = 0; time < times; time++) {
      await of(page).page.clock.runFor(seconds * 1000);
      await of(page).page.locator('.view[aria-busy="false"]').waitFor();
    }
  },
  async goto({page, url}) {
    await of(page).page.goto(url);
  },
  async click({page, what}) {
    await of(page).page.locator(what).first().click();
  },
  async fill({page, what, text}) {
    await of(page).page.locator(what).first().fill(text);
  },
  async choose({page, what, value}) {
    await of(page).page.locator(what).first().selectOption(value);
  },
  async press({page, keys}) {
    for (const key of keys) await of(page).page.keyboard.press(key);
  },
  async type({page, text}) {
    await of(page).page.keyboard.type(text);
  },
  async wait({page, what, state}) {
    await of(page).page.locator(what).first().waitFor({state});
  },
  async text({page, what}) {
    return (await of(page).page.locator(what).first().innerText()).trim();
  },
  async count({page, what}) {
    return of(page).page.locator(what).count();
  },
  async evaluate({page, script}) {
    return of(page).page.evaluate(script);
  },
  /** What has the focus: its name as it is read aloud, or its text. */
  async focused({page}) {
    return of(page).page.evaluate(() => {
      const element = document.activeElement;
      return (element?.getAttribute("aria-label") ?? element?.innerText ?? "").trim();
    });
  },
  /** What axe finds that is serious, by all rules or by one of them. */
  async axe({page, rule}) {
    const {page: found} = of(page);
    if (!(await found.evaluate(() => "axe" in globalThis))) await found.evaluate(await axe());
    return found.evaluate(async (rule) => {
      const only = rule ? {runOnly: {type: "rule", values: [rule]}} : {};
      const {violations} = await globalThis.axe.run(document, {resultTypes: ["violations"], ...only});
      return violations
        .filter(({impact}) => impact === "serious" || impact === "critical")
        .map(({id, nodes}) => `${id}: ${nodes.map((node) => `${node.target} ${node.failureSummary}`).join(" | ")}`);
    }, rule);
  },
  async theme({page, theme}) {
    await of(page).page.emulateMedia({colorScheme: theme});
  },
  /** What the page holds, after all garbage is collected. */
  async held({page}) {
    const session = await of(page).context.newCDPSession(of(page).page);
    await session.send("HeapProfiler.enable");
    await session.send("HeapProfiler.collectGarbage");
    await session.send("HeapProfiler.collectGarbage");
    await session.send("Performance.enable");
    const {metrics} = await session.send("Performance.getMetrics");
    await session.detach();
    return Object.fromEntries(metrics.map(({name, value}) => [name, value]));
  },
  async screenshot({page, path}) {
    await of(page).page.screenshot({path, animations: "disabled", caret: "hide"});
  },
  async resize({page, width, height}) {
    await of(page).page.setViewportSize({width, height});
  },
  async state({page}) {
    return {problems: of(page).problems, hosts: [...of(page).hosts]};
  },
  async close({page}) {
    await of(page).context.close();
    pages.delete(page);
  },
};

function stream({streams, waiting}) {
  while (streams.length && waiting.length) {
    waiting.shift().fulfill({contentType: "text/event-stream", body: streams.shift()});
  }
}

function of(name) {
  return pages.get(name);
}

/** Whether Chromium reports an answer of the gateway that is a refusal, which the page shows by itself. */
function isExpected(message) {
  return /Failed to load resource/.test(message.text());
}

let source;
async function axe() {
  const {readFile} = await import("node:fs/promises");
  return (source ??= await readFile(AXE, "utf8"));
}

for await (const line of createInterface({input: process.stdin})) {
  const {command, ...given} = JSON.parse(line);
  let answer;
  try {
    answer = {result: (await commands[command](given)) ?? null};
  } catch (error) {
    answer = {error: String(error.message ?? error)};
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await browser.close();
