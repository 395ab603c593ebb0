import assert from "node:assert/strict";
import { otherPaths } from "./other_paths.ts";
import { oddArguments, type Request, request, seeded } from "./testing.ts";

const place = { workspace: "/home/ann/ws", outputBase: "/home/ann/.cache/bazel/_bazel_ann/0" };
const other = (of: Request) => otherPaths({ args: request({ env: ["HOME=/home/ann"], ...of }), ...place });

Deno.test("folders that must exist are found, each of them", () => {
  const rc = ["build --sandbox_writable_path=/home/ann/a", "build:x --sandbox_tmpfs_path=/data/t"];
  const typed = [
    "--config=x",
    "--sandbox_writable_path=~/b",
    "--sandbox_base=",
    "--sandbox_block_path",
    "/data/secret",
  ];
  assert.deepEqual(other({ rc, typed }), {
    folders: ["/home/ann/a", "/data/t", "/home/ann/b", "/data/secret"],
    warnings: [],
  });
});

Deno.test("an option that is in no row is said if its value is an absolute path outside of what is on both machines", () => {
  const typed = [
    "--new_log=/data/log",
    "--//my:flag=/data/flag",
    "--new_input",
    "/data/in",
    "--known_here=/home/ann/ws/x",
    "--of_the_system=/usr/bin/cc",
    "--label=//pkg:x",
    "--relative=x",
    "--copt=/data/no_path",
    "--disk_cache=/data/cache",
    "--profile=/data/profile",
    "//...",
    "--",
    "--new_residue=/data/x",
  ];
  const { warnings, folders } = other({ rc: ["build --from_rc=/data/rc"], typed });
  assert.deepEqual(folders, []);
  assert.deepEqual(warnings.map((warning) => warning.split(" is ")[0]), [
    "--from_rc=/data/rc",
    "--new_log=/data/log",
    "--//my:flag=/data/flag",
    "--new_input=/data/in",
  ]);
});

Deno.test("a socket is said to be another one", () => {
  const typed = ["--remote_proxy=unix:/run/user/1/proxy", "--remote_cache=https://cache", "--disk_cache=/x"];
  assert.deepEqual(other({ typed }).warnings, [
    "--remote_proxy=unix:/run/user/1/proxy names a socket of the build server's machine, not of this one.",
  ]);
});

Deno.test("the server's own output is said to be another one's", () => {
  const typed = ["--build_event_json_file=/dev/stdout", "--profile=/dev/null", "--explain=/tmp/x"];
  assert.match(
    other({ typed }).warnings.join(),
    /^--build_event_json_file=\/dev\/stdout is the output of the Bazel server/,
  );
});

Deno.test("whatever the arguments are, folders are absolute and nothing is thrown", () => {
  const random = seeded(5);
  for (let i = 0; i < 3_000; i++) {
    for (const path of otherPaths({ args: oddArguments(random), ...place }).folders) assert.match(path, /^\//);
  }
});
