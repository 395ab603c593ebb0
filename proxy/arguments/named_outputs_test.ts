import assert from "node:assert/strict";
import { namedOutputFiles } from "./named_outputs.ts";
import { oddArguments, type Request, request, seeded } from "./testing.ts";

const [workspace, cwd] = ["/home/ann/ws", "/home/ann/ws/sub"];
const outputBase = "/home/ann/.cache/bazel/_bazel_ann/0";
const outputs = (of: Request) => namedOutputFiles({ args: request({ cwd, ...of }), cwd, workspace, outputBase });
const named = (of: Request) => outputs(of).map(({ path }) => path);

Deno.test("a command without such options names no files", () => {
  assert.deepEqual(named({ typed: ["//...", "--", "--profile=x"] }), []);
});

Deno.test("relative paths start in the workspace or where the user is, as Bazel has it for each option", () => {
  const inWorkspace = [
    ..."build_event_binary_file build_event_json_file build_event_text_file explain profile starlark_cpu_profile".split(
      " ",
    ),
    ..."experimental_repository_resolved_file action_graph experimental_execution_graph_log_path".split(" "),
  ];
  const inCwd = [
    ..."execution_log_binary_file execution_log_compact_file execution_log_json_file memory_profile".split(" "),
    ..."experimental_execution_log_file remote_grpc_log script_path output_file".split(" "),
  ];
  for (const name of inWorkspace) assert.deepEqual(named({ typed: [`--${name}=x`] }), [`${workspace}/x`], name);
  for (const name of inCwd) assert.deepEqual(named({ typed: [`--${name}`, "x"] }), [`${cwd}/x`], name);
  assert.deepEqual(named({ typed: ["--experimental_aquery_dump_after_build_output_file=x"] }), [`${outputBase}/x`]);
  assert.deepEqual(named({ typed: ["--experimental_workspace_rules_log_file=x"] }), [`${cwd}/x`, `${workspace}/x`]);
});

Deno.test("the last of an option's files counts, each file once, from rc files as well", () => {
  const rc = ["build --profile=/tmp/a", "build:x --explain why.txt"];
  assert.deepEqual(named({ rc }), ["/tmp/a"]);
  assert.deepEqual(named({ rc, typed: ["--config=x", "--profile=/tmp/b", "--memory_profile=/tmp/b"] }), [
    "/tmp/b",
    `${workspace}/why.txt`,
  ]);
  assert.deepEqual(named({ typed: ["--remote_grpc_log=/a", "--experimental_remote_grpc_log=/b"] }), ["/b"]);
});

Deno.test("without some Bazel goes on, unless the same file is something else as well", () => {
  const typed = ["--profile=/tmp/p", "--explain=/tmp/e", "--script_path=/tmp/e", "--build_event_json_file=/tmp/b"];
  assert.deepEqual(outputs({ typed }), [
    { path: "/tmp/p", secondary: true },
    { path: "/tmp/e", secondary: false },
    { path: "/tmp/b", secondary: false },
  ]);
});

Deno.test("terminals and nothing are no files", () => {
  const typed = ["--build_event_json_file=/dev/stdout", "--profile=", "--explain=-", "--output_file=/proc/self/fd/1"];
  assert.deepEqual(named({ typed }), []);
  assert.deepEqual(named({ typed: ["--profile=/dev/shm/p", "--explain=/dev/pts/3"] }), ["/dev/shm/p", "/dev/pts/3"]);
});

Deno.test("names keep their bytes", () => {
  assert.deepEqual(named({ typed: ["--profile=/tmp/\xff"] }), ["/tmp/\udcff"]);
  assert.deepEqual(named({ typed: ["--profile=/tmp/\xc3\xa9"] }), ["/tmp/é"]);
});

Deno.test("whatever the arguments are, what comes out is absolute and nothing is thrown", () => {
  const random = seeded(3);
  for (let i = 0; i < 3_000; i++) {
    for (const { path } of namedOutputFiles({ args: oddArguments(random), cwd, workspace, outputBase })) {
      assert.match(path, /^\//);
    }
  }
});
