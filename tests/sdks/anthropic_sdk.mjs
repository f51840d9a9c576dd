// @anthropic-ai/sdk for JavaScript.
import Anthropic, { toFile } from "@anthropic-ai/sdk";
import { FILE, PIXEL, QUESTION, SCHEMA, drive } from "./driver.mjs";

const client = ({ base, key, headers }) =>
  new Anthropic({ baseURL: base, apiKey: key ?? undefined, defaultHeaders: headers });
const question = {
  model: "echo-1",
  max_tokens: 99,
  messages: [{ role: "user", content: QUESTION }],
};

await drive({
  chat: async (order) => (await client(order).messages.create(question)).content[0].text,

  async stream(order) {
    const said = [];
    for await (const event of client(order).messages.stream(question)) {
      if (event.type === "content_block_delta") said.push(event.delta.text);
    }
    return said.join("|");
  },

  async tool(order) {
    const tools = [{ name: "weather", input_schema: SCHEMA }];
    const block = (await client(order).messages.create({ ...question, tools })).content[0];
    return `${block.name} ${JSON.stringify(block.input)}`;
  },

  async image(order) {
    const source = { type: "base64", media_type: "image/png", data: PIXEL };
    const content = [
      { type: "text", text: QUESTION },
      { type: "image", source },
    ];
    const messages = [{ role: "user", content }];
    return (await client(order).messages.create({ ...question, messages })).content[0].text;
  },

  async models(order) {
    const names = [];
    for await (const model of client(order).models.list()) names.push(model.id);
    return names.join(" ");
  },

  async file(order) {
    const file = await toFile(Buffer.from(FILE), "a.txt", { type: "text/plain" });
    return (await client(order).beta.files.upload({ file })).filename;
  },
});
