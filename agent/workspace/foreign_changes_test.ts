import assert from "node:assert/strict";
import { eventually } from "../../proto/testing/pipe.ts";
import type { TreeRecord } from "../../proto/tree/batch.ts";
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

Deno.test("one who writes all the time does not keep each command from running", async () => {
  using t = await session();
  const { workspace } = t.service;
  Deno.writeTextFileSync(t.at("d/a"), "1");
  assert.ok(await workspace.check(caller));
  Deno.writeTextFileSync(t.at("d/a"), "2");
  assert.equal(await workspace.check(caller), undefined);
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
