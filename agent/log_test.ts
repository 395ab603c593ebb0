import assert from "node:assert/strict";
import { tempDir } from "../tests/support/temp_dir.ts";

Deno.test("the log file does not grow without end, and the newest lines are in it", async () => {
  await using directory = await tempDir();
  const file = directory.join("agent.log");
  const script = `import { log } from ${JSON.stringify(import.meta.resolve("./log.ts"))};
for (let i = 0; i < 25_000; i++) log(i + "x".repeat(1000));
log("last");`;
  const shell = `cd "$1" && exec "$2" eval --quiet "$3" 2>>agent.log`;
  const { code } = await new Deno.Command("bash", {
    args: ["-c", shell, "bash", directory.path, Deno.execPath(), script],
  }).output();
  assert.equal(code, 0);
  for (const name of [file, `${file}.old`]) {
    const { size } = Deno.statSync(name);
    assert(size > 0 && size < 9 << 20, `${name} has ${size} bytes`);
  }
  const lines = Deno.readTextFileSync(file).trim().split("\n");
  assert.match(lines.at(-1)!, /last$/);
  const former = Deno.readTextFileSync(`${file}.old`).trim().split("\n");
  const number = (line: string) => Number(/Z (\d+)x/.exec(line)![1]);
  assert.equal(number(lines[0]), number(former.at(-1)!) + 1, "no line is lost between them");
});
