import assert from "node:assert/strict";
import { join } from "node:path";
import { lastLine, lastWords } from "./agent_log.ts";

Deno.test("the last line that says something is shown without control characters, and cut short", () => {
  assert.equal(lastLine("one\ntwo\x07 \x1b[1;31mred\x1b[0m\r\n \n\n"), "two  red");
  assert.equal(lastLine(" \n"), "");
  assert.equal(lastLine("x".repeat(1000)).length, 301);
  assert.equal(lastWords("/nowhere"), "");
});

Deno.test("what stands in the place of an agent's log, and is none, is not read, and holds nobody up", async () => {
  const directory = await Deno.makeTempDir();
  try {
    const log = join(directory, "agent.log");
    await Deno.writeTextFile(join(directory, "secret"), "the key");
    await Deno.symlink(join(directory, "secret"), log);
    assert.equal(lastWords(directory), "");
    await Deno.remove(log);
    await new Deno.Command("mkfifo", { args: [log] }).output();
    assert.equal(lastWords(directory), "");
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});
