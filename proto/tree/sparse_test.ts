import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { createHash, randomBytes } from "node:crypto";
import fc from "fast-check";
import { tempDir } from "../../tests/support/temp_dir.ts";
import type { Entry } from "./entry.ts";
import { localFiles } from "./local_files.ts";
import { dataRanges, writeSparse } from "./sparse.ts";
import { TreeWriter } from "./writer.ts";

const MB = 1 << 20;
const sha256 = (content: Uint8Array) => createHash("sha256").update(content).digest();
const fileEntry = (path: string, content: Uint8Array): Entry => ({
  ...{ path, kind: "file", mode: 0o644, size: content.length, mtimeMs: 1_700_000_000_000, digest: sha256(content) },
});

/** Mostly zeros, with something at the beginning, in the middle and at the end, or not. */
function withHoles(size: number, ...at: number[]): Uint8Array<ArrayBuffer> {
  const content = new Uint8Array(size);
  for (const offset of at) content.set(Buffer.from("data"), offset);
  return content;
}

Deno.test("long runs of zeros are left out, and shorter ones and other content are not", () => {
  assert.equal(dataRanges(randomBytes(MB)), undefined);
  assert.equal(dataRanges(new Uint8Array(8 << 10)), undefined);
  assert.deepEqual(dataRanges(new Uint8Array(MB)), []);
  assert.deepEqual(dataRanges(withHoles(MB, 0, 600_000)), [{ start: 0, end: 4096 }, { start: 598_016, end: 602_112 }]);
  // Where it begins in its file counts, as blocks do.
  assert.deepEqual(dataRanges(withHoles(64 << 10, 0), 100), [{ start: 0, end: 3996 }]);
  assert.deepEqual(dataRanges(withHoles(64 << 10, (64 << 10) - 4)), [{ start: 60 << 10, end: 64 << 10 }]);
});

Deno.test("whatever the parts that a file comes in, it has its content", async () => {
  await using dir = await tempDir();
  let count = 0;
  const part = fc.record({
    zeros: fc.integer({ min: 0, max: 70_000 }),
    data: fc.integer({ min: 0, max: 9_000 }),
  });
  fc.assert(
    fc.property(fc.array(fc.array(part, { maxLength: 4 }), { maxLength: 4 }), (pieces) => {
      const contents = pieces.map((parts) =>
        Buffer.concat(parts.flatMap(({ zeros, data }) => [Buffer.alloc(zeros), Buffer.alloc(data, 7)]))
      );
      const path = dir.join(`${count++}`);
      {
        using file = localFiles.create(path, 0o600);
        let at = 0;
        for (const content of contents) {
          writeSparse(file, Uint8Array.from(content), at);
          at += content.length;
        }
      }
      assert.equal(Buffer.compare(Deno.readFileSync(path), Buffer.concat(contents)), 0);
    }),
    { numRuns: 60 },
  );
});

Deno.test("a sparse file is one wherever it arrives: small, in parts, whole, copied", async () => {
  await using dir = await tempDir();
  const root = dir.join("root");
  const writer = new TreeWriter({ files: localFiles, root, staging: dir.join("staging") });
  const small = withHoles(200_000, 150_000), large = withHoles(12 * MB, 0, 7 * MB), end = withHoles(3 * MB, 0);
  writer.apply({ entry: fileEntry("unused", small), content: small }, { unused: true });
  writer.apply({ entry: fileEntry("small", small), content: small });
  for (let at = 0; at < large.length; at += MB) {
    const more = at + MB < large.length, content = large.subarray(at, at + MB);
    writer.apply(at === 0 ? { entry: fileEntry("parts", large), content, more } : { content, more });
  }
  await writer.place(fileEntry("whole", large), large);
  await writer.place(fileEntry("end", end), end);
  await writer.apply({ entry: fileEntry("copy", large), copyFrom: "parts", digest: sha256(large) });
  await writer.apply({ entry: fileEntry("copied end", end), copyFrom: "end", digest: sha256(end) });
  writer.close();
  for (
    const [name, content] of Object.entries({
      ...{ unused: small, small, parts: large, whole: large, copy: large, end, "copied end": end },
    })
  ) {
    const { blocks, mode, mtime } = Deno.statSync(`${root}/${name}`);
    assert.equal(Buffer.compare(Deno.readFileSync(`${root}/${name}`), content), 0, name);
    assert.ok(blocks! * 512 <= 64 << 10, `${name} takes ${blocks} blocks`);
    assert.deepEqual([mode! & 0o7777, mtime!.getTime()], [0o644, 1_700_000_000_000], name);
  }
});
