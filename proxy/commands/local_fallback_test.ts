import assert from "node:assert/strict";
import { fromBinary } from "@bufbuild/protobuf";
import { ExecRequestSchema } from "../../proto/contract/gen/bazel/v1/command_server_pb.ts";
import { clientVariable, localOutputBase, runLocally } from "./local_fallback.ts";
import { tempDir } from "../../tests/support/temp_dir.ts";

const bytes = (text: string) => new TextEncoder().encode(text);
const request = {
  command: "run",
  args: [
    "run",
    "--binary_path=/usr/bin/bazel",
    "--rc_source=client",
    "--default_override=0:common=--isatty=0",
    "--client_env=RBS_FALLBACK=local",
    "--client_env=PATH=/bin",
    "--client_cwd=/home/ann/ws/sub",
    "--nokeep_going",
    "//:x",
    "--",
    "",
    "a b",
  ].map(bytes),
  startupOptions: [
    { option: bytes("--trust_install_base"), source: "/etc/bazel/bazelrc" },
    { option: bytes(""), source: "" },
    { option: bytes("--host_jvm_args=-Xmx1g"), source: "" },
    { option: bytes(""), source: "" },
  ],
};

Deno.test("the client is asked to run the typed command again, in an output base of its own", () => {
  const { exitCode, text, fields } = runLocally(request, "/ob", "/home/ann/ws");
  assert.equal(exitCode, 0);
  assert.match(text, /^rbs: RBS_FALLBACK=local: .*\n$/);
  const exec = fromBinary(ExecRequestSchema, fields[0][1] as Uint8Array);
  const argv = exec.argv.map((a) => new TextDecoder().decode(a));
  assert.deepEqual(argv.slice(0, 2), ["/bin/sh", "-c"]);
  assert.deepEqual(argv.slice(4), [
    "/ob/execroot",
    "/home/ann/ws",
    "/usr/bin/bazel",
    "--host_jvm_args=-Xmx1g",
    `--output_base=${localOutputBase("/ob")}`,
    "run",
    "--nokeep_going",
    "//:x",
    "--",
    "",
    "a b",
  ]);
  assert.equal(new TextDecoder().decode(exec.workingDirectory), "/home/ann/ws/sub");
  assert.equal(exec.shouldExec, true);
  assert.equal(new TextDecoder().decode(exec.environmentVariable[0].name), "RBS_IN_SESSION");
});

Deno.test("the script removes links into the session's outputs, no others, and becomes the client", async () => {
  await using top = await tempDir();
  const workspace = `${top.path}/it's a "ws"`, outputBase = `${top.path}/ob`;
  await Deno.mkdir(workspace);
  await Deno.symlink(`${outputBase}/execroot/ws/bazel-out/bin`, `${workspace}/bazel-bin`);
  await Deno.symlink(`${top.path}/elsewhere`, `${workspace}/bazel-mine`);
  await Deno.writeTextFile(`${workspace}/bazel-file`, "");
  const echo = {
    ...request,
    args: [bytes("run"), bytes("--binary_path=echo"), bytes("--client_cwd=/"), bytes("x y")],
  };
  const exec = fromBinary(ExecRequestSchema, runLocally(echo, outputBase, workspace).fields[0][1] as Uint8Array);
  const [program, ...args] = exec.argv.map((a) => new TextDecoder().decode(a));
  const { code, stdout } = await new Deno.Command(program, { args }).output();
  assert.equal(code, 0);
  assert.equal(
    new TextDecoder().decode(stdout),
    `--host_jvm_args=-Xmx1g --output_base=${outputBase}/local run x y\n`,
  );
  const left = (await Array.fromAsync(Deno.readDir(workspace))).map((e) => e.name).sort();
  assert.deepEqual(left, ["bazel-file", "bazel-mine"]);
});

Deno.test("a variable is the one of the command, not of the proxy", () => {
  assert.equal(clientVariable(request, "RBS_FALLBACK"), "local");
  assert.equal(clientVariable(request, "RBS_FALL"), undefined);
});
