import assert from "node:assert/strict";
import { startCluster } from "./cluster.ts";
import { eventually } from "./eventually.ts";
import { run, start } from "./run.ts";
import { type TempDir, tempDir, tempDirSync } from "./temp_dir.ts";

Deno.test("a command's outputs, input and exit code are what they were", async () => {
  const { code, stdout, stderr } = await run(["sh", "-c", "cat; echo no >&2; exit 3"], { stdin: "in\0put" });
  assert.deepEqual([code, stdout, stderr], [3, "in\0put", "no\n"]);
});

Deno.test("a command is killed at its deadline, and what it said is told", async () => {
  await assert.rejects(run(["sh", "-c", "echo begun; exec sleep 600"], { timeout: 300 }), /within 300 ms[^]*begun/);
});

Deno.test("a command that runs can be waited for by what it says, and is gone after its scope", async () => {
  let pid: number;
  {
    await using command = start(["sh", "-c", "echo ready 42; exec sleep 600"]);
    assert.equal((await command.says(/ready (\d+)/))[1], "42");
    await assert.rejects(start(["true"]).says(/never/), /ended with 0 without saying/);
    pid = command.pid;
  }
  assert.throws(() => Deno.kill(pid, "SIGTERM"));
});

Deno.test("what comes about in time is returned; what does not is named, by its source if need be", async () => {
  let looks = 0;
  assert.equal(await eventually(() => ++looks === 3 && "there"), "there");
  const never: string[] = [];
  await assert.rejects(
    eventually(() => never.length === 1, undefined, 5),
    /^Error: After 5 ms .*: never\.length === 1$/,
  );
  await assert.rejects(eventually(() => Promise.resolve(0), "the server is gone", 5), /: the server is gone$/);
});

Deno.test("a temporary folder goes with its scope, write-protected things in it too", async () => {
  const paths: string[] = [];
  const fill = ({ path, join }: Pick<TempDir, "path" | "join">) => {
    paths.push(path);
    Deno.mkdirSync(join("protected/below"), { recursive: true });
    Deno.chmodSync(join("protected"), 0o500);
  };
  {
    await using directory = await tempDir();
    fill(directory);
    using other = tempDirSync();
    fill(other);
  }
  for (const path of paths) assert.throws(() => Deno.statSync(path), Deno.errors.NotFound);
});

Deno.test("two private orchestrators run at once, each on its own port, and keep it over a restart", async () => {
  await using first = await startCluster();
  await using second = await startCluster();
  assert.notEqual(first.port, second.port);
  const { port } = first;
  await first.stop();
  assert.equal((await first.orchestrator.finished).code, 0);
  await first.restart();
  assert.equal(first.port, port);
});
