import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { constants, zstdCompressSync } from "node:zlib";
import { Compression, FileBatchSchema, RecordsSchema, TreeEntrySchema } from "../contract/gen/rbs/v1/tree_pb.ts";
import { encodeFields } from "../base/protobuf_fields.ts";
import { random } from "../testing/pipe.ts";
import { makeName } from "../testing/trees.ts";
import { BatchEncoder, decodeBatch, MAX_BATCH_BYTES, MAX_CONTENT_BYTES, type TreeRecord } from "./batch.ts";
import { encodeEntry } from "./entry.ts";
import { encodeName, TreeError } from "./names.ts";

const DIGEST = Buffer.alloc(32, 1);

function makeRecord(below: (n: number) => number): TreeRecord {
  const path = `${makeName(below, true)}/${makeName(below)}`;
  if (below(5) === 0) return { remove: path };
  const content = Buffer.alloc([0, 3, below(300), 70_000][below(4)], "some text that repeats itself");
  if (below(5) === 0) return { content, more: below(2) > 0, digest: DIGEST };
  const entry = { path, kind: "file", mode: 0o644, size: content.length, mtimeMs: 5 } as const;
  if (below(5) === 0) return { entry: { ...entry, digest: DIGEST }, copyFrom: makeName(below) };
  if (below(3) === 0) return { entry: { ...entry, kind: "directory", size: 0, mtimeMs: 0 } };
  return { entry, content, more: true, offset: below(2) * 2 ** 33 };
}

/** A record without the values that stand for nothing. */
function essence(record: TreeRecord): TreeRecord {
  const { content, more, offset, ...rest } = record;
  return { ...rest, content: content?.length ? Buffer.from(content) : undefined, more: !!more, offset: offset || 0 };
}

/** A FileBatch of which nothing is checked. */
function batch(records: Uint8Array, { compression = 0, size = records.length, packed = records } = {}): Uint8Array {
  return encodeFields([[1, compression], [2, size], [3, packed]]);
}

type Fields = Parameters<typeof encodeFields>[0];
const recordsOf = (...records: Fields[]) => encodeFields(records.map((fields) => [1, encodeFields(fields)]));
const FILE = encodeEntry({ path: "a", kind: "file", mode: 0o644, size: 0, mtimeMs: 0 });
const FOLDER = encodeEntry({ path: "a", kind: "directory", mode: 0o755, size: 0, mtimeMs: 0 });

Deno.test("records come out of batches as they went in, and as the schema's own code sees them", () => {
  for (let seed = 0; seed < 20; seed++) {
    const below = random(seed);
    const encoder = new BatchEncoder({ bytes: [1, 1000, 100_000, undefined][below(4)] });
    encoder.compress = below(2) > 0;
    const records = Array.from({ length: 100 }, () => makeRecord(below));
    const batches = [...records.map((r) => encoder.add(r)), encoder.flush(), encoder.flush()].filter((b) => b);
    const decoded = batches.flatMap((b) => decodeBatch(b!));
    assert.deepEqual(decoded.map(essence), records.map(essence), `seed ${seed}`);

    const none = new BatchEncoder({ bytes: 16 << 20 });
    records.forEach((r) => none.add(r));
    const message = fromBinary(FileBatchSchema, none.flush()!);
    assert.equal(message.compression, Compression.NONE);
    assert.equal(message.unpackedSize, message.records.length);
    const theirs = fromBinary(RecordsSchema, message.records);
    const expected = create(RecordsSchema, {
      records: records.map(({ entry, content, more, offset, digest, remove, copyFrom }) => ({
        entry: entry && fromBinary(TreeEntrySchema, encodeEntry(entry)),
        content,
        more,
        offset: BigInt(offset ?? 0),
        digest,
        remove: remove === undefined ? undefined : encodeName(remove),
        copyFrom: copyFrom === undefined ? undefined : encodeName(copyFrom),
      })),
    });
    assert.ok(Buffer.from(toBinary(RecordsSchema, expected)).equals(message.records), `seed ${seed}`);
    assert.equal(theirs.records.length, records.length);
  }
});

Deno.test("a batch is compressed only where it helps", () => {
  const encode = (content: Uint8Array) => {
    const encoder = new BatchEncoder();
    encoder.compress = true;
    encoder.add({ content });
    return encoder.flush()!;
  };
  const noise = crypto.getRandomValues(new Uint8Array(60_000));
  assert.equal(fromBinary(FileBatchSchema, encode(noise)).compression, Compression.NONE);
  const text = Buffer.alloc(500_000, "int main() { return 0; }\n");
  const packed = encode(text);
  assert.ok(packed.length < 5000);
  assert.deepEqual(Buffer.from(decodeBatch(packed)[0].content!), text);
});

Deno.test("contents are views, not copies", () => {
  const message = new BatchEncoder({ bytes: 1 }).add({ content: Buffer.from("hello") })!;
  assert.equal(decodeBatch(message)[0].content!.buffer, message.buffer);
});

Deno.test("content is read straight into its batch; if that fails, nothing of its record is there", () => {
  const encoder = new BatchEncoder();
  const entry = (path: string, size: number) => ({ path, kind: "file" as const, mode: 0o644, size, mtimeMs: 0 });
  const large = MAX_CONTENT_BYTES;
  encoder.add({ entry: entry("a", 3), content: { length: 3, read: (into) => into.set([1, 2, 3]) } });
  const broken = { length: 5, read: () => assert.fail("the file is gone") };
  assert.throws(() => encoder.add({ entry: entry("b", 5), content: broken }), /the file is gone/);
  const batch = encoder.add({ entry: entry("c", large), content: { length: large, read: (into) => into.fill(7) } })!;
  const records = decodeBatch(batch);
  assert.deepEqual(records.map(({ entry }) => entry!.path), ["a", "c"]);
  assert.deepEqual([...records[0].content!], [1, 2, 3]);
  assert.ok(records[1].content!.length === large && records[1].content!.every((byte) => byte === 7));
});

Deno.test("a batch that would unpack to more than it says, or may, is refused before it does", () => {
  const bomb = zstdCompressSync(new Uint8Array(256 << 20));
  const refused = [
    batch(bomb, { compression: 1, size: 256 << 20 }),
    batch(bomb, { compression: 1, size: MAX_BATCH_BYTES }),
    batch(bomb, { compression: 1, size: 0 }),
    batch(zstdCompressSync(recordsOf([[6, "a"]])), { compression: 1, size: 4 }),
    batch(zstdCompressSync(recordsOf([[6, "a"]])), { compression: 1, size: 6 }),
    batch(recordsOf([[6, "a"]]), { size: 4 }),
    batch(new Uint8Array(MAX_BATCH_BYTES + 1)),
    // It would take 128 MiB to unpack these few bytes.
    batch(zstdCompressSync(recordsOf([[6, "a"]]), { params: { [constants.ZSTD_c_windowLog]: 27 } }), {
      compression: 1,
      size: 5,
    }),
    batch(Buffer.from("this is not zstd"), { compression: 1 }),
    batch(recordsOf([[6, "a"]]), { compression: 2 }),
  ];
  const before = Deno.memoryUsage().rss;
  for (const message of refused) assert.throws(() => decodeBatch(message), TreeError);
  assert.ok(Deno.memoryUsage().rss - before < 64 << 20);
  assert.equal(decodeBatch(batch(zstdCompressSync(recordsOf([[6, "a"]])), { compression: 1, size: 5 })).length, 1);
});

Deno.test("a batch of more records than fit is refused", () => {
  assert.throws(() => decodeBatch(batch(Buffer.alloc(400_000, Buffer.from([0x0a, 0])))), TreeError);
});

Deno.test("records that no honest peer sends are refused", () => {
  const refused: Record<string, Fields> = {
    "a removal that leads out": [[6, "../a"]],
    "a removal of everything": [[6, "."]],
    "a copy from outside": [[1, FILE], [7, "../a"]],
    "a copy from an absolute path": [[1, FILE], [7, "/etc/passwd"]],
    "a copy of nothing": [[7, "b"]],
    "a copy with content": [[1, FILE], [2, "x"], [7, "b"]],
    "a removal with an entry": [[1, FILE], [6, "b"]],
    "a removal with content": [[2, "x"], [6, "b"]],
    "a folder with content": [[1, FOLDER], [2, "x"]],
    "a folder of which more comes": [[1, FOLDER], [3, 1]],
    "a copied folder": [[1, FOLDER], [7, "b"]],
    "an offset beyond 2^53": [[1, FILE], [4, 2 ** 60]],
    "a digest of 31 bytes": [[1, FILE], [5, new Uint8Array(31)]],
    "a bad entry": [[1, encodeFields([[1, "a/.."], [2, 1]])]],
    "content that is a number": [[2, 5]],
  };
  for (const [what, fields] of Object.entries(refused)) {
    assert.throws(() => decodeBatch(batch(recordsOf(fields))), TreeError, what);
  }
});

Deno.test("bytes that are no batch are refused with a TreeError, whatever they are", () => {
  const below = random(3);
  for (let i = 0; i < 3000; i++) {
    const encoder = new BatchEncoder();
    encoder.compress = below(2) > 0;
    for (let n = below(4); n >= 0; n--) encoder.add(makeRecord(below));
    const bytes = Buffer.from(encoder.flush()!);
    for (let flips = 1 + below(4); flips > 0; flips--) bytes[below(Math.min(bytes.length, 200))] = below(256);
    try {
      decodeBatch(below(4) ? bytes : bytes.subarray(0, below(bytes.length)));
    } catch (e) {
      assert.ok(e instanceof TreeError, String(e));
    }
  }
});

Deno.test("names of bytes that are not UTF-8 cost no more than others", () => {
  /** Milliseconds for a path that is too long, and for many names, of one byte. */
  const cost = (byte: number) => {
    const start = performance.now();
    const path = Buffer.alloc(MAX_BATCH_BYTES - 100, byte);
    assert.throws(() => decodeBatch(batch(recordsOf([[6, path]]))), /is too long/);
    const many = Array.from({ length: 1000 }, (): Fields => [[6, Buffer.alloc(250, byte)]]);
    assert.equal(decodeBatch(batch(recordsOf(...many))).length, 1000);
    return performance.now() - start;
  };
  // What would be quadratic takes thousands of times as long. A busy machine slows both.
  const raw = cost(0xe0), plain = cost(0x61);
  assert.ok(raw < 200 * plain + 1_000, `${raw} ms, and ${plain} ms for others`);
});
