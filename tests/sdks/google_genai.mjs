// @google/genai for JavaScript.
import { GoogleGenAI } from "@google/genai";
import { FILE, PIXEL, QUESTION, SCHEMA, drive } from "./driver.mjs";

const model = "echo-1";
const client = ({ base, key, headers }) =>
  new GoogleGenAI({ apiKey: key ?? undefined, httpOptions: { baseUrl: base, headers } });
const ask = (order, more) =>
  client(order).models.generateContent({ model, contents: QUESTION, ...more });

await drive({
  chat: async (order) => (await ask(order)).text,

  async stream(order) {
    const said = [];
    const chunks = await client(order).models.generateContentStream({ model, contents: QUESTION });
    for await (const chunk of chunks) if (chunk.text) said.push(chunk.text);
    return said.join("|");
  },

  async tool(order) {
    const functionDeclarations = [{ name: "weather", parametersJsonSchema: SCHEMA }];
    const reply = await ask(order, { config: { tools: [{ functionDeclarations }] } });
    const { name, args } = reply.functionCalls[0];
    return `${name} ${JSON.stringify(args)}`;
  },

  async image(order) {
    const picture = { inlineData: { mimeType: "image/png", data: PIXEL } };
    return (await ask(order, { contents: [QUESTION, picture] })).text;
  },

  async models(order) {
    const names = [];
    for await (const one of await client(order).models.list()) names.push(one.name);
    return names.join(" ").replaceAll("models/", "");
  },

  async file(order) {
    const config = { mimeType: "text/plain", displayName: "a.txt" };
    const uploaded = await client(order).files.upload({ file: new Blob([FILE]), config });
    return uploaded.displayName;
  },
});
