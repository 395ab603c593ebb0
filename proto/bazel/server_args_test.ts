import assert from "node:assert/strict";
import { parseServerArgs } from "./server_args.ts";

Deno.test("the server's options are found wherever the JVM's end, with a jar or with a main class", () => {
  const own = ["--max_idle_secs=10", "--output_base=/ob", "--workspace_directory=/ws"];
  for (const jvm of [["-jar", "/ib/A-server.jar"], ["-cp", "a.jar:b.jar", "com.example.Bazel"], []]) {
    const argv = ["-XX:HeapDumpPath=/ob", ...jvm, ...own];
    assert.deepEqual(parseServerArgs(argv), { argv, outputBase: "/ob", workspace: "/ws", maxIdleSeconds: 10 });
  }
});

Deno.test("a repeated option's last value counts, and paths may hold anything", () => {
  const { outputBase, workspace } = parseServerArgs([
    "--output_base=/a",
    "--output_base=/b =c",
    "--workspace_directory=",
  ]);
  assert.deepEqual([outputBase, workspace], ["/b =c", ""]);
});

Deno.test("no idle time, or a strange one, means never", () => {
  for (const [text, seconds] of [["0", 0], ["-1", 0], ["x", 0], ["", 0], ["Infinity", 0], ["7", 7]] as const) {
    assert.equal(parseServerArgs([`--max_idle_secs=${text}`]).maxIdleSeconds, seconds);
  }
  assert.equal(parseServerArgs([]).maxIdleSeconds, 0);
});
