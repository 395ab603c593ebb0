import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import type { RbsError } from "../../proto/base/errors.ts";
import { encodeFields, lengthPrefix } from "../../proto/base/protobuf_fields.ts";
import { type Request, request } from "../arguments/testing.ts";
import { AnswerFilter } from "./answer_filter.ts";

const OB = "/home/ann/.cache/ob", WS = "/home/ann/ws", BIN = `${OB}/execroot/ws/bazel-out/k8/bin`, TOOL = `${BIN}/tool`;
const RUN: Request = { command: "run", typed: ["//:tool"] };

type Fields = Parameters<typeof encodeFields>[0];

function filter(command: Request = RUN): AnswerFilter {
  return new AnswerFilter({ args: request(command), agent: "there:1", workspace: WS, outputBase: OB });
}

function pass(response: Uint8Array, command?: Request, last = true, isHome: (path: string) => boolean = () => true) {
  const one = filter(command);
  const answer = one.read(response, last, () => undefined);
  one.checkExecution(answer, isHome);
  return Buffer.concat(answer.pieces);
}

function refuses(
  response: Uint8Array,
  why: RegExp,
  command?: Request,
  last = true,
  isHome?: (path: string) => boolean,
) {
  assert.throws(() => pass(response, command, last, isHome), (e: RbsError) => {
    assert.match(e.message, why);
    assert.match(e.message, /^The agent at there:1 wants .*: nothing was executed; .*\.$/);
    return e.exitCode === 37;
  });
}

/** A last response with an ExecRequest. */
function run(argv: string[], directory = `${TOOL}.runfiles/ws`, more: Fields = []): Uint8Array {
  const args = argv.flatMap((arg) => [lengthPrefix(2, Buffer.byteLength(arg)), Buffer.from(arg)]);
  return encodeFields([[4, true], [8, Buffer.concat([encodeFields([[1, directory]]), ...args, encodeFields(more)])]]);
}

const set = (name: string, value: string): Fields => [[3, encodeFields([[1, name], [2, value]])]];
const shell = (text: string, more: Fields = []) => run(["/bin/bash", "-c", text], undefined, more);

Deno.test("data reaches the client as it came, and what nobody knows does not", () => {
  const data = encodeFields([[1, "cookie"], [2, "out"], [3, "err"], [6, "id"], [9, "detail"], [10, "a"], [10, "b"]]);
  assert.deepEqual(
    pass(Buffer.concat([data, encodeFields([[11, "x"], [3000, 1]])]), { command: "build" }, false),
    data,
  );
  // A tag of more than 32 bits, of which C++ takes the lower ones: field 8.
  const overlong = Buffer.from([0xc2, 0x80, 0x80, 0x80, 0x10, 1, 0x30]);
  assert.equal(pass(overlong, { command: "build" }).length, 0);
});

Deno.test("fields that are there twice, or are encoded otherwise, are refused", () => {
  for (const number of [1, 2, 3, 6, 8, 9]) refuses(encodeFields([[number, 1]]), /of the wire type 0/);
  for (const number of [4, 5, 7]) refuses(encodeFields([[number, "x"]]), /of the wire type 2/);
  refuses(Buffer.concat([run([TOOL]), run([TOOL])]), /there twice/);
});

Deno.test("only shutdown and clean --expunge end the server, and a crash", () => {
  const ends = encodeFields([[4, true], [7, true]]);
  const expunge = { command: "clean", typed: ["--expunge"] };
  for (const command of [{ command: "shutdown" }, expunge]) assert.deepEqual(pass(ends, command), ends);
  refuses(ends, /the server ended for "build"/, { command: "build" });
  refuses(ends, /the server ended for "clean"/, { command: "clean" });
  refuses(ends, /the server ended/, { command: "shutdown" }, false);
  for (const exitCode of [33, 37]) {
    const crashed = encodeFields([[4, true], [5, exitCode], [7, true]]);
    assert.deepEqual(pass(crashed, { command: "build" }), crashed);
  }
  const failed = encodeFields([[4, true], [5, 1]]);
  assert.deepEqual(pass(Buffer.concat([failed, encodeFields([[7, true]])]), { command: "build" }), failed);
});

Deno.test("run executes an output that came home, in all of Bazel's forms", () => {
  const test = `external/bazel_tools/tools/test/test-setup.sh`;
  const under = (value: string): Request => ({ command: "run", typed: [`--run_under=${value}`, "//:tool"] });
  for (
    const [response, command] of [
      [run([TOOL, "any", "; words"])],
      [shell(`${TOOL} a '; b' ''`)],
      [run(["/bin/bash", "-c", `${test} tool a`], `${OB}/execroot/ws`)],
      [run([TOOL], WS)],
      [run([`${WS}/tool`], WS)],
      [shell(`/bin/bash -c 'env -u X ${TOOL} a '`), under("env -u X")],
      [shell(`env -u X ${TOOL} a`), under("env -u X")],
      [shell(`/bin/bash -c '${BIN}/under -v ${TOOL} '`), under("//:under -v")],
      [run(["/bin/zsh", "-c", TOOL]), { command: "run", typed: ["--shell_executable=/bin/zsh", "//:tool"] }],
      [run(["/bin/zsh", "-c", TOOL]), { command: "run", env: ["BAZEL_SH=/bin/zsh"] }],
      [shell(TOOL, [[5, true], [4, "TEST_SRCDIR"], [7, encodeFields([[1, 1], [2, OB]])]])],
      [shell(TOOL, [[6, encodeFields([[1, "s.sh"], [2, "text"]])]]), {
        command: "run",
        typed: ["--script_path=s.sh", "//:tool"],
      }],
    ] as [Uint8Array, Request?][]
  ) assert.deepEqual(pass(response, command ?? RUN), response);
});

Deno.test("run executes nothing else", () => {
  const evil = [
    run(["/bin/sh", "-c", "evil"]),
    run(["/bin/sh", "-c", TOOL]),
    run(["/bin/bash", "-c", TOOL, "x"]),
    run(["/bin/bash", TOOL]),
    run([]),
    run([`${WS}/other`], WS),
    run([`${BIN}/../x`]),
    run([`${OB}/server/x`]),
    run([`${OB}x/execroot/y`]),
    ...[`${TOOL};evil`, `${TOOL} $(evil)`, `X=1 ${TOOL}`, `evil ${TOOL}`, `${TOOL} a\nevil`, ""].map((text) =>
      shell(text)
    ),
    run(["/bin/bash", "-c", "external/bazel_tools/tools/test/test-setup.sh x"], WS),
    run(["/bin/bash", "-c", "external/evil/tools/test/test-setup.sh x"], `${OB}/execroot/ws`),
  ];
  for (const response of evil) refuses(response, /executed/);
  refuses(run([TOOL], "/tmp"), /no folder of outputs/);
  refuses(run([TOOL]), /no folder of outputs/, RUN, true, () => false);
  refuses(run([TOOL]), /no output that came home/, RUN, true, (path) => path !== TOOL);
  refuses(run([TOOL]), /for "build"/, { command: "build" });
  refuses(run([TOOL]), /in the middle of/, RUN, false);
  for (const more of [[[8, "x"]], [[1, "/"]], [[5, "x"]], [[1, "a\0b"]]] as Fields[]) {
    refuses(run([TOOL], undefined, more), /cannot be judged/);
  }
  refuses(shell(TOOL, [[6, encodeFields([[1, "/home/ann/.bashrc"], [2, "evil"]])]]), /--script_path does not name/);
});

Deno.test("the user's command stands before what run executes", () => {
  const under: Request = { command: "run", typed: ["--run_under=sandboxed", "//:tool"] };
  for (const text of [TOOL, `other ${TOOL}`, `sandboxed evil`, `sandboxed; ${TOOL}`, `/bin/bash -c '${TOOL}'`]) {
    refuses(shell(text), /no output that came home under "sandboxed"/, under);
  }
  refuses(run([TOOL]), /under "sandboxed"/, under);
  refuses(shell(`sandboxed ${TOOL}`, set("ANY", "x")), /RBS_CLIENT_ENV=ANY/, under);
  pass(shell(`sandboxed ${TOOL}`, set("ANY", "x")), { ...under, env: ["RBS_CLIENT_ENV=ANY"] });
});

Deno.test("an agent sets what Bazel sets, what the user says, and of targets' variables none that loads code", () => {
  const named = (...typed: string[]): Request => ({
    command: "run",
    typed: [...typed, "//:tool"],
    env: ["PATH=/mine", "L=x"],
  });
  for (
    const [name, value, command] of [
      ["BUILD_WORKSPACE_DIRECTORY", WS],
      ["BUILD_WORKING_DIRECTORY", `${WS}/sub`],
      ["TEST_TMPDIR", "/anything"],
      ["GREETING", "a target's own"],
      ["PATH", "/mine", named()],
      ["PATH", "/bin:/usr/bin:/usr/local/bin"],
      ["LD_LIBRARY_PATH", "/l", named("--test_env=LD_LIBRARY_PATH=/l")],
    ] as [string, string, Request?][]
  ) pass(shell(TOOL, set(name, value)), command ?? RUN);
  for (
    const [name, value, command] of [
      ["BUILD_WORKSPACE_DIRECTORY", "/"],
      ["PATH", "/evil", named("--action_env=PATH")],
      ["LD_LIBRARY_PATH", "/evil", named("--test_env=LD_LIBRARY_PATH=/l")],
      ..."LD_PRELOAD LD_AUDIT BASH_ENV ENV IFS HOME SHELLOPTS BASH_FUNC_ls%% PYTHONSTARTUP NODE_OPTIONS GIT_SSH_COMMAND"
        .split(" ").map((name) => [name, "x"]),
      ["a b", "x"],
      ["", "x"],
    ] as [string, string, Request?][]
  ) refuses(shell(TOOL, set(name, value)), /the variable/, command ?? RUN);
  refuses(shell(TOOL, [[4, "LD_PRELOAD"]]), /taken from/);
  refuses(shell(TOOL, [...set("A", "1"), ...set("A", "2")]), /the variable "A"/);
});
