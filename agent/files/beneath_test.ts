import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { readFile } from "../../proto/tree/files.ts";
import { decodeName } from "../../proto/tree/names.ts";
import { Beneath } from "./beneath.ts";
import { exchanging } from "./testing.ts";
import { tempDir } from "../../tests/support/temp_dir.ts";

/** A folder with `in/`, which is held, and `secret` beside it. */
async function world() {
  const temp = await tempDir(), top = temp.path;
  Deno.mkdirSync(`${top}/in`);
  Deno.writeTextFileSync(`${top}/secret`, "key");
  const files = Beneath.open(`${top}/in`);
  return {
    top,
    files,
    at: (path: string) => `${top}/in/${path}`,
    async [Symbol.asyncDispose]() {
      files[Symbol.dispose]();
      await temp[Symbol.asyncDispose]();
    },
  };
}

const bytes = (text: string) => new Uint8Array(Buffer.from(text));
const text = (files: Beneath, path: string) => Buffer.from(readFile(files, path, 1000)).toString();

Deno.test("files are made, looked at, read, moved, copied and removed beneath a folder", async () => {
  await using world_ = await world();
  const { files, at } = world_;
  files.makeWay("a/b/c");
  files.writeNew("a/b/c/one", bytes("content"), 0o640, 1_700_000_000_123);
  const info = files.lstat("a/b/c/one");
  assert.equal(info.kind, "file");
  assert.equal(info.mode & 0o7777, 0o640);
  assert.equal(info.size, 7);
  assert.equal(info.mtimeMs, 1_700_000_000_123);
  const theirs = Deno.lstatSync(at("a/b/c/one"));
  assert.equal(info.ino, theirs.ino);
  assert.equal(Math.floor(info.ctimeMs / 1000) * 1000, Math.floor(theirs.ctime!.getTime() / 1000) * 1000);
  assert.equal(text(files, "a/b/c/one"), "content");
  assert.equal(Buffer.from(readFile(files, "a/b/c/one", 3)).toString(), "con");

  files.symlink("anywhere/at all", "a/link");
  assert.equal(files.lstat("a/link").target, "anywhere/at all");
  files.rename("a/b/c/one", "a/two");
  files.copy("a/two", "three");
  await files.copyLarge("a/two", "four");
  assert.equal(text(files, "three") + text(files, "four"), "contentcontent");
  files.chmod("three", 0o400);
  files.utime("three", -1500);
  assert.equal(files.lstat("three").mode & 0o7777, 0o400);
  assert.equal(files.lstat("three").mtimeMs, -1500);
  assert.deepEqual(files.names("").sort(), ["a", "four", "three"]);

  const raw = decodeName(Buffer.from([0x61, 0xff, 0x62]));
  files.writeNew(`a/${raw}`, bytes("raw"), 0o600, 0);
  assert.deepEqual(files.names("a").sort(), [raw, "b", "link", "two"].sort());
  assert.equal(text(files, `a/${raw}`), "raw");

  files.remove("a/link");
  assert.throws(() => files.remove("a"), /Directory not empty/);
  files.remove("a", { recursive: true });
  assert.throws(() => files.lstat("a"), Deno.errors.NotFound);
  assert.throws(() => files.lstat("a/two"), Deno.errors.NotFound);
});

Deno.test("a file is written to and read from where it stands", async () => {
  await using world_ = await world();
  const { files } = world_;
  {
    using file = files.create("f", 0o600);
    file.write(bytes("0123456789"));
    file.seek(4);
    file.write(bytes("xx"));
    file.truncate(8);
    file.utime(5000);
  }
  using file = files.update("f");
  const buffer = new Uint8Array(4);
  file.seek(3);
  assert.equal(file.read(buffer), 4);
  assert.equal(Buffer.from(buffer).toString(), "3xx6");
  assert.equal(file.stat().size, 8);
  assert.equal(file.stat().mtimeMs, 5000);
  assert.throws(() => files.create("f", 0o600), Deno.errors.AlreadyExists);
});

Deno.test("no symlink is followed, on the way or at the end, and nothing above the folder is reached", async () => {
  await using world_ = await world();
  const { files, top, at } = world_;
  Deno.symlinkSync(top, at("up"));
  Deno.symlinkSync("../secret", at("s"));
  for (
    const act of [
      () => files.open("s"),
      () => files.update("s"),
      () => files.open("up/secret"),
      () => files.lstat("up/secret"),
      () => files.names("up"),
      () => files.folder("up"),
      () => files.create("up/new", 0o600),
      () => files.mkdir("up/new"),
      () => files.makeWay("up/new/deep"),
      () => files.symlink("x", "up/new"),
      () => files.rename("up/secret", "mine"),
      () => files.rename("s", "up/new"),
      () => files.chmod("up/secret", 0o777),
      () => files.chmod("s", 0o777),
      () => files.copy("up/secret", "mine"),
      () => files.copy("s", "mine"),
      () => files.remove("up/secret"),
      () => files.remove("up/in", { recursive: true }),
      () => files.lstat("../secret"),
      () => files.open("../secret"),
      () => files.open("/etc/passwd"),
      () => files.names(".."),
      () => files.beneath("up"),
    ]
  ) assert.throws(act, Error, String(act));
  files.utime("s", 5000);
  assert.notEqual(Deno.statSync(`${top}/secret`).mtime!.getTime(), 5000);
  assert.equal(Deno.statSync(`${top}/secret`).mode! & 0o777, 0o644);
  files.remove("up", { recursive: true });
  files.remove("s");
  assert.deepEqual([...Deno.readDirSync(top)].map(({ name }) => name).sort(), ["in", "secret"]);
  assert.equal(Deno.readTextFileSync(`${top}/secret`), "key");
});

Deno.test("a fifo, a socket or a folder is not opened as a file, and holds nobody up", async () => {
  await using world_ = await world();
  const { files, at } = world_;
  await new Deno.Command("mkfifo", { args: [at("fifo")] }).output();
  using _socket = Deno.listen({ transport: "unix", path: at("socket") });
  Deno.mkdirSync(at("folder"));
  for (const name of ["fifo", "socket", "folder"]) {
    assert.throws(() => files.open(name), Error, name);
    assert.throws(() => files.update(name), Error, name);
  }
  assert.equal(files.lstat("fifo").kind, "other");
});

Deno.test("what is held from one operation to the next is the folder, wherever it is moved", async () => {
  await using world_ = await world();
  const { files, at, top } = world_;
  using kept = files.keeping();
  Deno.mkdirSync(at("d"));
  kept.writeNew("d/one", bytes("1"), 0o600, 0);
  Deno.renameSync(at("d"), at("moved"));
  Deno.symlinkSync(top, at("d"));
  kept.writeNew("d/two", bytes("2"), 0o600, 0);
  assert.equal(text(files, "moved/two"), "2");
  kept.doubt();
  assert.throws(() => kept.writeNew("d/three", bytes("3"), 0o600, 0), Deno.errors.NotADirectory);
  assert.deepEqual([...Deno.readDirSync(top)].map(({ name }) => name).sort(), ["in", "secret"]);
});

Deno.test("a folder is removed whatever its modes are, and however deep it is", async () => {
  await using world_ = await world();
  const { files, at } = world_;
  files.makeWay("x/y/z");
  files.writeNew("x/y/z/f", bytes(""), 0o400, 0);
  files.chmod("x/y/z", 0o500);
  files.chmod("x/y", 0o000);
  files.remove("x", { recursive: true });
  const deep = `Deno.mkdirSync("top"); Deno.chdir("top");
for (let i = 0; i < 1500; i++) { Deno.mkdirSync("d"); Deno.mkdirSync("e"); Deno.chdir("d"); }`;
  const made = await new Deno.Command(Deno.execPath(), { args: ["eval", deep], cwd: at("") }).output();
  assert.ok(made.success, new TextDecoder().decode(made.stderr));
  files.remove("top", { recursive: true });
  assert.deepEqual(files.names(""), []);
});

Deno.test("a folder that is exchanged for a symlink again and again gives nothing of what the symlink leads to", async () => {
  await using world_ = await world();
  const { files, at, top } = world_;
  Deno.mkdirSync(at("d"));
  Deno.writeTextFileSync(at("d/secret"), "own");
  Deno.symlinkSync(top, at("l"));
  await using _exchange = await exchanging(at("d"), at("l"));
  let own = 0, refused = 0;
  for (let i = 0; i < 2_000 || own === 0 || refused === 0; i++) {
    try {
      assert.equal(text(files, "d/secret"), "own");
      own++;
    } catch (e) {
      if (e instanceof assert.AssertionError) throw e;
      refused++;
    }
    try {
      files.writeNew(`d/w${i}`, bytes("w"), 0o600, 0);
    } catch { /* the symlink stood there */ }
  }
  assert.deepEqual([...Deno.readDirSync(top)].map(({ name }) => name).sort(), ["in", "secret"]);
});

Deno.test("files keep their holes when they are written and copied", async () => {
  await using world_ = await world();
  const { files, at } = world_;
  const content = new Uint8Array(6 << 20);
  content.set(bytes("in the middle"), 3 << 20);
  files.writeNew("one", content, 0o644, 0);
  files.copy("one", "two");
  await files.copyLarge("one", "three");
  files.create("hole", 0o644).truncate(1 << 20);
  await files.copyLarge("hole", "four");
  assert.equal(files.lstat("four").size, 1 << 20);
  for (const name of ["one", "two", "three"]) {
    assert.deepEqual(Buffer.compare(readFile(files, name, 8 << 20), content), 0, name);
  }
  for (const name of ["one", "two", "three", "four"]) {
    const { blocks } = Deno.statSync(at(name));
    assert.ok(blocks! * 512 <= 64 << 10, `${name} takes ${blocks} blocks`);
  }
});
