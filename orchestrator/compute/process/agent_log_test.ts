import assert from "node:assert/strict";
import { closeSync, openSync } from "node:fs";
import { lastLine, lastWords } from "./agent_log.ts";
import { tempDir } from "../../../tests/support/temp_dir.ts";

Deno.test("the last line that says something is shown without control characters, and cut short", () => {
  assert.equal(lastLine("one\ntwo\x07 \x1b[1;31mred\x1b[0m\r\n \n\n"), "two  red");
  assert.equal(lastLine(" \n"), "");
  assert.equal(lastLine("x".repeat(1000)).length, 301);
});

Deno.test("what is put in the place of an agent's log is not read: its last words are those of the open file", async () => {
  await using directory = await tempDir();
  const file = directory.join("agent.log");
  const log = openSync(file, "ax+", 0o600);
  assert.equal(lastWords(log), "");
  await Deno.writeTextFile(file, "x".repeat(20_000) + "\nthe first words\nthe last words\n\n", { append: true });
  await Deno.rename(file, directory.join("away"));
  await Deno.writeTextFile(directory.join("secret"), "the key");
  await Deno.symlink(directory.join("secret"), file);
  assert.equal(lastWords(log), "the last words");
  closeSync(log);
  assert.equal(lastWords(log), "");
});
