import assert from "node:assert/strict";
import { lastLine, lastWords } from "./agent_log.ts";

Deno.test("the last line that says something is shown without control characters, and cut short", () => {
  assert.equal(lastLine("one\ntwo\x07 \x1b[1;31mred\x1b[0m\r\n \n\n"), "two  red");
  assert.equal(lastLine(" \n"), "");
  assert.equal(lastLine("x".repeat(1000)).length, 301);
  assert.equal(lastWords("/nowhere"), "");
});
