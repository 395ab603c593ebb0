import assert from "node:assert/strict";
import { CommandLog } from "./command_log.ts";
import { tempDir } from "../../tests/support/temp_dir.ts";

Deno.test("command.log holds what the last command printed, and replaces a link that stood there", async () => {
  await using outputBase = await tempDir();
  const log = outputBase.join("command.log");
  await Deno.writeTextFile(outputBase.join("elsewhere"), "untouched");
  await Deno.symlink("elsewhere", log);
  for (const words of [["one ", "command\n"], ["another\n"]]) {
    using file = new CommandLog(outputBase.path);
    for (const word of words) file.write(new TextEncoder().encode(word));
    assert.equal(await Deno.readTextFile(log), words.join(""));
  }
  assert.equal(await Deno.readTextFile(outputBase.join("elsewhere")), "untouched");
  assert.deepEqual([...Deno.readDirSync(outputBase.join("rbs"))], []);
});

Deno.test("a command.log that cannot be written is no trouble of the command", () => {
  using file = new CommandLog("/no/such/output base");
  file.write(new Uint8Array(10));
});
