import assert from "node:assert/strict";
import { addBlock, DamagedBlock, hasBlock, removeBlock, startupLine } from "./rc_block.ts";
import { splitRcLine } from "./rc_options.ts";

const FILES = [
  "",
  "build --foo\n",
  "build --foo",
  "\n",
  "\n\n",
  "a\r\nb",
  "build \\\n",
  "build \\",
  "# >> rbs\nünï\n",
  "\ufeffbuild\n",
];

Deno.test("what was added is taken out again, byte for byte", () => {
  for (const file of FILES) {
    const added = addBlock(file, "/opt/rbs/javabase");
    assert.ok(added.startsWith(file ?? ""));
    assert.ok(hasBlock(added) && !hasBlock(file ?? ""));
    assert.equal(removeBlock(added), file, JSON.stringify(file));
  }
});

Deno.test("adding twice changes nothing, and another javabase replaces the first in its place", () => {
  for (const file of FILES) {
    const once = addBlock(file, "/one");
    assert.equal(addBlock(once, "/one"), once);
    const two = addBlock(once + "build --later\n", "/two");
    assert.equal(two, addBlock(file, "/two") + "build --later\n");
  }
});

Deno.test("what was written behind the block since is kept as a line of its own", () => {
  assert.equal(removeBlock(addBlock("build --a", "/j") + "build --b\n"), "build --a\nbuild --b\n");
  assert.equal(removeBlock(addBlock(undefined, "/j") + "build --b\n"), "build --b\n");
});

Deno.test("a damaged block is left alone", () => {
  const whole = addBlock("", "/j");
  for (
    const broken of [whole + whole, whole.split("\n").slice(0, 2).join("\n"), whole.split("\n").slice(1).join("\n")]
  ) {
    assert.throws(() => addBlock(broken, "/j"), DamagedBlock);
    assert.throws(() => removeBlock(broken), DamagedBlock);
  }
});

Deno.test("a path comes back from the line as Bazel splits it", () => {
  for (
    const path of ["/a", "/a b", "/q'q", '/d"d', "/b\\b", "/e\\", "/h#h", "/t\tt", "/ünï", "/$x%workspace%*", "/ "]
  ) {
    assert.deepEqual(splitRcLine(startupLine(path)), ["startup", `--server_javabase=${path}`]);
  }
  assert.equal(startupLine("/opt/rbs"), "startup --server_javabase=/opt/rbs");
});

Deno.test("a path that no line can hold is refused", () => {
  for (const path of ["/a\nb", "/a\rb"]) assert.throws(() => startupLine(path), /cannot hold the path/);
});
