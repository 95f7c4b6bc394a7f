// Every end point by the official `openai` package. Arguments: base URL, key, model, a model that
// takes tools, and one whose queue is full.
const assert = require("node:assert");
const OpenAI = require("openai").default;

const [baseURL, apiKey, model, caller, full] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 120000 });
const messages = [{ role: "user", content: "Hello" }];
const greedy = { temperature: 0, max_tokens: 8 };

async function models() {
  const ids = [];
  for await (const card of client.models.list()) ids.push(card.id);
  assert(ids.includes(model));
  assert.equal((await client.models.retrieve(caller)).id, caller);
}

async function chat() {
  const request = { model, messages, ...greedy, logprobs: true, top_logprobs: 2 };
  const whole = await client.chat.completions.create({ ...request, n: 2, seed: 1 });
  assert.equal(whole.choices.length, 2);
  assert.equal(whole.choices[0].logprobs.content[0].top_logprobs.length, 2);
  const options = { stream: true, stream_options: { include_usage: true } };
  let text = "", usage;
  for await (const chunk of await client.chat.completions.create({ ...request, ...options })) {
    text += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.equal(usage.completion_tokens, 8);
  const stop = text[3];
  const stopped = await client.chat.completions.create({ ...request, stop: [stop] });
  assert.equal(stopped.choices[0].message.content, text.slice(0, text.indexOf(stop)));
  assert.equal(stopped.choices[0].finish_reason, "stop");
}

async function formats() {
  const schema = {
    type: "object",
    properties: { team: { enum: ["billing", "shipping"] } },
    required: ["team"],
    additionalProperties: false,
  };
  const response_format = { type: "json_schema", json_schema: { name: "ticket", schema } };
  const answer = await client.chat.completions.parse({ model, messages, response_format });
  assert(schema.properties.team.enum.includes(answer.choices[0].message.parsed.team));
}

async function tools() {
  const parameters = { type: "object", properties: { day: { enum: [1, 2] } }, required: ["day"] };
  const tools = [{ type: "function", function: { name: "weather", parameters } }];
  const request = { model: caller, messages, tools, tool_choice: "required" };
  const runner = client.chat.completions.stream({ ...request, parallel_tool_calls: false });
  const { choices } = await runner.finalChatCompletion();
  assert.equal(choices[0].finish_reason, "tool_calls");
  const [call] = choices[0].message.tool_calls;
  assert.equal(call.function.name, "weather");
  assert([1, 2].includes(JSON.parse(call.function.arguments).day));
}

async function completions() {
  const request = { model, prompt: ["One", "Two"], ...greedy };
  const whole = await client.completions.create({ ...request, echo: true, logprobs: 1 });
  assert(whole.choices[1].text.startsWith("Two"));
  const texts = ["One", "Two"];
  for await (const chunk of await client.completions.create({ ...request, stream: true }))
    texts[chunk.choices[0].index] += chunk.choices[0].text;
  assert.deepEqual(texts, whole.choices.map((choice) => choice.text));
}

async function responses() {
  const request = { model, input: "Hello", temperature: 0, max_output_tokens: 8 };
  const whole = await client.responses.create(request);
  assert.equal(whole.status, "incomplete");
  const stream = client.responses.stream(request);
  let text = "";
  stream.on("response.output_text.delta", (event) => (text += event.delta));
  assert.equal((await stream.finalResponse()).output_text, whole.output_text);
  assert.equal(text, whole.output_text);
}

async function embeddings() {
  const input = ["One", "Two"];
  const { data, usage } = await client.embeddings.create({ model, input, dimensions: 4 });
  const plain = { model, input, dimensions: 4, encoding_format: "float" };
  const floats = (await client.embeddings.create(plain)).data;
  for (const [i, { embedding }] of data.entries()) {
    assert.equal(embedding.length, 4);
    assert(Math.abs(Math.hypot(...embedding) - 1) < 1e-5);
    assert.deepEqual(Array.from(embedding), floats[i].embedding.map(Math.fround));
  }
  assert.equal(usage.prompt_tokens, usage.total_tokens);
}

async function prompts() {
  const system = { role: "system", content: "You route messages to teams." };
  const body = { model, messages: [system], name: "node" };
  const prompt = await client.post("/prompts", { body });
  const request = { ...greedy, messages };
  const byName = await client.chat.completions.create({ ...request, model: `${model}/node` });
  const byId = await client.chat.completions.create({ ...request, model, prompt_id: prompt.id });
  assert.equal(byName.choices[0].message.content, byId.choices[0].message.content);
  assert.equal(byId.prompt_id, prompt.id);
  assert.equal((await client.delete(`/prompts/${prompt.id}`)).deleted, true);
}

async function errors() {
  const ask = (fields, by = client) => by.chat.completions.create({ model, messages, ...fields });
  const bad = await ask({ temperature: -1 }).catch((error) => error);
  assert(bad instanceof OpenAI.BadRequestError);
  assert.equal(bad.param, "temperature");
  await assert.rejects(ask({ model: "nobody" }), OpenAI.NotFoundError);
  await assert.rejects(ask({ model: full }), OpenAI.RateLimitError);
  const stranger = new OpenAI({ baseURL, apiKey: "wrong", maxRetries: 0 });
  await assert.rejects(ask({}, stranger), OpenAI.AuthenticationError);
}

(async () => {
  const all = { models, chat, formats, tools, completions, responses, embeddings, prompts, errors };
  for (const [name, run] of Object.entries(all)) {
    await run();
    console.log(name);
  }
})();
