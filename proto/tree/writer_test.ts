import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { createHash, randomBytes } from "node:crypto";
import { RbsError } from "../base/errors.ts";
import { type TempDir, tempDir } from "../../tests/support/temp_dir.ts";
import type { TreeRecord } from "./batch.ts";
import type { Entry } from "./entry.ts";
import { TreeError } from "./names.ts";
import { readdirSync } from "./file_calls.ts";
import { TreeWriter } from "./writer.ts";
import { localFiles } from "./local_files.ts";

const sha256 = (content: Uint8Array) => createHash("sha256").update(content).digest();

/** A tree with something beside it that nobody may touch. */
class Place implements AsyncDisposable {
  readonly root: string;
  readonly staging: string;
  #writer?: TreeWriter;

  private constructor(readonly directory: TempDir) {
    this.root = directory.join("root");
    this.staging = directory.join("staging");
    Deno.mkdirSync(directory.join("canary/folder"), { recursive: true });
    Deno.writeTextFileSync(directory.join("canary/file"), "untouched");
    Deno.writeTextFileSync(directory.join("canary/folder/file"), "untouched");
  }

  static async make(): Promise<Place> {
    return new Place(await tempDir());
  }

  get writer(): TreeWriter {
    return this.#writer ??= new TreeWriter({ ...this, files: localFiles });
  }

  apply(...records: TreeRecord[]): void {
    for (const record of records) assert.equal(this.writer.apply(record), undefined, "it takes long");
  }

  /** The same for records that may take long. */
  async applyLong(...records: TreeRecord[]): Promise<void> {
    for (const record of records) await this.writer.apply(record);
  }

  close(): void {
    this.writer.close();
    this.#writer = undefined;
  }

  /** Fails if anything beside the tree was touched. */
  check(): void {
    const beside = this.directory.join("canary");
    assert.deepEqual(readdirSync(beside).sort(), ["file", "folder"]);
    assert.deepEqual(readdirSync(`${beside}/folder`), ["file"]);
    for (const file of ["file", "folder/file"]) {
      assert.equal(Deno.readTextFileSync(`${beside}/${file}`), "untouched");
      assert.equal(Deno.statSync(`${beside}/${file}`).mode! & 0o777, 0o644);
    }
    assert.equal(Deno.statSync(`${beside}/folder`).mode! & 0o777, 0o755);
    assert.deepEqual(readdirSync(this.directory.path).sort(), ["canary", "root", "staging"]);
  }

  get staged(): string[] {
    return readdirSync(this.staging);
  }

  text(path: string): string {
    return Deno.readTextFileSync(`${this.root}/${path}`);
  }

  mode(path: string): number {
    return Deno.lstatSync(`${this.root}/${path}`).mode! & 0o7777;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.directory[Symbol.asyncDispose]();
  }
}

function file(path: string, text: string | Uint8Array, more: Partial<Entry> = {}): TreeRecord & { entry: Entry } {
  const content = Buffer.from(text);
  const entry = { mode: 0o644, size: content.length, mtimeMs: 1_700_000_000_123, digest: sha256(content), ...more };
  return { entry: { path, kind: "file", ...entry }, content };
}

function folder(path: string, mode = 0o755): TreeRecord {
  return { entry: { path, kind: "directory", mode, size: 0, mtimeMs: 0 } };
}

function link(path: string, target: string): TreeRecord {
  return { entry: { path, kind: "symlink", mode: 0, size: 0, mtimeMs: 0, target } };
}

function copy(path: string, copyFrom: string, text: string, more: Partial<Entry> = {}): TreeRecord {
  return { entry: file(path, text, more).entry, copyFrom };
}

/** A file in pieces. */
function pieces(path: string, content: Uint8Array, size = 512 << 10, offset = 0): TreeRecord[] {
  const { entry } = file(path, content);
  const records: TreeRecord[] = [];
  for (let at = offset; at < content.length; at += size) {
    const more = at + size < content.length;
    records.push({ content: content.subarray(at, at + size), more });
  }
  if (records.length === 0) records.push({ content: new Uint8Array() });
  Object.assign(records[0], { entry, offset });
  return records;
}

Deno.test("files get their content, mode and time, and missing folders are made", async () => {
  await using place = await Place.make();
  const before = Deno.umask(0o077);
  try {
    place.apply(file("a/b/c", "text", { mode: 0o755 }), file("empty", "", { mode: 0o666, mtimeMs: -1500 }));
    place.apply(file("read-only", "x", { mode: 0o444 }), ...pieces("large", Buffer.alloc(700_000, 7)));
    place.close();
  } finally {
    Deno.umask(before);
  }
  assert.equal(place.text("a/b/c"), "text");
  assert.deepEqual(["a/b/c", "empty", "read-only", "large"].map((p) => place.mode(p)), [0o755, 0o666, 0o444, 0o644]);
  assert.equal(Deno.statSync(`${place.root}/a/b/c`).mtime!.getTime(), 1_700_000_000_123);
  assert.equal(Deno.statSync(`${place.root}/empty`).mtime!.getTime(), -1500);
  assert.equal(Deno.statSync(`${place.root}/large`).mtime!.getTime(), 1_700_000_000_123);
  assert.deepEqual(place.staged, []);
});

Deno.test("anything takes the place of anything", async () => {
  await using place = await Place.make();
  const kinds: Record<string, TreeRecord[]> = {
    file: [file("x", "file")],
    "another file": [file("x", "other", { mode: 0o400 })],
    "an empty folder": [folder("x")],
    "a full folder": [folder("x"), file("x/y/z", "deep"), link("x/l", "y"), folder("x/closed", 0o500)],
    "a closed folder": [folder("x", 0o500), file("x/w", "in it")],
    "a link": [link("x", "../canary")],
    "a link to nothing": [link("x", "nowhere")],
    nothing: [{ remove: "x" }],
  };
  for (const [a, first] of Object.entries(kinds)) {
    for (const [b, second] of Object.entries(kinds)) {
      for (const closed of [true, false]) {
        const what = `${b} after ${a}`;
        place.apply(...first);
        if (closed) place.close();
        place.apply(...second);
        place.close();
        await using expected = await Place.make();
        expected.apply(...second);
        expected.close();
        const list = (root: string, at = ""): string[] =>
          readdirSync(`${root}${at}`).sort().flatMap((name) => {
            const path = `${at}/${name}`, info = Deno.lstatSync(root + path);
            const content = info.isFile ? Deno.readTextFileSync(root + path) : "";
            const line = `${path} ${info.isSymlink ? Deno.readLinkSync(root + path) : info.mode} ${content}`;
            return info.isDirectory ? [line, ...list(root, path)] : [line];
          });
        const found = list(place.root);
        // A folder keeps what is in it: an entry says nothing about what is below.
        if (!(/folder/.test(a) && /folder/.test(b))) assert.deepEqual(found, list(expected.root), what);
        else for (const line of list(expected.root)) assert.ok(found.includes(line), what);
        assert.deepEqual(place.staged, []);
        place.apply({ remove: "x" });
      }
    }
  }
  place.check();
});

Deno.test("a folder that cannot be written still gets its files, and its mode in the end", async () => {
  await using place = await Place.make();
  place.apply(folder("a", 0o555), folder("a/b", 0o500), file("a/b/c", "1"), link("a/l", "b"));
  place.close();
  assert.deepEqual([place.mode("a"), place.mode("a/b")], [0o555, 0o500]);
  place.apply(file("a/b/c", "2"), file("a/b/d", "3"), { remove: "a/l" });
  place.close();
  assert.deepEqual([place.mode("a"), place.mode("a/b")], [0o555, 0o500]);
  assert.deepEqual([place.text("a/b/c"), place.text("a/b/d")], ["2", "3"]);
  place.apply(folder("a/b", 0o755), { remove: "a/b/d" });
  place.close();
  assert.deepEqual([place.mode("a"), place.mode("a/b")], [0o555, 0o755]);
  place.apply({ remove: "a" });
  place.close();
  assert.deepEqual(readdirSync(place.root), []);
});

Deno.test("names that differ in case only are different names", async () => {
  await using place = await Place.make();
  place.apply(file("Makefile", "x"), copy("makefile", "Makefile", "x"), { remove: "Makefile" });
  assert.deepEqual(readdirSync(place.root), ["makefile"]);
  place.apply(folder("src"), file("src/A", "1"), folder("Src"), copy("Src/A", "src/A", "1"), { remove: "src" });
  assert.deepEqual(readdirSync(place.root).sort(), ["Src", "makefile"]);
});

Deno.test("names that are not UTF-8 are written, copied and removed", async () => {
  await using place = await Place.make();
  const name = "f\udcff\n", to = "t\udcfe";
  place.apply(folder(name, 0o500), file(`${name}/${name}`, "raw"), copy(to, `${name}/${name}`, "raw"));
  place.apply(link("l", name), link(`${name}/l`, to));
  place.close();
  assert.deepEqual(readdirSync(place.root).sort(), [name, to, "l"].sort());
  assert.deepEqual(readdirSync(`${place.root}/${name}`).sort(), [name, "l"].sort());
  place.apply({ remove: name }, file(to, "new"));
  assert.deepEqual(readdirSync(place.root).sort(), [to, "l"].sort());
});

Deno.test("a path that leads out of the tree is refused", async () => {
  await using place = await Place.make();
  const out = [
    "../canary/file",
    "..",
    ".",
    "",
    "/etc/x",
    `${place.directory.path}/canary/file`,
    "a/../../canary/file",
    "a//b",
    "a/",
    "a\0b",
  ];
  for (const path of out) {
    const records = [file(path, "x"), folder(path), link(path, "x"), { remove: path }, copy("ok", path, "untouched")];
    for (const record of records) assert.throws(() => place.writer.apply(record), TreeError, JSON.stringify(path));
  }
  place.close();
  assert.deepEqual(readdirSync(place.root), []);
  place.check();
});

Deno.test("nothing is written through a symlink, whenever and by whomever it was put there", async () => {
  await using place = await Place.make();
  const out = place.directory.join("canary");
  const through = [
    file("l/file", "x"),
    file("l/new/file", "x"),
    folder("l/new"),
    folder("l/folder", 0o700),
    link("l/link", "x"),
    copy("stolen", "l/file", "untouched"),
    ...pieces("l/file", Buffer.alloc(600_000)).slice(0, 1),
  ];
  for (const target of [out, "../canary", "a/../../canary"]) {
    for (const record of through) {
      for (const closed of [true, false]) {
        // A folder that was looked at before it became a symlink.
        place.apply(folder("a"), folder("l"), file("l/before", "x"), link("l", target));
        if (closed) place.close();
        assert.throws(() => {
          place.writer.apply(record);
          place.writer.apply({ content: new Uint8Array(76_288), digest: sha256(Buffer.alloc(600_000)) });
        }, TreeError);
        place.close();
        place.check();
        // What is behind a symlink is not in the tree: there is nothing to remove.
        place.apply({ remove: "l/file" }, { remove: "l/folder" }, { remove: "l" });
        place.check();
      }
    }
  }
  // Entries that go over a symlink replace it.
  place.apply(link("l", `${out}/file`), file("l", "mine"), link("d", `${out}/folder`), folder("d", 0o700));
  place.apply(file("d/file", "mine"), link("r", out), { remove: "r" });
  place.close();
  assert.deepEqual([place.text("l"), place.text("d/file")], ["mine", "mine"]);
  place.check();
});

Deno.test("a folder that turns into a symlink while a file in it is received is noticed", async () => {
  await using place = await Place.make();
  const [first, second] = pieces("d/file", randomBytes(1 << 20));
  place.apply(folder("d"), first);
  place.close();
  place.apply(folder("d"), first);
  assert.throws(() => place.apply(link("d", "../canary")), TreeError);
  // Another process.
  Deno.removeSync(`${place.root}/d`);
  Deno.symlinkSync("../canary", `${place.root}/d`);
  place.close();
  assert.throws(() => place.apply(first, second), TreeError);
  place.check();
});

Deno.test("content that is not what was said is put nowhere", async () => {
  await using place = await Place.make();
  place.apply(file("f", "before"), file("source", "source"));
  const large = randomBytes(600_000);
  const [first, last] = pieces("f", large);
  const lies: Record<string, TreeRecord[]> = {
    "another digest": [{ ...file("f", "after"), entry: file("f", "other").entry }],
    "no digest": [file("f", "after", { digest: undefined })],
    "two digests": [{ ...file("f", "after"), digest: sha256(Buffer.from("x")) }],
    "more than its size": [file("f", "after", { size: 4 })],
    "less than its size": [file("f", "after", { size: 6 })],
    "no content at all": [{ ...file("f", "after"), content: undefined }],
    "a copy of something else": [copy("f", "source", "after")],
    "a copy of a size": [copy("f", "source", "source", { size: 3 })],
    "a copy of nothing": [copy("f", "gone", "source")],
    "a copy without a digest": [copy("f", "source", "source", { digest: undefined })],
    "a copy of a folder": [folder("d"), copy("f", "d", "")],
    "a copy of a symlink": [link("l", "source"), copy("f", "l", "source")],
    "large and another digest": [first, { ...last, digest: sha256(Buffer.from("x")) }],
    "large and other content": [first, { content: last.content!.map((b) => b ^ 1) }],
    "large and too short": [first, { content: last.content!.subarray(1) }],
    "large and too long": [first, { content: Buffer.concat([last.content!, Buffer.alloc(1)]) }],
    "endless": [{ ...first, entry: { ...first.entry!, size: 3 } }],
    "a part of nothing": [last],
    "a part after the end": [file("g", "x"), last],
    "another file before the end": [first, file("g", "x")],
    "a removal before the end": [first, { remove: "g" }],
    "the middle of what never began": [{ ...first, offset: 5 }],
    "the middle of a small file": [{ ...file("f", "before"), content: Buffer.from("ore"), offset: 3 }],
  };
  for (const [what, records] of Object.entries(lies)) {
    assert.throws(() => place.apply(...records), TreeError, what);
    place.close();
    assert.equal(place.text("f"), "before", what);
    assert.deepEqual(place.staged, [], what);
  }
});

Deno.test("where digests are optional, a file without is what came, and one with another content is still refused", async () => {
  await using place = await Place.make();
  const writer = new TreeWriter({ ...place, files: localFiles, digests: "optional" });
  writer.apply(file("small", "small", { digest: undefined }));
  const content = randomBytes(600_000);
  const [first, last] = pieces("large", content);
  writer.apply({ ...first, entry: { ...first.entry!, digest: undefined } });
  writer.apply(last);
  assert.equal(place.text("small"), "small");
  assert.ok(content.equals(Deno.readFileSync(`${place.root}/large`)));
  const lies = [
    file("small", "shorter", { digest: undefined, size: 8 }),
    file("small", "lie", { digest: sha256(content) }),
  ];
  for (const lie of lies) assert.throws(() => writer.apply(lie), TreeError);
  assert.equal(place.text("small"), "small");
  assert.deepEqual(place.staged, []);
});

Deno.test("in a tree that nobody uses, a small file is written where it belongs, and never over or through something", async () => {
  await using place = await Place.make();
  const { writer } = place;
  const before = Deno.umask(0o077);
  try {
    writer.apply(folder("d"));
    writer.apply(file("d/f", "first", { mode: 0o4755 }), { unused: true });
  } finally {
    Deno.umask(before);
  }
  assert.equal(place.text("d/f"), "first");
  assert.equal(place.mode("d/f"), 0o4755);
  assert.equal(Deno.statSync(`${place.root}/d/f`).mtime!.getTime(), 1_700_000_000_123);
  // Whoever has it open keeps what was there.
  using open = Deno.openSync(`${place.root}/d/f`);
  writer.apply(file("d/f", "second"), { unused: true });
  assert.equal(place.text("d/f"), "second");
  const content = new Uint8Array(10);
  assert.equal(open.readSync(content), 5);
  Deno.symlinkSync("../canary/file", `${place.root}/out`);
  writer.apply(file("out", "third"), { unused: true });
  assert.equal(place.text("out"), "third");
  assert.throws(() => writer.apply(file("lie", "lie", { digest: sha256(content) }), { unused: true }), TreeError);
  Deno.removeSync(`${place.root}/d`, { recursive: true });
  Deno.symlinkSync("../canary/folder", `${place.root}/d`);
  writer.doubt();
  assert.throws(() => writer.apply(file("d/file", "hit"), { unused: true }), TreeError);
  assert.deepEqual(readdirSync(place.root).sort(), ["d", "out"]);
  assert.deepEqual(place.staged, []);
  place.check();
});

Deno.test("a whole file is placed while others are, or not at all", async () => {
  await using place = await Place.make();
  const { writer } = place;
  const contents = [1, 2, 3].map((n) => new Uint8Array(randomBytes(n << 20)));
  const placing = contents.map((content, i) => {
    const { entry } = file(`d/${i}`, content, { mode: 0o555 });
    return writer.place(entry, content);
  });
  writer.apply(file("d/small", "meanwhile"));
  await Promise.all(placing);
  for (const [i, content] of contents.entries()) {
    assert.equal(Buffer.compare(Deno.readFileSync(`${place.root}/d/${i}`), content), 0);
    assert.equal(place.mode(`d/${i}`), 0o555);
  }
  assert.equal(place.text("d/small"), "meanwhile");
  const { entry } = file("d/small", "expected");
  await assert.rejects(writer.place(entry, new TextEncoder().encode("surprise")), TreeError);
  await assert.rejects(writer.place({ ...entry, digest: undefined }, new TextEncoder().encode("expected")), TreeError);
  Deno.removeSync(`${place.root}/d`, { recursive: true });
  Deno.symlinkSync("../canary/folder", `${place.root}/d`);
  await assert.rejects(writer.place({ ...entry, path: "d/file" }, new TextEncoder().encode("expected")), TreeError);
  assert.deepEqual(place.staged, []);
  place.check();
});

Deno.test("a digest may come with the last part of a file", async () => {
  await using place = await Place.make();
  const content = randomBytes(600_000);
  const [first, last] = pieces("f", content);
  place.apply({ ...first, entry: { ...first.entry!, digest: undefined } }, { ...last, digest: sha256(content) });
  assert.ok(Deno.readFileSync(`${place.root}/f`).every((b, i) => b === content[i]));
});

Deno.test("a large file that was cut off goes on where it was", async () => {
  await using place = await Place.make();
  const content = randomBytes(20 << 20), all = pieces("f", content);
  place.apply(...all.slice(0, 10));
  place.close();
  const [partial] = place.writer.partials();
  assert.deepEqual([Buffer.from(partial.digest), partial.received], [sha256(content), 5 << 20]);
  assert.ok(!readdirSync(place.root).includes("f"));

  // Again, and from a place before the last one.
  await place.applyLong(...pieces("f", content, 512 << 10, 5 << 20).slice(0, 2));
  place.close();
  assert.equal(place.writer.partials()[0].received, 6 << 20);
  assert.throws(() => place.apply(...pieces("f", content, 512 << 10, 7 << 20)), TreeError);
  await place.applyLong(...pieces("other name", content, 512 << 10, (5 << 20) + 77));
  place.close();
  assert.ok(Buffer.from(Deno.readFileSync(`${place.root}/other name`)).equals(content));
  assert.deepEqual(place.writer.partials(), []);

  // What was there when the whole file had come, but not its end.
  place.apply(...all.slice(0, -1), { ...all.at(-1)!, more: true });
  place.close();
  assert.equal(place.writer.partials()[0].received, content.length);
  await place.applyLong(...pieces("f", content, 512 << 10, content.length));
  assert.ok(Buffer.from(Deno.readFileSync(`${place.root}/f`)).equals(content));

  // A beginning that is another file's is not taken for its own.
  place.apply(...all.slice(0, 4));
  place.close();
  Deno.writeFileSync(`${place.staging}/${place.staged[0]}`, randomBytes(2 << 20));
  await assert.rejects(place.applyLong(...pieces("g", content, 512 << 10, 2 << 20)), TreeError);
  assert.deepEqual(place.staged, []);
});

/** SHA-256 of so many zeros. */
const ZEROS = {
  [512 << 20]: "9acca8e8c22201155389f65abbf6bc9723edc7384ead80503839f49dcc56d767",
  [256 << 20]: "a6d72ac7690f53be6ae46ba88506bd97302a093f7108472bd9efc3cefda06484",
};

/** A file of zeros that takes no room. @returns its entry */
function zeros(path: string, name: string, size: keyof typeof ZEROS & number): Entry {
  using file = Deno.openSync(path, { create: true, write: true });
  file.truncateSync(size);
  return { path: name, kind: "file", mode: 0o644, size, mtimeMs: 0, digest: Buffer.from(ZEROS[size], "hex") };
}

/** For how long others had to wait at the most while something was done, as a part of all the time that it took. */
async function longestWait(work: () => Promise<void> | undefined): Promise<number> {
  let longest = 0, before = performance.now();
  const began = before;
  const look = () => {
    const now = performance.now();
    longest = Math.max(longest, now - before);
    before = now;
  };
  const timer = setInterval(look, 1);
  try {
    await work();
    look();
  } finally {
    clearInterval(timer);
  }
  return longest / (performance.now() - began);
}

Deno.test("others have their turn while a large file is gone on with", async () => {
  await using place = await Place.make();
  const size = 512 << 20, last = new Uint8Array(1000);
  Deno.mkdirSync(place.staging);
  const partial = `${place.staging}/partial-${ZEROS[size]}`;
  const entry = zeros(partial, "f", size);
  const part = await longestWait(() =>
    place.writer.apply({ entry, offset: size - last.length, content: last, more: false })
  );
  assert.ok(part < 1 / 4, `others had to wait for ${(part * 100).toFixed()} % of the time at once`);
  assert.equal(Deno.lstatSync(`${place.root}/f`).size, size);
  assert.deepEqual(place.staged, []);
});

Deno.test("others have their turn while a large file is copied", async () => {
  await using place = await Place.make();
  Deno.mkdirSync(place.root);
  const entry = zeros(`${place.root}/source`, "f", 256 << 20);
  const part = await longestWait(() => place.writer.apply({ entry, copyFrom: "source" }));
  assert.ok(part < 1 / 4, `others had to wait for ${(part * 100).toFixed()} % of the time at once`);
  assert.equal(Deno.lstatSync(`${place.root}/f`).size, 256 << 20);

  const wrong = { ...entry, digest: sha256(Buffer.from("x")) };
  await assert.rejects(place.applyLong({ entry: wrong, copyFrom: "source" }), TreeError);
  assert.deepEqual(place.staged, []);
});

Deno.test("no record is taken while another one takes long, and what was cut off in it can be gone on with", async () => {
  await using place = await Place.make();
  const content = randomBytes(20 << 20), all = pieces("f", content);
  place.apply(file("before", "1"), ...all.slice(0, 30));
  place.close();
  const gone = new AbortController();
  const writer = new TreeWriter({ files: localFiles, root: place.root, staging: place.staging, signal: gone.signal });
  const cutOff = writer.apply(pieces("f", content, 512 << 10, 15 << 20)[0])!;
  for (const record of [file("after", "2"), { remove: "before" }, { content: Buffer.from("x") }]) {
    assert.throws(() => writer.apply(record), TypeError);
  }
  gone.abort(new Error("the caller is gone"));
  await assert.rejects(cutOff, /^Error: the caller is gone$/);
  writer.close();
  assert.equal(place.writer.partials()[0].received, 15 << 20);
  await place.applyLong(...pieces("f", content, 512 << 10, 15 << 20));
  assert.ok(Buffer.from(Deno.readFileSync(`${place.root}/f`)).equals(content));
  assert.deepEqual(readdirSync(place.root).sort(), ["before", "f"]);
});

Deno.test("a folder that another program swaps for a symlink between two batches is not written through", async () => {
  await using place = await Place.make();
  const out = place.directory.join("canary");
  const first = [folder("d"), folder("d/folder", 0o500), file("d/file", "mine"), file("source", "stolen")];
  const large = pieces("d/file", randomBytes(1 << 20)).slice(0, 1);
  for (
    const second of [
      file("d/file", "other"),
      file("d/folder/file", "other"),
      link("d/link", "x"),
      folder("d/folder", 0o700),
      copy("d/file", "source", "stolen"),
      copy("source", "d/file", "untouched"),
      ...large,
    ]
  ) {
    place.apply(...first);
    Deno.removeSync(`${place.root}/d`, { recursive: true });
    Deno.symlinkSync(out, `${place.root}/d`);
    place.writer.doubt();
    assert.throws(() => place.apply(second), TreeError);
    // Nor is what stands behind it removed, or given the mode of what was there before.
    place.writer.doubt();
    place.apply({ remove: "d/file" }, { remove: "d/folder" });
    place.close();
    place.check();
    place.apply({ remove: "d" });
  }
  // An entry that goes over the symlink itself replaces it.
  place.apply(...first);
  Deno.removeSync(`${place.root}/d`, { recursive: true });
  Deno.symlinkSync(out, `${place.root}/d`);
  place.writer.doubt();
  place.apply(...first);
  place.close();
  assert.equal(place.text("d/file"), "mine");
  place.check();
});

Deno.test("what was left behind long ago is cleaned up", async () => {
  await using place = await Place.make();
  place.apply(...pieces("f", randomBytes(20 << 20)).slice(0, 3));
  place.close();
  const now = Date.now;
  try {
    Date.now = () => now() + 6 * 24 * 3600_000;
    assert.equal(place.writer.partials().length, 1);
    place.close();
    Date.now = () => now() + 8 * 24 * 3600_000;
    assert.equal(place.writer.partials().length, 0);
  } finally {
    Date.now = now;
  }
});

Deno.test("a staging folder in the tree is out of reach", async () => {
  await using place = await Place.make();
  const staging = `${place.root}/rbs/staging`;
  const writer = new TreeWriter({ files: localFiles, root: place.root, staging });
  for (const path of ["rbs/staging", "rbs/staging/x", "rbs"]) {
    for (const record of [file(path, "x"), link(path, "/"), { remove: path }, copy("x", path, "x")]) {
      assert.throws(() => writer.apply(record), TreeError);
    }
  }
  writer.apply(file("rbs/staging2", "x"));
  writer.apply(file("rbs/x", "x"));
  writer.close();
  Deno.removeSync(staging);
  Deno.symlinkSync(place.directory.join("canary"), staging);
  assert.throws(() => new TreeWriter({ files: localFiles, root: place.root, staging }), RbsError);
});

Deno.test("a disk that does not take a file is named, and has no half of it", async () => {
  await using place = await Place.make();
  place.apply(file("f", "before"));
  const write = Deno.writeFileSync;
  try {
    Deno.writeFileSync = (path, data, options) => {
      write(path, (data as Uint8Array).subarray(0, 2), options);
      throw Object.assign(new Error("No space left on device (os error 28)"), { code: "ENOSPC" });
    };
    const full = (e: unknown) => e instanceof RbsError && /^The disk of .* is full: make room there\.$/.test(e.message);
    assert.throws(() => place.apply(file("f", "after")), full);
  } finally {
    Deno.writeFileSync = write;
  }
  assert.equal(place.text("f"), "before");
  assert.deepEqual(place.staged, []);
});

Deno.test("setting a mode or a time alone copies a file onto itself", async () => {
  await using place = await Place.make();
  place.apply(file("f", "same"), copy("f", "f", "same", { mode: 0o755, mtimeMs: 5000 }));
  assert.deepEqual([place.text("f"), place.mode("f")], ["same", 0o755]);
  assert.equal(Deno.statSync(`${place.root}/f`).mtime!.getTime(), 5000);
});
