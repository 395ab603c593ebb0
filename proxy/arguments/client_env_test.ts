import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { filterClientEnv } from "./client_env.ts";
import { splitArguments } from "./run_arguments.ts";
import { oddArguments, type Request, request, seeded } from "./testing.ts";

/** The variables that are shipped of this request. */
function shipped(of: Request, allow?: string): string[] {
  return splitArguments(filterClientEnv(request(of), allow)).own.map((arg) => arg.toString("latin1"))
    .filter((arg) => arg.startsWith("--client_env=")).map((arg) => arg.slice("--client_env=".length));
}

const secrets = [
  "AWS_SECRET_ACCESS_KEY=s",
  "GITHUB_TOKEN=t",
  "HOME=/home/ann",
  "SSH_AUTH_SOCK=/x",
  "TMPDIR=/y",
  "PWD=/",
];

Deno.test("by default only PATH goes, and what decides which compiler and timestamp are taken", () => {
  assert.deepEqual(shipped({ env: secrets }), []);
  const own = ["PATH=/bin:/home/ann/bin", "LD_LIBRARY_PATH=", "CC=clang", "SOURCE_DATE_EPOCH=1"];
  assert.deepEqual(shipped({ env: [...own, ...secrets] }), own);
});

Deno.test("what options name goes, from the command line and from rc files", () => {
  const env = ["A=1", "B=2", "C=3", "D=4", "E=5", "F=6"];
  const rc = [
    "build --action_env=A --host_action_env B",
    "test --test_env=C",
    "build:x --repo_env=D",
    "run --action_env=F",
  ];
  assert.deepEqual(shipped({ env, rc }), ["A=1", "B=2"]);
  assert.deepEqual(shipped({ command: "test", env, rc, typed: ["--config=x", "--repo_env", "E"] }), [
    "A=1",
    "B=2",
    "C=3",
    "D=4",
    "E=5",
  ]);
});

Deno.test("an option that gives a value of its own does not ask for the environment's", () => {
  const env = ["TOKEN=real", "OTHER=real"];
  assert.deepEqual(shipped({ env, typed: ["--action_env=TOKEN=fake", "--repo_env==OTHER"] }), []);
});

Deno.test("RBS_CLIENT_ENV names more, with * at the end for all that begin so", () => {
  const env = ["A=1", "GOPATH=2", "GO=3", "NO_GO=4", "x*y=5"];
  assert.deepEqual(shipped({ env }, "A, GO*,,x*y"), ["A=1", "GOPATH=2", "GO=3", "x*y=5"]);
  assert.deepEqual(shipped({ env }, "*"), env);
  assert.deepEqual(shipped({ env: [...env, "RBS_CLIENT_ENV=A"] }), ["A=1"]);
});

Deno.test("values keep their bytes, whatever they are", () => {
  const env = ["A=a\nb\xff=c\r", "EMPTY=", "PATH=", "\xff\xfe=odd", "=C:=1"];
  const { own } = splitArguments(filterClientEnv(request({ env }), "A,EMPTY,\xff\xfe,=C:"));
  assert.deepEqual(
    own.filter((arg) => arg.includes("client_env=")),
    env.map((v) => Buffer.from(`--client_env=${v}`, "latin1")),
  );
});

Deno.test("a program under run gets arguments that look like a client's", () => {
  const typed = ["//x", "--", "--client_env=GITHUB_TOKEN=t"];
  assert.deepEqual(splitArguments(filterClientEnv(request({ command: "run", typed }))).typed.map(String), typed);
});

Deno.test("all else stays as it is and where it is, and filtering twice changes nothing more", () => {
  const random = seeded(2);
  for (let i = 0; i < 5_000; i++) {
    const args = oddArguments(random);
    const filtered = filterClientEnv(args);
    const isVariable = (arg: Buffer) => arg.toString("latin1").startsWith("--client_env=");
    assert.deepEqual(filtered.filter((arg) => !isVariable(arg)), args.filter((arg) => !isVariable(arg)));
    assert.deepEqual(filterClientEnv(args, "*"), args);
    assert.deepEqual(filterClientEnv(filtered), filtered);
  }
});

Deno.test("leave to use withdrawn modules goes, and HOME where files of it were asked for", () => {
  const env = ["BZLMOD_ALLOW_YANKED_VERSIONS=all", "HOME=/home/ann"];
  assert.deepEqual(shipped({ env }), env.slice(0, 1));
  assert.deepEqual(shipped({ env: [...env, "RBS_HOME_FILES=.netrc"] }), env);
});
