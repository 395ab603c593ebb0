import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { encodeFields } from "../../proto/base/protobuf_fields.ts";
import { PrintedPaths } from "./printed_paths.ts";

const OB = "/home/ann/.cache/bazel/_bazel_ann/0123";

/** What is found in texts that come one after the other. */
function found(...pieces: (string | Uint8Array)[]): string[] {
  const paths = new PrintedPaths(OB);
  for (const piece of pieces) paths.read(encodeFields([[2, piece]]));
  return [...paths.finish()].map((path) => path.replace(OB, "OB")).sort();
}

Deno.test("paths of the output base are found in what is printed, whatever stands around them", () => {
  assert.deepEqual(found(`${OB}\n`), ["OB"]);
  assert.deepEqual(found(`server_log: ${OB}/java.log.host\noutput_base: ${OB}\n`), ["OB", "OB/java.log.host"]);
  assert.deepEqual(found(`ERROR: ${OB}/external/a/BUILD:12:3: no such`), ["OB/external/a/BUILD"]);
  assert.deepEqual(found(`FAIL (see ${OB}/execroot/ws/bazel-out/t/test.log)`), ["OB/execroot/ws/bazel-out/t/test.log"]);
  assert.deepEqual(found(`"${OB}/external/a+b~c/d-e/@f.h", in ${OB}/external/x.`), [
    "OB/external/a+b~c/d-e/@f.h",
    "OB/external/x",
  ]);
  assert.deepEqual(
    found(Buffer.concat([Buffer.from([10, 60]), Buffer.from(`${OB}/external/a/B`), Buffer.from([24])])),
    [
      "OB/external/a/B",
    ],
  );
});

Deno.test("what is another path is not", () => {
  assert.deepEqual(
    found(`/x${OB}/external/a ${OB}456/external/b ${OB}/../c ${OB}//d ${OB}/external/${"x".repeat(5000)} y`),
    [],
  );
});

Deno.test("a path that comes in pieces is found, each stream by itself", () => {
  const text = `see ${OB}/external/a/BUILD:1`;
  for (let at = 1; at < text.length; at++) {
    assert.deepEqual(found(text.slice(0, at), text.slice(at)), ["OB/external/a/BUILD"], `cut at ${at}`);
  }
  assert.deepEqual(found(...text), ["OB/external/a/BUILD"]);
  const paths = new PrintedPaths(OB);
  paths.read(encodeFields([[2, `${OB}/external/a/`], [3, `${OB}/external/b/`]]));
  paths.read(encodeFields([[2, "one "], [3, "two "]]));
  assert.deepEqual([...paths.finish()].sort(), [`${OB}/external/a/one`, `${OB}/external/b/two`]);
});

Deno.test("of very many paths the first thousand are found, and a text without an end is not kept", () => {
  const many = Array.from({ length: 3_000 }, (_, i) => `${OB}/external/a/${i}\n`);
  assert.equal(found(...many).length, 1_000);
  assert.deepEqual(found(`${OB}/external/`, ...Array.from({ length: 100 }, () => "x".repeat(1000)), ` ${OB}/b `), [
    "OB/b",
  ]);
});
