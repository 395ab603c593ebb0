import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import type { Files } from "../../proto/tree/files.ts";
import { localFiles } from "../../proto/tree/local_files.ts";
import { tempDir } from "../../tests/support/temp_dir.ts";
import { DigestCache, type Stat } from "./digest_cache.ts";

const sha256 = (text: string) => createHash("sha256").update(text).digest();

function stat(path: string): Stat {
  const info = Deno.lstatSync(path);
  return {
    ino: info.ino!,
    size: info.size,
    mtimeMs: info.mtime!.getTime(),
    ctimeMs: info.ctime!.getTime(),
  };
}

Deno.test("a digest is that of the content, also right after a change that no time or size shows", async () => {
  await using directory = await tempDir();
  const path = directory.join("f"), cache = new DigestCache(localFiles);
  for (const text of ["one", "two", "six", "ten"]) {
    Deno.writeTextFileSync(path, text);
    Deno.utimeSync(path, 1, 1);
    assert.deepEqual(await cache.digest(path, stat(path)), sha256(text));
  }
});

Deno.test("a file that has been at rest is not read again", async () => {
  await using directory = await tempDir();
  const path = directory.join("f");
  Deno.writeTextFileSync(path, "content");
  // As if it had been written long ago: times lie in what is looked at, not in the file.
  const old: Files = {
    ...localFiles,
    open(path) {
      const file = localFiles.open(path), stat = file.stat();
      file.stat = () => ({ ...stat, ctimeMs: 0 });
      return file;
    },
  };
  const cache = new DigestCache(old);
  const seen = { ...stat(path), ctimeMs: 0 };
  assert.deepEqual(await cache.digest(path, seen), sha256("content"));
  Deno.removeSync(path);
  assert.deepEqual(await cache.digest(path, seen), sha256("content"));
  assert.equal(await cache.digest(path, { ...seen, size: 1 }), undefined);
});

Deno.test("a file that changes while it is looked at gets the digest and the size that it has in the end", async () => {
  await using directory = await tempDir();
  const path = directory.join("f"), cache = new DigestCache(localFiles);
  Deno.writeTextFileSync(path, "one");
  const before = stat(path);
  Deno.writeTextFileSync(path, "more than one");
  assert.deepEqual(await cache.digest(path, before), sha256("more than one"));
  assert.equal(before.size, 13);
});

Deno.test("a file that is gone has no digest; large and empty ones have", async () => {
  await using directory = await tempDir();
  const path = directory.join("f"), cache = new DigestCache(localFiles);
  assert.equal(await cache.digest(path, { ino: 1, size: 1, mtimeMs: 1, ctimeMs: 1 }), undefined);
  for (const text of ["", "x".repeat(5 << 20)]) {
    Deno.writeTextFileSync(path, text);
    assert.deepEqual(await cache.digest(path, stat(path)), sha256(text));
  }
});
