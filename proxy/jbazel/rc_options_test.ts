import assert from "node:assert/strict";
import { TestPlace } from "./fake_services.ts";
import { lastOption, readRc, readStartupOptions, splitRcLine } from "./rc_options.ts";

Deno.test("a line is split as Bazel splits it", () => {
  assert.deepEqual(splitRcLine(`startup  --a="b c" '--d=e f' --g\\ h # --i`), [
    "startup",
    "--a=b c",
    "--d=e f",
    "--g h",
  ]);
  assert.deepEqual(splitRcLine("  # only a comment"), []);
  assert.deepEqual(splitRcLine(`a "" b#c`), ["a", "", "b"]);
});

Deno.test("imports are followed, loops survived, and the last value wins", () => {
  using place = new TestPlace();
  const { workspace } = place;
  Deno.writeTextFileSync(
    `${workspace}/.bazelrc`,
    "startup --x=1 \\\n  --y=2\nimport %workspace%/more.rc\ntry-import /none\n",
  );
  Deno.writeTextFileSync(`${workspace}/more.rc`, "import %workspace%/.bazelrc\nstartup --x=3\nbuild --x=4\n");
  const options = readStartupOptions([`${place.root}/none`, `${workspace}/.bazelrc`], workspace);
  assert.deepEqual(options.map((o) => o.option), ["--x=1", "--y=2", "--x=3"]);
  assert.deepEqual(lastOption(options, "x"), { value: "3", file: `${workspace}/more.rc` });
  assert.equal(lastOption(options, "z"), undefined);
});

Deno.test("an import that depends on Bazel's version is followed where that is known, and undecided elsewhere", () => {
  using place = new TestPlace();
  const { workspace } = place;
  const rc = `${workspace}/.bazelrc`;
  const lines = [
    "startup --x=1",
    "try-import-if-bazel-version >=9.0.0 %workspace%/nine.rc",
    "try-import-if-bazel-version <9.0.0 %workspace%/eight.rc",
    "try-import-if-bazel-version ~9 %workspace%/none.rc",
    "try-import-if-bazel-version >=9.0.0",
  ];
  Deno.writeTextFileSync(rc, lines.join("\n"));
  Deno.writeTextFileSync(
    `${workspace}/nine.rc`,
    "startup --x=9\ntry-import-if-bazel-version ~9.1 %workspace%/deeper.rc\n",
  );
  Deno.writeTextFileSync(`${workspace}/deeper.rc`, "startup --y=91\n");
  Deno.writeTextFileSync(`${workspace}/eight.rc`, "startup --x=8\n");
  const options = (bazel?: string) => readRc([rc], workspace, bazel).options.map((o) => o.option);
  assert.deepEqual(options("9.1.0"), ["--x=1", "--x=9", "--y=91"]);
  assert.deepEqual(options("9.0.0"), ["--x=1", "--x=9"]);
  assert.deepEqual(options("8.7.0"), ["--x=1", "--x=8"]);
  for (const bazel of ["8.6.0", "no_version", undefined]) assert.deepEqual(options(bazel), ["--x=1"], `${bazel}`);
  const { undecided } = readRc([rc], workspace);
  assert.deepEqual(undecided.map((u) => u.options.map((o) => o.option)), [["--y=91"], ["--x=9"], ["--x=8"], []]);
  assert.equal(undecided[1].line, lines[1]);
  assert.deepEqual(readRc([rc], workspace, "9.0.0").undecided, []);
});
