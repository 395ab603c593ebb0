import assert from "node:assert/strict";
import { builds } from "../../proto/bazel/changing_commands.ts";
import { injectBuildEvents, optionValues } from "./command_arguments.ts";

const OURS = "--build_event_binary_file=/out/rbs/events";
const LOCAL = "--nobuild_event_binary_file_path_conversion";
const CLIENT = ["--rc_source=client", "--default_override=0:common=--isatty=0", "--rc_source=/ws/.bazelrc"];
const inject = (...args: string[]) => injectBuildEvents(["build", ...CLIENT, ...args], "/out/rbs/events", "/ws");

Deno.test("build events go to our file, by an option that comes before all others", () => {
  assert.deepEqual(inject("//...", "--", "-//x"), {
    args: ["build", OURS, LOCAL, ...CLIENT, "//...", "--", "-//x"],
    files: ["/out/rbs/events"],
    speaksOfIt: true,
  });
});

Deno.test("a file that the user names stays the user's, and is read instead", () => {
  for (
    const [args, path] of [
      [["--build_event_binary_file=/tmp/bep"], "/tmp/bep"],
      [["--build_event_binary_file", "/tmp/bep", "//..."], "/tmp/bep"],
      [["--experimental_build_event_binary_file=a/bep"], "/ws/a/bep"],
      [["--build_event_binary_file=/a", "--build_event_binary_file=\xc3\xb6"], "/ws/ö"],
      [["--build_event_binary_file=", "--build_event_binary_file=/tmp/bep"], "/tmp/bep"],
      [["--default_override=1:build=--build_event_binary_file=/rc", "--build_event_binary_file=/tmp/bep"], "/tmp/bep"],
    ] as const
  ) {
    assert.deepEqual(inject(...args), {
      args: ["build", ...CLIENT, ...args],
      files: [path],
      speaksOfIt: false,
    });
  }
});

Deno.test("what is no option of the command line names no file", () => {
  for (
    const args of [
      ["//:tool", "--", "--build_event_binary_file=/theirs"],
      ["--client_env=A=--build_event_binary_file=/theirs"],
      ["--build_event_binary_file_path_conversion=/theirs"],
      ["--action_env", "B", "-c", "opt"],
    ]
  ) {
    assert.deepEqual(inject(...args).files, ["/out/rbs/events"], args.join());
    assert.equal(inject(...args).args[1], OURS);
  }
});

Deno.test("an empty name means none, so that ours comes behind it", () => {
  const rc = "--default_override=1:build=--build_event_binary_file=/rc";
  assert.deepEqual(inject(rc, "--build_event_binary_file=", "//..."), {
    args: ["build", ...CLIENT, rc, "--build_event_binary_file=", OURS, LOCAL, "//..."],
    files: ["/out/rbs/events"],
    speaksOfIt: true,
  });
});

Deno.test("where an rc file may name a file, Bazel decides which it is", () => {
  const rc = [
    "--default_override=1:common=--build_event_binary_file=/one",
    "--default_override=1:build:ci=--build_event_binary_file",
    "--default_override=1:build:ci=two",
  ];
  const { args, files, speaksOfIt } = inject(...rc);
  assert.deepEqual(files, ["/out/rbs/events", "/ws/two", "/one"]);
  assert.equal(speaksOfIt, false);
  assert.deepEqual(args, ["build", CLIENT[0], `--default_override=0:common=${OURS}`, ...CLIENT.slice(1), ...rc]);
});

Deno.test("Bazel's word on build events is meant for a user who wants some", () => {
  assert.equal(inject("--build_event_json_file=/tmp/j").speaksOfIt, false);
  assert.equal(inject("--default_override=1:build=--build_event_text_file=/tmp/t").speaksOfIt, false);
  assert.equal(inject("--build_event_json_file=").speaksOfIt, true);
});

Deno.test("a path of any bytes is one character per byte among the arguments", () => {
  assert.equal(injectBuildEvents(["build"], "/ö\udcff", "/ws").args[1], "--build_event_binary_file=/\xc3\xb6\xff");
});

Deno.test("values of options are found on the command line and in rc files", () => {
  assert.deepEqual(
    optionValues(["build", "--default_override=3:test=--x=1", "--x", "--y", "--x=3", "--", "--x=4"], ["--x"]),
    [
      { value: "1", index: 1, fromRcFile: true },
      { value: "--y", index: 3, fromRcFile: false },
      { value: "3", index: 4, fromRcFile: false },
    ],
  );
  assert.deepEqual(optionValues(["build", "--x"], ["--x"]), []);
  assert.deepEqual(optionValues([], ["--x"]), []);
});

Deno.test("commands that make outputs are known", () => {
  for (const name of ["build", "test", "run", "coverage", "mobile-install"]) assert.ok(builds(name));
  for (const name of ["query", "cquery", "info", "clean", "help", "", undefined]) assert.ok(!builds(name));
});
