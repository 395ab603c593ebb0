import assert from "node:assert/strict";
import { join } from "node:path";
import { ClassArchives } from "./class_archives.ts";

const KEYS = ["a", "b", "c", "d"].map((letter) => letter.repeat(32));

/** A folder of archives that goes with the scope. */
async function place(options: { max?: number; maxBytes?: number } = {}) {
  const root = await Deno.makeTempDir({ prefix: "rbs-agent-test-" });
  const archives = new ClassArchives({ directory: join(root, ".classes"), max: 2, ...options });
  archives.prepare();
  return {
    archives,
    /** Makes one of so many bytes, used so many seconds ago. */
    async make(key: string, bytes: number, secondsAgo = 0): Promise<void> {
      using turn = await archives.begin();
      assert(turn);
      const made = join(archives.making, "made");
      await Deno.writeFile(made, new Uint8Array(bytes).fill(1));
      archives.keep(key, made);
      const used = Date.now() / 1000 - secondsAgo;
      await Deno.utime(join(archives.kept, `${key}.json`), used, used);
    },
    names: () => Array.from(Deno.readDirSync(archives.kept), ({ name }) => name).sort(),
    [Symbol.asyncDispose]: () => Deno.remove(root, { recursive: true }),
  };
}

const both = (...keys: string[]) => keys.flatMap((key) => [`${key}.jsa`, `${key}.json`]);

Deno.test("an archive is found by its key, and by no other", async () => {
  await using it = await place();
  const [a, b] = KEYS;
  assert(it.archives.isWanted(a));
  await it.make(a, 10);
  assert.equal(it.archives.find(a), join(it.archives.kept, `${a}.jsa`));
  assert.equal((await Deno.stat(it.archives.find(a)!)).mode! & 0o777, 0o444);
  assert(!it.archives.isWanted(a));
  assert.equal(it.archives.find(b), undefined);
  assert(it.archives.isWanted(b));
});

Deno.test("of more archives than there may be, the one goes that was not used for longest", async () => {
  await using it = await place();
  const [a, b, c] = KEYS;
  await it.make(a, 10, 100);
  await it.make(b, 10, 50);
  // That one is used again.
  assert(it.archives.find(a));
  await it.make(c, 10);
  assert.deepEqual(it.names(), both(a, c));
});

Deno.test("of more bytes than there may be, those go that were not used for longest, and one that is too large is not kept", async () => {
  await using it = await place({ max: 10, maxBytes: 100 });
  const [a, b, c, d] = KEYS;
  await it.make(a, 40, 30);
  await it.make(b, 40, 20);
  await it.make(c, 40, 10);
  assert.deepEqual(it.names(), both(b, c));
  await assert.rejects(it.make(d, 101), /larger/);
  assert.deepEqual(it.names(), both(b, c));
});

Deno.test("an archive that was changed is used no more", async () => {
  for (const change of ["other", "", "more than before"]) {
    await using it = await place();
    const [a] = KEYS;
    await it.make(a, 10);
    const path = it.archives.find(a)!;
    await Deno.chmod(path, 0o644);
    await Deno.writeTextFile(path, change);
    assert.equal(it.archives.find(a), undefined);
    assert(it.archives.isWanted(a));
    assert.deepEqual(it.names(), []);
  }
});

Deno.test("an archive that was copied, with its content, is used", async () => {
  await using it = await place();
  const [a] = KEYS;
  await it.make(a, 10);
  const path = it.archives.find(a)!;
  await Deno.copyFile(path, `${path}.copy`);
  await Deno.rename(`${path}.copy`, path);
  assert.equal(it.archives.find(a), path);
});

Deno.test("what is left of makers that were killed goes, and what is no archive", async () => {
  await using it = await place();
  const [a, b, c] = KEYS;
  await it.make(a, 10);
  for (const name of [`${b}.jsa`, `${b}.${crypto.randomUUID()}`, "what is this"]) {
    await Deno.writeTextFile(join(it.archives.kept, name), "");
  }
  await Deno.mkdir(join(it.archives.making, "out"), { recursive: true });
  await it.make(c, 10);
  assert.deepEqual(it.names(), both(a, c));
  await assert.rejects(Deno.stat(it.archives.making), Deno.errors.NotFound);
});

Deno.test("one makes an archive at a time", async () => {
  await using it = await place();
  {
    using turn = await it.archives.begin();
    assert(turn);
    assert.equal(await it.archives.begin(), undefined);
  }
  using turn = await it.archives.begin();
  assert(turn);
});

Deno.test("what cannot be made is not tried by everybody, and tried again after an hour", async () => {
  await using it = await place();
  const [a] = KEYS;
  it.archives.giveUp(a, "no room");
  assert(!it.archives.isWanted(a));
  assert.equal(it.archives.find(a), undefined);
  const before = Date.now() / 1000 - 3601;
  await Deno.utime(join(it.archives.kept, `${a}.json`), before, before);
  assert(it.archives.isWanted(a));
});
