// Uses every method of the `ollama` package against a node: node ollama_js.cjs NAME, or --methods.
// In the environment: OLLAMA_URL, the node's base URL; REGISTRY, host:port of a registry. Exit code 0: all held.
"use strict";

const assert = require("node:assert/strict");
const { Ollama } = require("ollama");

const client = new Ollama({ host: process.env.OLLAMA_URL });
const FRANCE = "What is the capital of France?";
const GREEDY = { temperature: 0 };
const asked = (content) => [{ role: "user", content }];
const WEATHER = {
  type: "function",
  function: {
    name: "get_weather",
    description: "Get the current weather for a city",
    parameters: { type: "object", required: ["city"], properties: { city: { type: "string" } } },
  },
};

async function all(stream) {
  const parts = [];
  for await (const part of await stream) parts.push(part);
  return parts;
}

const refused = (status, error) => (thrown) => {
  assert.deepEqual([thrown.name, thrown.status_code, thrown.error], ["ResponseError", status, error]);
  return true;
};

const tests = {
  async generate() {
    const whole = await client.generate({ model: "tiny", prompt: FRANCE, options: GREEDY });
    assert.match(whole.response, /Paris/);
    assert.deepEqual([whole.done, whole.done_reason, whole.model], [true, "stop", "tiny"]);
    assert.ok(whole.context.length > 0 && whole.eval_count > 0 && whole.total_duration > 0);
    const parts = await all(client.generate({ model: "tiny", prompt: FRANCE, options: GREEDY, stream: true }));
    assert.ok(parts.length > 3);
    assert.equal(parts.map((part) => part.response).join(""), whole.response);
    assert.ok(!Number.isNaN(Date.parse(parts[0].created_at)));
    await assert.rejects(client.generate({ model: "nobody", prompt: "x" }), refused(404, "model 'nobody' not found"));
  },

  async chat() {
    const whole = await client.chat({ model: "tiny", messages: asked(FRANCE), options: GREEDY });
    assert.match(whole.message.content, /Paris/);
    const parts = await all(client.chat({ model: "tiny", messages: asked(FRANCE), options: GREEDY, stream: true }));
    assert.equal(parts.map((part) => part.message.content).join(""), whole.message.content);
    assert.deepEqual(parts.map((part) => part.done), [...Array(parts.length - 1).fill(false), true]);
    assert.equal(parts.at(-1).eval_count, whole.eval_count);
    const stream = { model: "nobody", messages: asked("x"), stream: true };
    await assert.rejects(client.chat(stream), refused(404, "model 'nobody' not found"));
  },

  async tools() {
    const rome = { model: "tiny", messages: asked("What is the weather in Rome?"), tools: [WEATHER], options: GREEDY };
    const whole = await client.chat(rome);
    const parts = await all(client.chat({ ...rome, stream: true }));
    for (const calls of [whole.message.tool_calls, parts.flatMap((part) => part.message.tool_calls ?? [])]) {
      assert.deepEqual(calls.map((call) => call.function.name), ["get_weather"]);
      assert.deepEqual(calls[0].function.arguments, { city: "Rome" });
    }
    const result = { role: "tool", tool_name: "get_weather", content: "sunny" };
    const told = await client.chat({ ...rome, messages: [...rome.messages, whole.message, result] });
    assert.match(told.message.content, /sunny/i);
  },

  async format() {
    const properties = { capital: { type: "string", enum: ["Paris"] } };
    const format = { type: "object", properties, required: ["capital"] };
    const answer = await client.chat({ model: "tiny", messages: asked(FRANCE), format, options: GREEDY });
    assert.deepEqual(JSON.parse(answer.message.content), { capital: "Paris" });
  },

  async logprobs() {
    const answer = await client.generate({ model: "tiny", prompt: FRANCE, logprobs: true, top_logprobs: 2 });
    assert.equal(answer.logprobs.map((item) => item.token).join(""), answer.response);
    assert.ok(answer.logprobs.every((item) => item.logprob <= 0 && item.top_logprobs.length === 2));
  },

  async refusals() {
    const think = { model: "tiny", messages: asked("x"), think: true };
    await assert.rejects(client.chat(think), refused(400, '"tiny" does not support thinking'));
    const pixels = Buffer.from("iVBORw0KGgo=", "base64");
    assert.equal(await client.encodeImage(pixels), "iVBORw0KGgo=");
    const seen = client.generate({ model: "tiny", prompt: "x", images: [pixels] });
    await assert.rejects(seen, (thrown) => thrown.status_code === 400);
  },

  async abort() {
    const endless = { model: "chain", prompt: "abc", raw: true, options: { num_predict: 1_000_000, num_ctx: 1024 } };
    for (const abort of [(stream) => stream.abort(), () => client.abort()]) {
      const stream = await client.generate({ ...endless, stream: true });
      const parts = stream[Symbol.asyncIterator]();
      assert.equal((await parts.next()).value.done, false);
      abort(stream);
      await assert.rejects(async () => { while (!(await parts.next()).done); }, { name: "AbortError" });
    }
    const answer = await client.generate({ ...endless, options: { num_predict: 3, temperature: 0 } });
    assert.equal(answer.response, "def");
  },

  async embed() {
    const { embeddings, prompt_eval_count } = await client.embed({ model: "embedder", input: ["one", "two"] });
    assert.deepEqual(embeddings.map((vector) => vector.length), [64, 64]);
    assert.ok(prompt_eval_count > 0);
    const cut = await client.embed({ model: "embedder", input: "one", dimensions: 8, truncate: true });
    assert.equal(cut.embeddings[0].length, 8);
  },

  async embeddings() {
    const { embedding } = await client.embeddings({ model: "embedder", prompt: "one" });
    assert.equal(embedding.length, 64);
  },

  async list() {
    const { models } = await client.list();
    const tiny = models.find((model) => model.name === "tiny:latest");
    assert.match(tiny.digest, /^[0-9a-f]{64}$/);
    assert.ok(tiny.size > 0 && tiny.details.family === "llama" && !Number.isNaN(Date.parse(tiny.modified_at)));
  },

  async ps() {
    await client.generate({ model: "tiny", keep_alive: "10m" });
    const { models } = await client.ps();
    const tiny = models.find((model) => model.name === "tiny:latest");
    assert.ok(tiny.size > 0 && Date.parse(tiny.expires_at) > Date.now());
  },

  async show() {
    const shown = await client.show({ model: "tiny" });
    assert.ok(shown.capabilities.includes("tools") && shown.template && shown.modelfile.includes("FROM "));
    assert.equal(shown.model_info["general.architecture"], "llama");
    await assert.rejects(client.show({ model: "nobody" }), refused(404, "model 'nobody:latest' not found"));
  },

  async create_copy_delete() {
    const steps = await all(client.create({ model: "js-made", from: "tiny", system: "Be brief.", stream: true }));
    assert.equal(steps.at(-1).status, "success");
    assert.deepEqual(await client.create({ model: "js-made", from: "tiny" }), { status: "success" });
    assert.deepEqual(await client.copy({ source: "js-made", destination: "me/js-copy:v1" }), { status: "success" });
    assert.ok((await client.list()).models.some((model) => model.name === "me/js-copy:v1"));
    for (const model of ["js-made", "me/js-copy:v1"]) {
      assert.deepEqual(await client.delete({ model }), { status: "success" });
    }
    await assert.rejects(client.delete({ model: "js-made" }), refused(404, "model 'js-made' not found"));
  },

  async push_pull() {
    const model = `${process.env.REGISTRY}/me/js:v1`;
    await client.copy({ source: "tiny", destination: model });
    const pushed = await all(client.push({ model, insecure: true, stream: true }));
    assert.deepEqual([pushed[0].status, pushed.at(-1).status], ["retrieving manifest", "success"]);
    assert.deepEqual(await client.push({ model, insecure: true }), { status: "success" });
    await client.delete({ model });
    const pulled = await all(client.pull({ model, insecure: true, stream: true }));
    assert.deepEqual([pulled[0].status, pulled.at(-1).status], ["pulling manifest", "success"]);
    assert.ok(pulled.some((step) => step.digest?.startsWith("sha256:") && step.total === step.completed));
    assert.deepEqual(await client.pull({ model, insecure: true }), { status: "success" });
    await client.delete({ model });
    await assert.rejects(all(client.pull({ model: `${process.env.REGISTRY}/me/none`, insecure: true, stream: true })), {
      message: "pull model manifest: file does not exist",
    });
  },

  async version() {
    const { version } = await client.version();
    const [major, minor, patch] = version.split(".").map(Number);
    assert.ok(major * 1e6 + minor * 1e3 + patch >= 6004, version);
  },
};

const [name] = process.argv.slice(2);
if (name === "--methods") {
  console.log([Ollama, Object.getPrototypeOf(Ollama)].flatMap((kind) => Object.getOwnPropertyNames(kind.prototype)).join("\n"));
} else {
  tests[name]();
}
