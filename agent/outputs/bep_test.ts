import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { lengthPrefix } from "../../proto/base/protobuf_fields.ts";
import { readBuildEvents } from "./bep.ts";
import { completed, eventFile, file, namedSet, testResult, workspaceInfo } from "./testing/build_events.ts";

const EXEC_ROOT = "/home/ann/.cache/out/execroot/ws";
const BIN = `${EXEC_ROOT}/bazel-out/k8-fastbuild/bin`;
/** Reads them in pieces of a size that no event has. */
const read = (bytes: Uint8Array, size = 379) =>
  readBuildEvents((function* () {
    const piece = new Uint8Array(size);
    for (let at = 0; at < bytes.length; at += size) {
      const part = bytes.subarray(at, at + size);
      // The reader has nothing of a piece when it asks for the next one.
      piece.set(part);
      yield piece.subarray(0, part.length);
    }
  })());
const local = (name: string) => file({ uri: `file://${BIN}/${name}` });

Deno.test("the outputs of a target are those of all its output groups, with the sets that these hold", async () => {
  const events = await read(eventFile(
    workspaceInfo(EXEC_ROOT),
    namedSet("0", [local("a")]),
    namedSet("1", [local("b")], ["0"]),
    namedSet("2", [local("nobody's")]),
    completed([["default", ["1"]], ["docs", ["0"]]]),
  ));
  assert.deepEqual(events.files, [`${BIN}/b`, `${BIN}/a`]);
  assert.equal(events.execRoot, EXEC_ROOT);
  assert.equal(events.whole, true);
});

Deno.test("files that an output group has inline are outputs, beside its sets or instead of them", async () => {
  const events = await read(eventFile(
    workspaceInfo(EXEC_ROOT),
    namedSet("0", [local("a")]),
    completed([["default", [], [local("b"), local("c")]], ["docs", ["0"], [local("a")]]]),
  ));
  assert.deepEqual(new Set(events.files), new Set([`${BIN}/a`, `${BIN}/b`, `${BIN}/c`]));
});

Deno.test("sets that hold each other, or that never came, do no harm", async () => {
  const events = await read(eventFile(
    namedSet("0", [local("a")], ["1", "7"]),
    namedSet("1", [local("b")], ["0", "1"]),
    completed([["default", ["0", "8"]]]),
  ));
  assert.deepEqual(events.files, [`${BIN}/a`, `${BIN}/b`]);
});

Deno.test("a hundred thousand sets within each other are read", async () => {
  const sets = Array.from({ length: 100_000 }, (_, i) => namedSet(`${i}`, [], [`${i + 1}`]));
  const events = await read(
    eventFile(...sets, namedSet("100000", [local("deep")]), completed([["default", ["0"]]])),
  );
  assert.deepEqual(events.files, [`${BIN}/deep`]);
});

Deno.test("URIs are unescaped; what is no local file with a plain path is left out", async () => {
  const uris: Record<string, string | string[]> = {
    "file:///w/a%20b%2520.txt": "/w/a b%20.txt",
    "file://localhost/w/a": "/w/a",
    "file:/w/a": "/w/a",
    // As it is, or bytes as characters of latin-1 again: what is there tells.
    "file:///w/%C3%B6": ["/w/ö", "/w/\udcf6"],
    "file:///w/ö": ["/w/ö", "/w/\udcf6"],
    "file:///w/日本": "/w/日本",
    // Bytes as characters of latin-1: 2.1.0 and 4.2.3.
    "file:///w/au\u00c3%C2%9Fen": "/w/außen",
    "file:///w/raw%FF": "/w/raw\udcff",
    "file:///w/folder/": "/w/folder",
    "file:///w/../etc/passwd": [],
    "file:///w/%2e%2e/etc/passwd": [],
    "file:///w/./a": [],
    "file:///w/%00": [],
    "file:///w/100%": [],
    "file://server/share": [],
    "http://host/w/a": [],
    "bytestream://host/blobs/1/2": [],
    "relative/a": [],
    "": [],
  };
  for (const [uri, path] of Object.entries(uris)) {
    const { files } = await read(eventFile(namedSet("0", [file({ uri })]), completed([["default", ["0"]]])));
    assert.deepEqual(files, [path].flat(), uri);
  }
});

Deno.test("without a local URI, a file is where its prefix and name say", async () => {
  const prefix = ["bazel-out", "k8", "bin"];
  const events = await read(eventFile(
    workspaceInfo(EXEC_ROOT),
    namedSet("0", [
      file({ uri: "bytestream://host/blobs/1/2", prefix, name: "pkg/a" }),
      file({ prefix, name: "../../../../etc/passwd" }),
      file({ name: "a source file of a remote cache" }),
    ]),
    completed([["default", ["0"]]], [file({ prefix, name: "pkg/tree" })]),
  ));
  assert.deepEqual(events.files, [`${EXEC_ROOT}/bazel-out/k8/bin/pkg/a`]);
  assert.deepEqual(events.folders, [`${EXEC_ROOT}/bazel-out/k8/bin/pkg/tree`]);
});

Deno.test("tests tell their files", async () => {
  const events = await read(eventFile(testResult([local("t/test.log"), local("t/test.xml")])));
  assert.deepEqual(events.testOutputs, [`${BIN}/t/test.log`, `${BIN}/t/test.xml`]);
});

Deno.test("a file that is cut anywhere gives what was before, and never fails", async () => {
  const whole = eventFile(namedSet("0", [local("a")]), completed([["default", ["0"]]]), workspaceInfo(EXEC_ROOT));
  for (let length = 0; length < whole.length; length++) {
    const { files } = await read(whole.subarray(0, length));
    assert.ok(files.length <= 1);
  }
});

Deno.test("what are no build events at all is read without harm", async () => {
  let seed = 7;
  const random = () => (seed = (seed * 48271) % 0x7fffffff);
  const whole = eventFile(workspaceInfo(EXEC_ROOT), namedSet("0", [local("a")]), completed([["default", ["0"]]]));
  for (let i = 0; i < 2_000; i++) {
    const bytes = Buffer.from(whole);
    for (let n = random() % 8; n >= 0; n--) bytes[random() % bytes.length] = random();
    for (const path of (await read(bytes)).files) assert.ok(path.startsWith("/") && !path.includes("/../"));
  }
  for (const bytes of [[], [0], [255], Array(11).fill(255), [1, 7], ...[..."{}\n"].map((c) => [c.charCodeAt(0)])]) {
    assert.deepEqual((await read(Uint8Array.from(bytes))).files, []);
  }
  const huge = Buffer.concat([lengthPrefix(1, 2 ** 40).subarray(1), whole]);
  assert.equal((await read(huge)).whole, false);
});

Deno.test("a file is read in pieces of any size", async () => {
  const sets = Array.from({ length: 50 }, (_, i) => namedSet(`${i}`, [local("x".repeat(i * 7))], [`${i + 1}`]));
  const whole = eventFile(...sets, completed([["default", ["0"]]]));
  const expected = await read(whole, whole.length);
  assert.equal(expected.files.length, 50);
  for (const size of [1, 2, 3, 100, 1_000, whole.length - 1]) assert.deepEqual(await read(whole, size), expected);
});

Deno.test("of events without end no more is kept than a build's", async () => {
  const set = Buffer.from(namedSet("0", [file({ uri: `file:///${"x".repeat(1 << 20)}` })]));
  const piece = eventFile(set);
  let pieces = 0;
  const events = await readBuildEvents((function* () {
    for (; pieces < 1_000; pieces++) yield piece;
  })());
  assert.equal(events.whole, false);
  assert.ok(pieces < 200, `${pieces}`);
  // One event without end: all that is announced is looked at first.
  const long = await read(Buffer.concat([lengthPrefix(1, 1 << 30).subarray(1), piece]), 1 << 20);
  assert.equal(long.whole, false);
});
