import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { TreeEntryKind, TreeEntrySchema } from "../contract/gen/rbs/v1/tree_pb.ts";
import { encodeFields } from "../base/protobuf_fields.ts";
import { random } from "../testing/pipe.ts";
import { makeName } from "../testing/trees.ts";
import { decodeEntry, encodeEntry, type Entry } from "./entry.ts";
import { encodeName, TreeError } from "./names.ts";

const KINDS = {
  file: TreeEntryKind.FILE,
  directory: TreeEntryKind.DIRECTORY,
  symlink: TreeEntryKind.SYMLINK,
};

function makeEntry(below: (n: number) => number): Entry {
  const path = Array.from({ length: 1 + below(4) }, () => makeName(below, true)).join("/");
  const kind = (["file", "directory", "symlink"] as const)[below(3)];
  const entry: Entry = { path, kind, mode: 0, size: 0, mtimeMs: 0 };
  if (kind === "symlink") return { ...entry, target: `../${makeName(below, true)}` };
  entry.mode = below(0o10000);
  if (kind === "directory") return entry;
  entry.size = [0, below(300), 2 ** 31 + below(9), 2 ** 40 + below(9), Number.MAX_SAFE_INTEGER][below(5)];
  entry.mtimeMs = [0, -1, 1, -below(2 ** 31), below(2 ** 31) * 800, 2 ** 51, -(2 ** 51) - 1][below(7)];
  if (below(2)) entry.digest = Buffer.from(Array.from({ length: 32 }, () => below(256)));
  return entry;
}

Deno.test("entries are encoded as the schema's own encoder does, and come back", () => {
  const below = random(1);
  for (let i = 0; i < 2000; i++) {
    const entry = makeEntry(below);
    const { kind, mode, size, mtimeMs, target = "", digest } = entry;
    const message = create(TreeEntrySchema, {
      path: encodeName(entry.path),
      kind: KINDS[kind],
      mode,
      size: BigInt(size),
      mtimeMs: BigInt(mtimeMs),
      target: encodeName(target),
      digest,
    });
    const encoded = encodeEntry(entry);
    assert.deepEqual(Buffer.from(encoded), Buffer.from(toBinary(TreeEntrySchema, message)));
    assert.deepEqual(decodeEntry(encoded), entry);
    const absolute = encodeEntry({ ...entry, path: `/${entry.path}` });
    assert.deepEqual(decodeEntry(absolute, { absolute: true }), { ...entry, path: `/${entry.path}` });
    assert.throws(() => decodeEntry(absolute), TreeError);
    assert.throws(() => decodeEntry(encoded, { absolute: true }), TreeError);
  }
});

Deno.test("a decoded digest keeps nothing of its message in memory", () => {
  const message = Buffer.alloc(1 << 20);
  const encoded = encodeEntry({ path: "a", kind: "file", mode: 0, size: 0, mtimeMs: 0, digest: Buffer.alloc(32, 7) });
  message.set(encoded);
  const { digest } = decodeEntry(message.subarray(0, encoded.length));
  message.fill(0);
  assert.deepEqual(Buffer.from(digest!), Buffer.alloc(32, 7));
  assert.notEqual(digest!.buffer, message.buffer);
});

Deno.test("entries that no honest peer sends are refused", () => {
  type Fields = Parameters<typeof encodeFields>[0];
  const refused: Record<string, Fields> = {
    "no path": [[2, 1]],
    "a path that leads out": [[1, "a/../../b"], [2, 1]],
    "an absolute path": [[1, "/a"], [2, 1]],
    "no kind": [[1, "a"]],
    "an unknown kind": [[1, "a"], [2, 4]],
    "a mode with a file type": [[1, "a"], [2, 1], [3, 0o20644]],
    "a size beyond 2^53": [[1, "a"], [2, 1], [4, 2 ** 60]],
    "a time beyond all times": [[1, "a"], [2, 1], [5, 2 ** 60]],
    "a short digest": [[1, "a"], [2, 1], [7, new Uint8Array(31)]],
    "a long digest": [[1, "a"], [2, 1], [7, new Uint8Array(33)]],
    "a symlink to nothing": [[1, "a"], [2, 3]],
    "a symlink to a NUL": [[1, "a"], [2, 3], [6, "b\0c"]],
    "a symlink to a path that is too long": [[1, "a"], [2, 3], [6, "x".repeat(4096)]],
    "a file with a target": [[1, "a"], [2, 1], [6, "b"]],
    "a folder with a target": [[1, "a"], [2, 2], [6, "b"]],
    "a path of a number": [[1, 5], [2, 1]],
  };
  for (const [what, fields] of Object.entries(refused)) {
    assert.throws(() => decodeEntry(encodeFields(fields)), TreeError, what);
  }
});

Deno.test("bytes that are no entry are refused, and never taken for another path than the schema's own decoder sees", () => {
  const below = random(2);
  let taken = 0;
  for (let i = 0; i < 20_000; i++) {
    const bytes = Buffer.from(encodeEntry(makeEntry(below)));
    for (let flips = 1 + below(3); flips > 0; flips--) bytes[below(bytes.length)] = below(256);
    const cut = below(4) ? bytes : bytes.subarray(0, below(bytes.length));
    let entry: Entry;
    try {
      entry = decodeEntry(cut);
    } catch (e) {
      assert.ok(e instanceof TreeError, String(e));
      continue;
    }
    taken++;
    assert.deepEqual(Buffer.from(encodeName(entry.path)), Buffer.from(fromBinary(TreeEntrySchema, cut).path));
  }
  assert.ok(taken > 100);
});

Deno.test("a field of a newer peer is left out", () => {
  const entry: Entry = { path: "a", kind: "directory", mode: 0o755, size: 0, mtimeMs: 0 };
  const newer = Buffer.concat([encodeFields([[20, "new"], [21, 5]]), encodeEntry(entry)]);
  assert.deepEqual(decodeEntry(newer), entry);
});
