import assert from "node:assert/strict";
import { join } from "node:path";
import { CommandLog } from "./command_log.ts";

Deno.test("command.log holds what the last command printed, and replaces a link that stood there", async () => {
  const outputBase = await Deno.makeTempDir({ prefix: "rbs-log-" });
  const log = join(outputBase, "command.log");
  await Deno.writeTextFile(join(outputBase, "elsewhere"), "untouched");
  await Deno.symlink("elsewhere", log);
  for (const words of [["one ", "command\n"], ["another\n"]]) {
    using file = new CommandLog(outputBase);
    for (const word of words) file.write(new TextEncoder().encode(word));
    assert.equal(await Deno.readTextFile(log), words.join(""));
  }
  assert.equal(await Deno.readTextFile(join(outputBase, "elsewhere")), "untouched");
  assert.deepEqual([...Deno.readDirSync(join(outputBase, "rbs"))], []);
  await Deno.remove(outputBase, { recursive: true });
});

Deno.test("a command.log that cannot be written is no trouble of the command", () => {
  using file = new CommandLog("/no/such/output base");
  file.write(new Uint8Array(10));
});
