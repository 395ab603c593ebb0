import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import {
  allValues,
  clientVariable,
  fileName,
  isOn,
  parseRunArguments,
  resolvePath,
  splitArguments,
} from "./run_arguments.ts";
import { oddArguments, type Request, request, seeded } from "./testing.ts";

const values = (of: Request, name: string, switches: string[] = []) =>
  allValues(parseRunArguments(request(of), [name], switches).options, name);

Deno.test("the client's own additions end where what the user typed begins", () => {
  const { command, own, typed } = splitArguments(
    request({ env: ["A=1"], typed: ["--config", "x", "//a", "--", "--client_cwd=/y"] }),
  );
  assert.equal(command?.toString(), "build");
  assert.equal(own.at(-1)?.toString(), "--client_cwd=/home/ann/ws");
  assert.deepEqual(typed.map(String), ["--config", "x", "//a", "--", "--client_cwd=/y"]);
});

Deno.test("without a working directory too much is taken for the client's own rather than too little", () => {
  const { own, typed } = splitArguments(["run", "--new_option=1", "--client_env=A=1", "//x", "-c"].map(Buffer.from));
  assert.deepEqual([own.length, typed.map(String)], [2, ["//x", "-c"]]);
});

Deno.test("a variable is the client's, not what a program under run is given", () => {
  const args = request({ env: ["A=1", "AB=2", "EMPTY="], typed: ["//x", "--", "--client_env=A=other"] });
  assert.equal(clientVariable(args, "A"), "1");
  assert.equal(clientVariable(args, "EMPTY"), "");
  assert.equal(clientVariable(args, "B"), undefined);
});

Deno.test("options stand alone or with their value in the next word, anywhere before --", () => {
  const typed = ["--profile=a", "//x", "--profile", "-b=c", "--profile=", "--other", "word", "--", "--profile=no"];
  const { options, residue } = parseRunArguments(request({ command: "run", typed }), ["profile"]);
  assert.deepEqual(allValues(options, "profile"), ["a", "-b=c", ""]);
  assert.deepEqual(residue, ["//x", "word", "--profile=no"]);
});

Deno.test("an option whose value is missing is passed over", () => {
  assert.deepEqual(values({ typed: ["--profile"] }, "profile"), []);
});

Deno.test("a command takes over the lines of those that it inherits from, the general ones first", () => {
  const rc = ["coverage --x=3", "test --x=2", "run --x=no", "common --x=0", "build --x=1", "always --x=first"];
  assert.deepEqual(values({ command: "coverage", rc }, "x"), ["first", "0", "1", "2", "3"]);
  assert.deepEqual(values({ command: "build", rc }, "x"), ["first", "0", "1"]);
  assert.deepEqual(values({ command: "query", rc }, "x"), ["first", "0"]);
  assert.deepEqual(values({ command: "toString", rc }, "x"), ["first", "0"]);
});

Deno.test("the command line comes after rc files, so that its value counts", () => {
  assert.deepEqual(values({ rc: ["build --x rc"], typed: ["--x", "line"] }, "x"), ["rc", "line"]);
});

Deno.test("a config's lines count where it is asked for, those of configs in it too", () => {
  const rc = [
    "build:fancy --x=1 --config=nested --x=3",
    "common:nested --x=2",
    "test:fancy --x=no",
    "build:unused --x=no",
    "build --x=0",
  ];
  assert.deepEqual(values({ rc, typed: ["--config=fancy", "--x=4"] }, "x"), ["0", "1", "2", "3", "4"]);
  assert.deepEqual(values({ rc: [...rc, "build --config nested"] }, "x"), ["0", "2"]);
});

Deno.test("configs that contain each other, or too many, come to an end", () => {
  assert.deepEqual(
    values({ rc: ["build:a --config=b --x=1", "build:b --config=a --x=2"], typed: ["--config=a"] }, "x"),
    [
      "2",
      "1",
    ],
  );
  const doubling = Array.from({ length: 40 }, (_, i) => `build:c${i} --config=c${i + 1} --config=c${i + 1}`);
  values({ rc: doubling, typed: ["--config=c0"] }, "x");
});

Deno.test("config linux counts if platform-specific configs are on", () => {
  const rc = ["build:linux --x=1", "build:macos --x=2"];
  assert.deepEqual(values({ rc }, "x"), []);
  assert.deepEqual(values({ rc: [...rc, "build --enable_platform_specific_config"] }, "x"), ["1"]);
  const off = ["--enable_platform_specific_config=yes", "--noenable_platform_specific_config"];
  assert.deepEqual(values({ rc, typed: off }, "x"), []);
});

Deno.test("a switch is on or off by its last word", () => {
  const on = (...typed: string[]) => isOn(parseRunArguments(request({ typed }), [], ["s"]).options, "s");
  assert.deepEqual([on(), on("--s"), on("--s", "--nos"), on("--s=0"), on("--nos", "--s=TRUE")], [
    false,
    true,
    false,
    false,
    true,
  ]);
});

Deno.test("lines of an rc file that was not announced are passed over, as Bazel does", () => {
  const args = request({});
  args.splice(1, 0, Buffer.from("--default_override=7:build=--x=1"), Buffer.from("--default_override=x"));
  assert.deepEqual(parseRunArguments(args, ["x"]).options, []);
});

Deno.test("paths start where Bazel has them start, and keep their bytes", () => {
  const resolve = (path: string) => resolvePath(path, "/ws/sub", "/ws", "/home/ann");
  assert.equal(resolve("a/../b/"), "/ws/sub/b");
  assert.equal(resolve("../../x"), "/x");
  assert.equal(resolve("%workspace%/../x"), "/x");
  assert.equal(resolve("%workspace%"), "/ws");
  assert.equal(resolve("%workspaces%"), "/ws/sub/%workspaces%");
  assert.equal(resolve("~/x"), "/home/ann/x");
  assert.equal(resolve("/"), "/");
  assert.equal(fileName("/\xc3\xa9"), "/é");
  assert.equal(fileName("/\xff"), "/\udcff");
});

Deno.test("whatever the bytes are, nothing is thrown, and the parts put together are all of it", () => {
  const random = seeded(1);
  for (let i = 0; i < 5_000; i++) {
    const args = oddArguments(random);
    const { command, own, typed } = splitArguments(args);
    assert.deepEqual([...command ? [command] : [], ...own, ...typed], args);
    parseRunArguments(args, ["profile", "action_env"], ["x"]);
    clientVariable(args, "A");
  }
});
