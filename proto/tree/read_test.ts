import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { createHash, randomBytes } from "node:crypto";
import { RbsError } from "../base/errors.ts";
import { tempDir } from "../../tests/support/temp_dir.ts";
import { decodeName } from "./names.ts";
import { renameSync } from "./file_calls.ts";
import { digestFile, digestLarge, FileChanged, PIECE_BYTES, readLarge, readSmall } from "./read.ts";
import { lookAt, type ScannedEntry } from "./scan.ts";
import { localFiles } from "./local_files.ts";

const sha256 = (content: Uint8Array) => createHash("sha256").update(content).digest();
const RAW = decodeName(Uint8Array.of(0x66, 0xff));

Deno.test("a file is read with its digest, whatever its size and name", async () => {
  await using directory = await tempDir();
  for (const name of ["file", RAW]) {
    for (const size of [0, 1, 10_000, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES, 17 << 20]) {
      const content = randomBytes(size);
      Deno.writeFileSync(directory.join("new"), content);
      renameSync(directory.join("new"), directory.join(name));
      assert.deepEqual(Buffer.from(digestFile(localFiles, directory.join(name))), sha256(content));
      if (size <= PIECE_BYTES) {
        const read = readSmall(localFiles, directory.path, name)!;
        assert.ok(content.equals(read.content));
        assert.deepEqual(Buffer.from(read.entry.digest!), sha256(content));
        assert.equal(read.entry.size, size);
      } else assert.equal(readSmall(localFiles, directory.path, name), undefined);
      const entry = (await digestLarge(localFiles, directory.path, name))!;
      assert.deepEqual(Buffer.from(entry.digest!), sha256(content));
      assert.ok(Buffer.concat([...readLarge(localFiles, directory.path, entry)]).equals(content));
      const offset = Math.floor(size / 2);
      assert.ok(
        Buffer.concat([...readLarge(localFiles, directory.path, entry, offset)]).equals(content.subarray(offset)),
      );
    }
  }
});

Deno.test("what is no file, or none any more, is not read", async () => {
  await using directory = await tempDir();
  Deno.mkdirSync(directory.join("folder"));
  Deno.writeTextFileSync(directory.join("file"), "x");
  Deno.symlinkSync("file", directory.join("link"));
  for (const path of ["gone", "folder", "link", "file/x"]) {
    assert.equal(readSmall(localFiles, directory.path, path), undefined, path);
    assert.equal(await digestLarge(localFiles, directory.path, path), undefined, path);
  }
});

/** Calls `change` when a file was opened for reading, as if somebody else wrote it at that moment. */
function whenOpened(change: (times: number) => void): Disposable {
  const open = Deno.openSync;
  let times = 0;
  Deno.openSync = (path, options) => {
    const file = open(path, options);
    change(++times);
    return file;
  };
  return { [Symbol.dispose]: () => void (Deno.openSync = open) };
}

Deno.test("a file that changes while it is read is read again", async () => {
  await using directory = await tempDir();
  const path = directory.join("file");
  Deno.writeTextFileSync(path, "one");
  Deno.utimeSync(path, 1, 1);
  {
    using _ = whenOpened((times) => times === 1 && Deno.writeTextFileSync(path, "two"));
    assert.equal(Buffer.from(readSmall(localFiles, directory.path, "file")!.content).toString(), "two");
  }
  {
    // Replaced: what was opened is the file before.
    using _ = whenOpened((times) => {
      if (times > 1) return;
      Deno.writeTextFileSync(`${path}.new`, "six");
      Deno.renameSync(`${path}.new`, path);
    });
    assert.equal(Buffer.from(readSmall(localFiles, directory.path, "file")!.content).toString(), "six");
  }
  {
    using _ = whenOpened((times) => times === 1 && Deno.writeTextFileSync(path, "longer than before"));
    const entry = (await digestLarge(localFiles, directory.path, "file"))!;
    assert.deepEqual(Buffer.from(entry.digest!), sha256(Buffer.from("longer than before")));
    assert.equal(entry.size, 18);
  }
  {
    using _ = whenOpened((times) => Deno.writeTextFileSync(path, "x".repeat(times)));
    assert.throws(
      () => readSmall(localFiles, directory.path, "file"),
      (e) => e instanceof RbsError && /changes each/.test(e.message),
    );
    await assert.rejects(digestLarge(localFiles, directory.path, "file"), RbsError);
  }
  {
    using _ = whenOpened(() => Deno.removeSync(path));
    assert.equal(readSmall(localFiles, directory.path, "file"), undefined);
  }
});

Deno.test("a large file that is not what it was is noticed before its end was sent", async () => {
  await using directory = await tempDir();
  const path = directory.join("file");
  const changes: ((entry: ScannedEntry) => void)[] = [
    () => Deno.truncateSync(path, 5),
    () => Deno.writeFileSync(path, randomBytes(1), { append: true }),
    () => Deno.utimeSync(path, 5, 5),
    () => Deno.removeSync(path),
  ];
  for (const change of changes) {
    Deno.writeFileSync(path, randomBytes(3 * PIECE_BYTES));
    const entry = lookAt(localFiles, directory.path, "file") as ScannedEntry;
    const pieces = readLarge(localFiles, directory.path, entry);
    pieces.next();
    change(entry);
    assert.throws(() => [...pieces], FileChanged);
  }
  assert.throws(() => [...readLarge(localFiles, directory.path, { path: "file" } as ScannedEntry)], FileChanged);
});

Deno.test("a digest is given up when its signal says so", async () => {
  await using directory = await tempDir();
  Deno.writeFileSync(directory.join("file"), randomBytes(40 * PIECE_BYTES));
  const stop = new AbortController();
  const onBytes = () => stop.abort();
  await assert.rejects(digestLarge(localFiles, directory.path, "file", { signal: stop.signal, onBytes }), {
    name: "AbortError",
  });
});
