import assert from "node:assert/strict";
import { TestPlace } from "./fake_services.ts";
import { lastOption, readStartupOptions, splitRcLine } from "./rc_options.ts";

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
