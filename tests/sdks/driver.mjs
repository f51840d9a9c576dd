// The counterpart of driver.py.
import { createInterface } from "node:readline";

export const QUESTION = "one two three";
export const FILE = "what the file holds";
export const PIXEL =
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==";
export const SCHEMA = { type: "object", properties: { city: { type: "string" } } };

export async function drive(calls) {
  for await (const line of createInterface({ input: process.stdin })) {
    const order = JSON.parse(line);
    let answer;
    try {
      answer = { said: await calls[order.do](order) };
    } catch (error) {
      answer = { error: error.constructor.name, message: String(error.message) };
    }
    console.log(JSON.stringify(answer));
  }
}
