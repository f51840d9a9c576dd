// openai for JavaScript.
import OpenAI, { toFile } from "openai";
import { FILE, PIXEL, QUESTION, SCHEMA, drive } from "./driver.mjs";

const client = ({ base, key, headers }) =>
  new OpenAI({ baseURL: `${base}/v1`, apiKey: key ?? undefined, defaultHeaders: headers });
const ask = (order, more) =>
  client(order).chat.completions.create({
    model: "echo-1",
    messages: [{ role: "user", content: QUESTION }],
    ...more,
  });

await drive({
  chat: async (order) => (await ask(order)).choices[0].message.content,

  async stream(order) {
    const said = [];
    for await (const chunk of await ask(order, { stream: true })) {
      if (chunk.choices[0].delta.content) said.push(chunk.choices[0].delta.content);
    }
    return said.join("|");
  },

  async tool(order) {
    const tools = [{ type: "function", function: { name: "weather", parameters: SCHEMA } }];
    const { name, arguments: given } = (await ask(order, { tools })).choices[0].message
      .tool_calls[0].function;
    return `${name} ${given}`;
  },

  async image(order) {
    const url = `data:image/png;base64,${PIXEL}`;
    const content = [
      { type: "text", text: QUESTION },
      { type: "image_url", image_url: { url } },
    ];
    const messages = [{ role: "user", content }];
    return (await ask(order, { messages })).choices[0].message.content;
  },

  async models(order) {
    const names = [];
    for await (const model of client(order).models.list()) names.push(model.id);
    return names.join(" ");
  },

  async file(order) {
    const file = await toFile(Buffer.from(FILE), "a.txt");
    return (await client(order).files.create({ file, purpose: "user_data" })).filename;
  },
});
