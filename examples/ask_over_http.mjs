// Ask models over HTTP with libraries that know nothing of the suite: OpenAI's, and Vercel's AI SDK.
//
//   npm install --prefix examples
//   node examples/ask_over_http.mjs URL MODEL EMBEDDING_MODEL
//
// URL is the one of `suite serve --http 127.0.0.1:8080` or `suite gateway`. One line of JSON comes for each question.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateText, Output, streamText, tool } from "ai";
import OpenAI from "openai";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const [url, model, embeddingModel] = process.argv.slice(2);
if (embeddingModel === undefined) {
  console.error("usage: ask_over_http.mjs URL MODEL EMBEDDING_MODEL");
  process.exit(2);
}
const question = "What is the weather in Paris?";
const City = z.object({ name: z.enum(["Paris", "Rome"]), isCapital: z.boolean() });
const Where = z.object({ city: z.enum(["Paris", "Rome"]) });

await withOpenAI(new OpenAI({ baseURL: `${url}/v1`, apiKey: "none" }));
await withAiSdk(
  createOpenAICompatible({ name: "suite", baseURL: `${url}/v1`, includeUsage: true, supportsStructuredOutputs: true }),
);

async function withOpenAI(client) {
  const chat = { model, messages: [{ role: "user", content: question }] };
  const { choices } = await client.chat.completions.create({ ...chat, max_tokens: 6 });
  tell("openai text", choices[0].message.content);

  const stream = client.chat.completions.stream({ ...chat, max_tokens: 6 });
  let pieces = "";
  for await (const chunk of stream) pieces += chunk.choices[0]?.delta?.content ?? "";
  tell("openai stream", { pieces, whole: await stream.finalContent() });

  const tools = [zodFunction({ name: "weather", parameters: Where })];
  const calling = await client.chat.completions.parse({ ...chat, tools, tool_choice: "required", max_tokens: 60 });
  tell("openai tool", calling.choices[0].message.tool_calls[0].function.parsed_arguments);

  const response_format = zodResponseFormat(City, "city");
  const parsed = await client.chat.completions.parse({ ...chat, response_format, max_tokens: 60 });
  tell("openai object", parsed.choices[0].message.parsed);

  const { data } = await client.embeddings.create({ model: embeddingModel, input: ["one", "two"] });
  tell("openai vectors", data.map((each) => each.embedding));

  const cut = await client.chat.completions.create({ ...chat, stream: true });
  for await (const _ of cut) break; // leaving the loop closes the connection, which ends the generation
  tell("openai cancel", cut.controller.signal.aborted);

  const unknown = client.chat.completions.create({ ...chat, model: `${model}x` });
  tell("openai error", await unknown.catch(({ status, code, message }) => ({ status, code, message })));
}

async function withAiSdk(provider) {
  const asked = { model: provider(model), prompt: question, maxRetries: 0 };
  const { text } = await generateText({ ...asked, maxOutputTokens: 6 });
  tell("ai text", text);

  const streamed = streamText({ ...asked, maxOutputTokens: 6 });
  let pieces = "";
  for await (const piece of streamed.textStream) pieces += piece;
  tell("ai stream", { pieces, tokens: (await streamed.usage).outputTokens });

  const tools = { weather: tool({ description: "Tells the weather.", inputSchema: Where }) };
  const { toolCalls } = await generateText({ ...asked, tools, toolChoice: "required", maxOutputTokens: 60 });
  tell("ai tool", toolCalls[0].input);

  const { output } = await generateText({ ...asked, output: Output.object({ schema: City }), maxOutputTokens: 60 });
  tell("ai object", output);

  const { embeddings } = await embedMany({ model: provider.embeddingModel(embeddingModel), values: ["one", "two"] });
  tell("ai vectors", embeddings);

  const unknown = generateText({ ...asked, model: provider(`${model}x`) });
  tell("ai error", await unknown.catch(({ statusCode, message }) => ({ status: statusCode, message })));
}

function tell(what, found) {
  console.log(JSON.stringify({ [what]: found }));
}
