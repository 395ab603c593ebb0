import assert from "node:assert/strict";
import { eventually } from "../../tests/support/eventually.ts";
import type { TreeRecord } from "../../proto/tree/batch.ts";
import { digestOf } from "../../proto/tree/read.ts";
import { ForeignChanges } from "./foreign_changes.ts";
import type { Root } from "./root.ts";
import type { WrittenSources } from "./written_sources.ts";
import { OUTPUT_BASE, Storage, TestService, WS } from "./testing.ts";

const caller = { epoch: 1, gone: new AbortController().signal };

function file(path: string, content = path): TreeRecord {
  const bytes = new TextEncoder().encode(content);
  return { entry: { path, kind: "file", mode: 0o644, size: bytes.length, mtimeMs: 1_000_000 }, content: bytes };
}

function folder(path: string): TreeRecord {
  return { entry: { path, kind: "directory", mode: 0o755, size: 0, mtimeMs: 0 } };
}

/** A session that has some files, and no change of which nobody knows. */
async function session(records: TreeRecord[] = [folder("d"), file("d/a"), file("b"), folder("e"), file("e/c")]) {
  const storage = new Storage();
  const service = new TestService(storage);
  await service.change(records, { fresh: true });
  assert.equal(await service.workspace.check(caller), undefined);
  await storage.tick();
  const at = (path: string) => storage.at(`${WS}/${path}`);
  return {
    ...{ storage, service, at },
    [Symbol.dispose]() {
      service[Symbol.dispose]();
      storage[Symbol.dispose]();
    },
  };
}

const CHANGES: Record<string, (at: (path: string) => string) => string> = {
  "appends to a file": (at) => (Deno.writeTextFileSync(at("d/a"), "more", { append: true }), "d/a"),
  "writes other bytes of the same number, and sets the time back": (at) => {
    Deno.writeTextFileSync(at("b"), "x");
    Deno.utimeSync(at("b"), 1_000, 1_000);
    return "b";
  },
  "makes a file": (at) => (Deno.writeTextFileSync(at("e/new"), "new"), "e/new"),
  "removes a file": (at) => (Deno.removeSync(at("e/c")), "e/c"),
  "moves another file over it": (at) => {
    Deno.writeTextFileSync(`${at("")}/../other`, "other");
    Deno.renameSync(`${at("")}/../other`, at("d/a"));
    return "d/a";
  },
  "makes it executable": (at) => (Deno.chmodSync(at("b"), 0o755), "b"),
  "puts a symlink in its place": (at) => {
    Deno.removeSync(at("b"));
    Deno.symlinkSync("d/a", at("b"));
    return "b";
  },
  "makes a folder with something in it": (at) => {
    Deno.mkdirSync(at("f/g"), { recursive: true });
    Deno.writeTextFileSync(at("f/g/h"), "h");
    return "f";
  },
  "moves a folder away": (at) => (Deno.renameSync(at("d"), `${at("")}/../d`), "d"),
};

for (const [what, change] of Object.entries(CHANGES)) {
  Deno.test(`a program of the session that ${what} is noticed, and said once`, async () => {
    using t = await session();
    const { workspace } = t.service;
    const { generation } = workspace;
    const path = change(t.at);
    const said = await workspace.check(caller);
    assert.match(
      said ?? "",
      /^Programs of the session have changed \/home\/ann\/ws\/.* on the build server's machine\.$/,
    );
    assert.ok(said!.includes(`${WS}/${path}`), `it says ${said}`);
    assert.notEqual(workspace.generation, generation);
    // Who asks then is told what is there.
    const listed = await t.service.list();
    assert.notDeepEqual(
      listed,
      await (async () => {
        using other = await session();
        return await other.service.list();
      })(),
    );
    assert.equal(await workspace.check(caller), undefined);
  });
}

Deno.test("what the agent itself writes is no news, and what Bazel writes for itself", async () => {
  using t = await session();
  const { workspace } = t.service;
  await t.service.change([
    file("b", "other"),
    file("d/new"),
    { remove: "e" },
    folder("x"),
    folder("x/y"),
    file("x/y/z"),
  ]);
  assert.equal(await workspace.check(caller), undefined);
  await t.service.change([folder("e"), file("e/again"), { remove: "x" }]);
  assert.equal(await workspace.check(caller), undefined);
  const { generation } = workspace;
  Deno.symlinkSync(`${OUTPUT_BASE}/execroot/ws/bazel-out`, t.at("bazel-out"));
  Deno.mkdirSync(t.at("links"));
  Deno.symlinkSync(`${OUTPUT_BASE}/execroot/ws/bazel-out/bin`, t.at("links/bin"));
  assert.equal(await workspace.check(caller), undefined);
  assert.equal(workspace.generation, generation);
});

Deno.test("a file that is brought home ends the generation without a word", async () => {
  using t = await session();
  const { workspace } = t.service;
  workspace.expect([`${WS}/bep.json`])[Symbol.dispose]();
  const { generation } = workspace;
  Deno.writeTextFileSync(t.at("bep.json"), "{}");
  assert.equal(await workspace.check(caller), undefined);
  assert.notEqual(workspace.generation, generation);
});

/** What a command has written, relative to the workspace; `-` is what it has removed. */
function paths({ entries, gone }: WrittenSources): string[] {
  const all = [...entries.map(({ path }) => path), ...gone.map((path) => `-${path}`)];
  return all.map((path) => path.replace(`${WS}/`, "")).sort();
}

Deno.test("what a command may write ends the generation when it was told, and what is written there later is news", async () => {
  using t = await session();
  const { workspace } = t.service;
  const places = { root: WS, files: [`${WS}/b`], folders: [`${WS}/e`, `${WS}/v`] };
  const command = workspace.expect([], places);
  assert.deepEqual(paths(await command.written()), []);
  Deno.writeTextFileSync(t.at("b"), "tidied");
  Deno.removeSync(t.at("e/c"));
  Deno.mkdirSync(t.at("v/deep"), { recursive: true });
  Deno.writeTextFileSync(t.at("v/deep/new"), "new");
  Deno.symlinkSync(`${OUTPUT_BASE}/external`, t.at("v/bazel-external"));
  assert.deepEqual(paths(await command.written()), ["-e/c", "b", "v", "v/bazel-external", "v/deep", "v/deep/new"]);
  const { generation } = workspace;
  command.told([]);
  command[Symbol.dispose]();
  assert.equal(await workspace.check(caller), undefined);
  assert.notEqual(workspace.generation, generation);
  const listed = await t.service.list();
  assert.deepEqual(listed.map((line) => line.split(" ")[0]), ["b", "d/", "d/a", "e/", "v/", "v/deep/", "v/deep/new"]);
  assert.equal(await workspace.check(caller), undefined);
  for (const name of ["b", "v/deep/new", "e/c"]) {
    Deno.writeTextFileSync(t.at(name), "foreign");
    assert.match(await workspace.check(caller) ?? "", new RegExp(`changed ${WS}/${name} on the build server`));
    await t.service.list();
  }
});

Deno.test("what a command has written and was changed before it was known is news", async () => {
  using t = await session();
  const { workspace } = t.service;
  const command = workspace.expect([], { root: WS, files: [`${WS}/b`], folders: [`${WS}/v`] });
  Deno.writeTextFileSync(t.at("b"), "tidied");
  Deno.mkdirSync(t.at("v"));
  Deno.writeTextFileSync(t.at("v/new"), "new");
  assert.deepEqual(paths(await command.written()), ["b", "v", "v/new"]);
  await t.storage.tick();
  Deno.writeTextFileSync(t.at("v/new"), "foreign");
  command.told([]);
  command[Symbol.dispose]();
  assert.match(await workspace.check(caller) ?? "", /have changed \S+\/v\/new on/);
});

Deno.test("what others find and change while a command writes hides nothing of what it has written", async () => {
  using t = await session();
  const { workspace } = t.service;
  const { generation } = workspace;
  const places = { root: WS, files: [`${WS}/b`], folders: [`${WS}/e`, `${WS}/v`] };
  const command = workspace.expect([], places), other = workspace.expect([], places);
  Deno.writeTextFileSync(t.at("b"), "tidied");
  Deno.mkdirSync(t.at("v/deep"), { recursive: true });
  Deno.writeTextFileSync(t.at("v/deep/new"), "new");
  // Another command's barrier has nothing to undo, also when a third one ends.
  other[Symbol.dispose]();
  assert.equal(await workspace.check(caller), undefined);
  assert.equal(workspace.generation, generation);
  // A program of the session changes something else: then all is looked at, and the other's own edit is sent.
  Deno.writeTextFileSync(t.at("d/a"), "foreign");
  assert.match(await workspace.check(caller) ?? "", /have changed \S+\/d\/a on/);
  await t.service.change([file("d/a"), file("e/c", "edited")]);
  await t.service.list();
  Deno.writeTextFileSync(t.at("v/deep/later"), "later");
  assert.equal(await workspace.check(caller), undefined);
  assert.deepEqual(paths(await command.written()), ["b", "e/c", "v", "v/deep", "v/deep/later", "v/deep/new"]);
  command.told([]);
  command[Symbol.dispose]();
  assert.equal(await workspace.check(caller), undefined);
});

Deno.test("of what nobody knew before a command it is said that it does not come home", async () => {
  using t = await session();
  const { workspace } = t.service;
  Deno.writeTextFileSync(t.at("d/a"), "foreign");
  assert.ok(await workspace.check(caller));
  const command = workspace.expect([], { root: WS, files: [`${WS}/b`], folders: [] });
  await assert.rejects(command.written(), /What was there before the command is not known/);
  command[Symbol.dispose]();
});

for (const watches of [true, false]) {
  const how = watches ? "" : ", also where nothing can be watched";
  Deno.test(`a file that a command is writing ends no generation, nor one that was told as it is${how}`, async () => {
    using storage = new Storage();
    using service = new TestService(storage, {
      watch() {
        if (!watches) throw new Error("too many open files");
        return storage.files.watch();
      },
    });
    const { workspace } = service;
    await service.change([folder("d"), file("d/a"), file("bep.json")], { fresh: true });
    assert.equal(await workspace.check(caller), undefined);
    await storage.tick();
    const names = ["bep.json", "d/new.json"], at = (name: string) => storage.at(`${WS}/${name}`);
    const paths = names.map((name) => `${WS}/${name}`);
    const { generation } = workspace;
    const write = (text: string) => names.forEach((name) => Deno.writeTextFileSync(at(name), text, { append: true }));
    /** As a collector tells of them. */
    const told = () => paths.map((path) => ({ ...storage.files.lstat(`root${path}`), path }));
    for (const round of [1, 2]) {
      const one = workspace.expect(paths), other = workspace.expect(paths);
      write("one");
      assert.equal(await workspace.check(caller), undefined);
      other[Symbol.dispose]();
      write("two");
      assert.equal(await workspace.check(caller), undefined);
      one.told(told());
      one[Symbol.dispose]();
      assert.equal(await workspace.check(caller), undefined);
      assert.equal(workspace.generation, generation, `round ${round}`);
    }
    // What a program of the session writes into it afterwards, or before it was told, is noticed.
    write("three");
    await workspace.check(caller);
    assert.notEqual(workspace.generation, generation);
    await service.list();
    const later = workspace.generation;
    const last = workspace.expect(paths);
    write("four");
    const then = told();
    await storage.tick();
    write("five");
    last.told(then);
    last[Symbol.dispose]();
    await eventually(async () => {
      await workspace.check(caller);
      return workspace.generation !== later;
    });
  });
}

Deno.test("more changes than the kernel keeps are noticed, and our own are none", async () => {
  const files = Array.from({ length: 6_000 }, (_, i) => file(`many/f${i}`, "x"));
  using t = await session([folder("many"), file("a"), ...files]);
  const { workspace } = t.service;
  await t.service.change(Array.from({ length: 6_000 }, (_, i) => file(`many/f${i}`, "other")));
  assert.equal(await workspace.check(caller), undefined);
  const before = (await t.service.list()).find((line) => line.startsWith("a "));
  for (let i = 0; i < 6_000; i++) {
    Deno.utimeSync(t.at(`many/f${i}`), 2_000, 2_000);
    Deno.utimeSync(t.at(`many/f${i}`), 1_000, 1_000);
    Deno.utimeSync(t.at(`many/f${(i + 1) % 6_000}`), 1_000, 1_000);
  }
  Deno.writeTextFileSync(t.at("a"), "after them");
  const said = await workspace.check(caller);
  assert.match(said ?? "", /^Programs of the session have changed /);
  assert.notEqual((await t.service.list()).find((line) => line.startsWith("a ")), before);
});

/** Beside what {@link session} has. */
const FOLDERS = [folder("empty"), folder("p"), folder("p/q"), file("p/q/x"), folder("p/q/r"), file("p/q/r/y")];

/** What takes the place of a folder. */
function make(path: string, files: Record<string, string>): void {
  Deno.mkdirSync(path, { recursive: true });
  for (const [name, content] of Object.entries(files)) Deno.writeTextFileSync(`${path}/${name}`, content);
}

/** Each puts a file into a folder that is another one then, and returns its path. */
const EXCHANGES: Record<string, (at: (path: string) => string, check: () => Promise<unknown>) => Promise<string>> = {
  "exchanges a folder for another": (at) => {
    make(at("new"), { a: "theirs", b: "more" });
    Deno.renameSync(at("d"), at("old"));
    Deno.renameSync(at("new"), at("d"));
    Deno.removeSync(at("old"), { recursive: true });
    return Promise.resolve("d/a");
  },
  "makes an empty folder anew": (at) => {
    Deno.removeSync(at("empty"));
    make(at("empty"), { f: "theirs" });
    return Promise.resolve("empty/f");
  },
  "moves another folder over an empty one that it holds open": async (at, check) => {
    using _held = Deno.openSync(at("empty"));
    const outside = `${at("")}/../outside`;
    Deno.mkdirSync(outside);
    Deno.renameSync(outside, at("empty"));
    assert.equal(await check(), undefined);
    make(at("empty"), { f: "theirs" });
    return "empty/f";
  },
  "makes a folder anew while it holds the old one open": async (at, check) => {
    using _held = Deno.openSync(at("empty"));
    Deno.removeSync(at("empty"));
    Deno.mkdirSync(at("empty"));
    assert.equal(await check(), undefined);
    make(at("empty"), { f: "theirs" });
    return "empty/f";
  },
  "makes an empty folder, and fills it later": async (at, check) => {
    Deno.mkdirSync(at("gen/er"), { recursive: true });
    assert.equal(await check(), undefined);
    make(at("gen/er"), { "new.h": "theirs" });
    return "gen/er/new.h";
  },
  "moves a folder away and puts another one with the same folders there": (at) => {
    Deno.renameSync(at("p"), `${at("")}/../p`);
    make(at("p/q/r"), { y: "theirs" });
    make(at("p/q"), { x: "p/q/x" });
    return Promise.resolve("p/q/r/y");
  },
  "moves the folder above the workspace away": (at) => {
    Deno.renameSync(at("../../ann"), at("../../../home/ann2"));
    make(at("p/q"), { x: "theirs" });
    return Promise.resolve("p/q/x");
  },
};

for (const [what, exchange] of Object.entries(EXCHANGES)) {
  Deno.test(`a program of the session that ${what} is noticed, and what it writes there afterwards`, async () => {
    using t = await session([folder("d"), file("d/a"), file("b"), ...FOLDERS]);
    const { workspace } = t.service;
    const check = () => workspace.check(caller);
    let path = await exchange(t.at, check);
    for (const round of [1, 2]) {
      const { generation } = workspace;
      const said = await check();
      assert.match(said ?? "", /^Programs of the session have changed \/home\/ann\/ws/, `round ${round}`);
      assert.notEqual(workspace.generation, generation);
      await t.service.list();
      assert.equal(await check(), undefined);
      await t.storage.tick();
      path = path.replace(/[^/]+$/, "later");
      Deno.writeTextFileSync(t.at(path), "theirs as well");
    }
  });
}

Deno.test("a folder that is made anew as it was is no news, and what is changed in it afterwards is", async () => {
  using t = await session();
  const { workspace } = t.service;
  const { generation } = workspace;
  await t.service.change([{ remove: "e/c" }]);
  await t.service.list();
  Deno.renameSync(t.at("e"), t.at("old"));
  Deno.mkdirSync(t.at("e"));
  Deno.removeSync(t.at("old"));
  assert.equal(await workspace.check(caller), undefined);
  assert.notEqual(workspace.generation, generation);
  Deno.writeTextFileSync(t.at("e/new"), "new");
  assert.match(await workspace.check(caller) ?? "", /e\/new/);
});

Deno.test("what comes into a root that lies in another one is no news in that one", async () => {
  const nothing = () => {
    throw new Error("too many open files");
  };
  for (const watch of [undefined, nothing]) {
    using storage = new Storage();
    using service = new TestService(storage, { watch });
    const { workspace } = service;
    const inner = `${WS}/d/lib`, single = `${WS}/d/one`;
    await service.change([folder("d"), file("d/a")], { fresh: true });
    await service.open(WS, inner, single);
    await service.change([folder("s"), file("s/f")], { root: inner });
    await service.change([file("one")], { root: single, singleFile: true });
    for (const remove of ["s", undefined]) {
      assert.equal(await workspace.check(caller), undefined);
      await workspace.ran();
      assert.equal(await workspace.check(caller), undefined);
      await service.open(WS, inner, single);
      if (remove) await service.change([{ remove }], { root: inner });
    }
    Deno.writeTextFileSync(storage.at(`${inner}/g`), "theirs");
    assert.match(await workspace.check(caller) ?? "", /changed \/home\/ann\/ws\/d\/lib\/g on/);
  }
});

Deno.test("each change is noticed, however soon after the last one, and nothing is said twice", async () => {
  using t = await session();
  const { workspace } = t.service;
  for (const content of ["1", "22", "333"]) {
    Deno.writeTextFileSync(t.at("d/a"), content);
    assert.match(await workspace.check(caller) ?? "", /d\/a/);
    assert.equal(await workspace.check(caller), undefined);
    await t.service.list();
  }
});

Deno.test("what is written by another name of a file is found after the command, and then at once", async () => {
  using t = await session();
  const { workspace } = t.service;
  const elsewhere = t.storage.at("/home/ann/x");
  Deno.linkSync(t.at("d/a"), elsewhere);
  Deno.writeTextFileSync(elsewhere, "theirs");
  await workspace.ran();
  assert.match(await workspace.check(caller) ?? "", /d\/a/);
  await t.service.list();
  assert.equal(await workspace.check(caller), undefined);
  // No command has ended since: the file is known to have two names.
  await t.storage.tick();
  Deno.writeTextFileSync(elsewhere, "theirs once more");
  assert.match(await workspace.check(caller) ?? "", /d\/a/);
});

Deno.test("another name alone is no news, and what is written by it later is", async () => {
  const content = new TextEncoder().encode("large ".repeat(500_000));
  const large = (path: string): TreeRecord => ({
    entry: { path, kind: "file", mode: 0o644, size: content.length, mtimeMs: 1_000_000, digest: digestOf(content) },
    content,
  });
  using t = await session([folder("d"), large("d/a"), large("d/b")]);
  const { workspace } = t.service;
  const { generation } = workspace;
  for (const name of ["a", "b"]) Deno.linkSync(t.at(`d/${name}`), t.storage.at(`/home/ann/${name}`));
  await workspace.ran();
  assert.equal(await workspace.check(caller), undefined);
  assert.equal(workspace.generation, generation);
  Deno.writeTextFileSync(t.storage.at("/home/ann/b"), "theirs");
  assert.match(await workspace.check(caller) ?? "", /d\/b/);
});

Deno.test("what costs nothing without a change costs little with one, however many roots there are", async () => {
  const watch = {
    now: [] as string[],
    watches: () => true,
    add: () => true,
    addFile: () => true,
    addAbove: () => true,
    take: (changed: Set<string>) => (watch.now.splice(0).forEach((path) => changed.add(path)), true),
    [Symbol.dispose]() {},
  };
  using storage = new Storage();
  using changes = new ForeignChanges({
    storage: storage.files,
    top: "root",
    outputBase: OUTPUT_BASE,
    watch: () => watch,
    log() {},
  });
  let looks = 0;
  const roots = Array.from({ length: 2_000 }, (_, i): Root => ({
    get path() {
      looks++;
      return `/home/ann/store/${i}/lib`;
    },
    ...{ single: false, readOnly: true, entries: new Map(), unseen: new Set<string>(), known: true },
  }));
  await changes.follow(roots[0]);
  looks = 0;
  assert.deepEqual((await changes.find(roots)).changed, []);
  assert.equal(looks, 0);
  storage.write(storage.at("/home/ann/store/7/lib/f"), "theirs");
  watch.now.push("root/home/ann/store/7/lib/f");
  assert.deepEqual((await changes.find(roots)).changed, ["/home/ann/store/7/lib/f"]);
  assert.ok(looks < 10 * roots.length, `${looks} looks at ${roots.length} roots`);
});

Deno.test("where nothing can be watched, changes are noticed all the same", async () => {
  using storage = new Storage();
  using service = new TestService(storage, {
    watch() {
      throw new Error("too many open files");
    },
  });
  const { workspace } = service;
  await service.change([folder("d"), file("d/a")], { fresh: true });
  assert.equal(await workspace.check(caller), undefined);
  await service.change([file("d/a", "mine")]);
  assert.equal(await workspace.check(caller), undefined);
  await storage.tick();
  Deno.writeTextFileSync(storage.at(`${WS}/d/a`), "theirs");
  assert.match(await workspace.check(caller) ?? "", /d\/a/);
  assert.equal(service.log.filter((line) => /cannot be watched/.test(line)).length, 1);
});
