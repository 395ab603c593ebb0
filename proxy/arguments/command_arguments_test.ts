import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { RbsError } from "../../proto/base/errors.ts";
import { OutputsPolicy } from "../../proto/contract/gen/rbs/v1/command_pb.ts";
import { ArgumentReader } from "./command_arguments.ts";
import { request } from "./testing.ts";

const WORKSPACE = "/home/ann/ws";

/** A reader, and the files that it sees: texts by path. */
function reader(texts: Record<string, string> = {}) {
  let reads = 0;
  const files = new Map(Object.entries(texts));
  const exists = (path: string) => [...files.keys()].some((file) => file === path || file.startsWith(`${path}/`));
  const it = new ArgumentReader({ workspace: WORKSPACE, outputBase: "/home/ann/out" }, {
    readFile: (path) => (reads++, files.get(path)),
    exists,
    realPath: (path) => exists(path) ? path : undefined,
  });
  return { files, read: (...args: Parameters<typeof request>) => it.read(request(...args)), it, reads: () => reads };
}

Deno.test("a command's arguments are understood in all that they mean for two machines", () => {
  const { read } = reader({ "/home/ann/lib/WORKSPACE": "" });
  const command = read({
    env: ["HOME=/home/ann", "SECRET=s", "PATH=/bin", "RBS_OUTPUTS=all", "RBS_FALLBACK=local"],
    rc: ["build --symlink_prefix=out/"],
    typed: ["--override_repository=lib=/home/ann/lib", "--profile=p", "//..."],
  });
  assert.equal(command.command, "build");
  assert.equal(command.policy, OutputsPolicy.ALL);
  assert.deepEqual(command.namedFiles, [{ path: `${WORKSPACE}/p`, secondary: true }]);
  assert.deepEqual(command.outside.roots.map(({ path }) => path), ["/home/ann/lib"]);
  assert.equal(command.home, "/home/ann");
  assert.equal(command.symlinks.prefix, "out/");
  assert.equal(command.fallsBack, true);
  assert.equal(command.expunge, false);
  const sent = command.sent.map(String);
  assert.ok(sent.includes("--client_env=PATH=/bin"));
  assert.ok(!sent.some((arg) => arg.includes("SECRET")));
  assert.equal(read({ command: "clean", typed: ["--expunge"] }).expunge, true);
});

Deno.test("the same command again is not parsed again, and says what this client says of itself", () => {
  const { it } = reader();
  const first = it.read(request({ env: ["A=b"], typed: ["//..."] }));
  const args = request({ env: ["A=b"], typed: ["//..."] });
  args[1] = Buffer.from("--startup_time=7");
  const second = it.read(args);
  assert.equal(second.outside, first.outside, "kept");
  assert.deepEqual(second.sent.map(String), args.filter((arg) => !String(arg).startsWith("--client_env")).map(String));
});

Deno.test("other arguments are understood anew, wherever they differ", () => {
  const { read } = reader();
  const one = read({ env: ["PATH=/a"], typed: ["//..."] });
  for (
    const other of [
      read({ env: ["PATH=/b"], typed: ["//..."] }),
      read({ env: ["PATH=/b"], typed: ["//...", "-k"] }),
      read({ command: "test", env: ["PATH=/b"], typed: ["//...", "-k"] }),
      read({ env: ["PATH=/b"], rc: ["build -k"], typed: ["//..."] }),
      read({ env: ["PATH=/b"], cwd: `${WORKSPACE}/sub`, typed: ["//..."] }),
    ]
  ) assert.notEqual(other.outside, one.outside);
  assert.ok(read({ env: ["PATH=/c"] }).sent.map(String).includes("--client_env=PATH=/c"));
});

Deno.test("what files said counts only as long as they say it", () => {
  const workspace = (path: string) => `local_repository(name = "lib", path = "${path}")\n`;
  const { files, read } = reader({
    [`${WORKSPACE}/WORKSPACE`]: workspace("/home/ann/lib"),
    "/home/ann/lib/WORKSPACE": "",
    "/home/ann/other/WORKSPACE": "",
  });
  const roots = () => read({ typed: ["//..."] }).outside.roots.map(({ path }) => path);
  assert.deepEqual(roots(), ["/home/ann/lib"]);
  files.set(`${WORKSPACE}/WORKSPACE`, workspace("/home/ann/other"));
  assert.deepEqual(roots(), ["/home/ann/other"]);
  files.delete("/home/ann/other/WORKSPACE");
  assert.deepEqual(roots(), []);
  files.set("/home/ann/other/WORKSPACE", "");
  assert.deepEqual(roots(), ["/home/ann/other"]);
});

Deno.test("a policy that is none is refused each time", () => {
  const { read } = reader();
  const bad = () => read({ env: ["RBS_OUTPUTS=some"] });
  for (let i = 0; i < 2; i++) assert.throws(bad, (e) => e instanceof RbsError && e.exitCode === 2);
});
