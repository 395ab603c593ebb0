import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { join } from "node:path";
import type { RbsError } from "../../proto/base/errors.ts";
import { Status, StatusError } from "../../proto/transport/grpc/calls.ts";
import { bytesValue, encodeFields, scanFields } from "../../proto/base/protobuf_fields.ts";
import { tempDir } from "../../tests/support/temp_dir.ts";
import { type Made, OutputsAgent, send } from "../testing/outputs_agent.ts";
import { OutputsHome, type TakeOptions } from "./outputs_sync.ts";

/** A developer's machine, and an agent. */
async function laptop() {
  const temp = await tempDir();
  const ob = temp.join("ob"), ws = temp.join("ws");
  for (const folder of [`${ob}/server`, ws]) Deno.mkdirSync(folder, { recursive: true });
  Deno.writeTextFileSync(`${ob}/server/server.pid.txt`, "42");
  const agent = new OutputsAgent();
  const said: string[] = [];
  const it = {
    ob,
    ws,
    temp,
    agent,
    said,
    home: new OutputsHome({ outputBase: ob, workspace: ws }),
    out: (name: string) => `${ob}/execroot/_main/bazel-out/${name}`,
    read: (path: string) => Deno.readTextFileSync(path),
    /** Takes a manifest, or what the agent makes first. */
    take(made: Made[] | Uint8Array[], options: Partial<TakeOptions> = {}) {
      const parts = made[0] instanceof Uint8Array ? made as Uint8Array[] : agent.make(made as Made[]);
      return it.home.take(parts, {
        link: agent.link,
        say: (line) => said.push(line),
        signal: new AbortController().signal,
        known: it.home.known,
        cleans: true,
        ...options,
      });
    },
    /** What was asked for since the last time. */
    asked: () => agent.asked.splice(0).map(({ path }) => path),
    /** The proxy ends, and another one begins. */
    restart: () => it.home = new OutputsHome({ outputBase: ob, workspace: ws }),
    async [Symbol.asyncDispose]() {
      agent[Symbol.dispose]();
      await temp[Symbol.asyncDispose]();
    },
  };
  return it;
}

function stat(path: string) {
  const { mode, mtime, isDirectory } = Deno.lstatSync(path);
  return { mode: (mode! & 0o7777).toString(8), ...!isDirectory && { mtime: mtime!.getTime() } };
}

Deno.test("files, folders and links come home with modes and mtimes", async () => {
  await using t = await laptop();
  const done = await t.take([
    { path: t.out("bin/app"), content: "program" },
    { path: t.out("bin/big"), content: Buffer.alloc(3 << 20, "big") },
    { path: t.out("bin/empty"), content: "", mode: 0o644, mtimeMs: 5_000 },
    { path: t.out("bin/tree"), kind: "directory", mode: 0o555 },
    { path: t.out("bin/tree/leaf"), content: "leaf", mode: 0o444 },
    { path: t.out("bin/void"), kind: "directory", mode: 0o755 },
    { path: t.out("bin/dangling"), target: "../../nowhere" },
    { path: t.out("bin/data.txt"), target: `${t.ws}/data.txt` },
    { path: `${t.ws}/bazel-bin`, target: t.out("bin") },
  ]);
  assert.deepEqual(done, { files: 3, bytes: 7 + (3 << 20) + 4 });
  assert.equal(t.read(`${t.ws}/bazel-bin/app`), "program");
  assert.deepEqual(stat(t.out("bin/app")), { mode: "555", mtime: 1_700_000_000_123 });
  assert.equal(Buffer.compare(Deno.readFileSync(t.out("bin/big")), Buffer.alloc(3 << 20, "big")), 0);
  assert.deepEqual(stat(t.out("bin/empty")), { mode: "644", mtime: 5_000 });
  assert.deepEqual(stat(t.out("bin/tree")), { mode: "555" });
  assert.deepEqual(stat(t.out("bin/void")), { mode: "755" });
  assert.equal(Deno.readLinkSync(t.out("bin/dangling")), "../../nowhere");
  assert.equal(Deno.readLinkSync(t.out("bin/data.txt")), `${t.ws}/data.txt`);
  assert.equal(t.read(`${t.ob}/server/server.pid.txt`), "42");
  assert.deepEqual(t.said, []);
});

Deno.test("the same outputs again are not transferred: not in this process, and not in the next", async () => {
  await using t = await laptop();
  const made = [
    { path: t.out("a"), content: "a" },
    { path: t.out("k8/l"), target: "../a" },
    { path: t.out("t"), kind: "directory" as const },
  ];
  await t.take(made);
  t.asked();
  assert.deepEqual(await t.take(made), { files: 0, bytes: 0 });
  t.restart();
  assert.equal(t.home.known, undefined);
  assert.deepEqual(await t.take(made), { files: 0, bytes: 0 });
  Deno.removeSync(`${t.ob}/rbs/outputs.index`);
  t.restart();
  assert.deepEqual(await t.take(made), { files: 0, bytes: 0 }, "without an index it is compared by content");
  assert.deepEqual(t.asked(), []);
});

Deno.test("an unchanged manifest brings back what was removed or changed here", async () => {
  await using t = await laptop();
  const parts = t.agent.make([
    { path: t.out("bin/a"), content: "a" },
    { path: t.out("bin/b"), content: "b" },
    { path: t.out("bin/c"), content: "c" },
    { path: t.out("bin/l"), target: "a" },
    { path: `${t.ws}/bazel-bin`, target: t.out("bin") },
  ]);
  await t.take(parts);
  assert.ok(t.home.known);
  t.asked();
  const unchanged = [encodeFields([[2, t.home.known!.id], [3, true]])];
  assert.deepEqual(await t.take(unchanged), { files: 0, bytes: 0 });

  Deno.chmodSync(t.out("bin/a"), 0o644);
  Deno.writeTextFileSync(t.out("bin/a"), "A");
  Deno.removeSync(t.out("bin/l"));
  Deno.chmodSync(t.out("bin/c"), 0o777);
  Deno.removeSync(`${t.ws}/bazel-bin`);
  await t.take(unchanged);
  assert.deepEqual(t.asked(), [t.out("bin/a")]);
  assert.equal(t.read(`${t.ws}/bazel-bin/l`), "a");
  assert.deepEqual(stat(t.out("bin/c")), { mode: "555", mtime: 1_700_000_000_123 });

  Deno.removeSync(t.out("bin"), { recursive: true });
  Deno.writeTextFileSync(t.out("bin"), "in the way");
  await t.take(unchanged);
  assert.deepEqual(t.asked(), [t.out("bin/a"), t.out("bin/b"), t.out("bin/c")]);
});

Deno.test("a command that made nothing new is believed though another one has ended since it was sent", async () => {
  await using t = await laptop();
  const a = t.out("k8/bin/a"), b = t.out("k8/bin/b");
  await t.take([{ path: b, content: "b" }]);
  const { known } = t.home;
  const unchanged = [encodeFields([[2, known!.id], [3, true]])];
  // Both were sent then; the first to end has made something else.
  await t.take([{ path: a, content: "a" }], { known });
  await t.take(unchanged, { known });
  assert.equal(t.home.isHome(b), true);
  assert.equal(t.home.isHome(a), false, "it is the other command's");
  assert.deepEqual(t.home.known!.id, known!.id);
  Deno.removeSync(b);
  await t.take(unchanged, { known });
  assert.equal(t.read(b), "b");
  await assert.rejects(t.take(unchanged, { known: undefined }), /is said to be one that was not sent/);
});

Deno.test("what a manifest knows does not grow with the commands that repeat it", async () => {
  await using t = await laptop();
  const tree = t.out("k8/bin/tree");
  await t.take([{ path: tree, kind: "directory" }, { path: `${tree}/a`, content: "a" }]);
  const profile = t.temp.join("profile");
  const { has } = t.home.known!;
  for (let i = 0; i < 3; i++) {
    // A command that names a file is compared each time.
    await t.take([encodeFields([[2, t.home.known!.id], [3, true]])], { namedFiles: [profile] });
  }
  assert.equal(t.home.known!.has, has);
});

Deno.test("what was all here, and looks as it did then, is not compared again; whatever happened to it is seen", async () => {
  await using t = await laptop();
  await t.take([
    { path: t.out("k8/bin/a"), content: "a" },
    { path: t.out("k8/bin/l"), target: "a" },
    { path: t.out("k8/bin/tree"), kind: "directory" },
    { path: t.out("k8/bin/tree/leaf"), content: "leaf" },
    { path: `${t.ws}/bazel-bin`, target: t.out("k8/bin") },
  ]);
  const state = () =>
    ["a", "l", "tree", "tree/leaf", "tree/more"].map((name) => {
      try {
        const { mode, isSymlink, isDirectory } = Deno.lstatSync(t.out(`k8/bin/${name}`));
        return isSymlink || isDirectory ? mode : [mode, t.read(t.out(`k8/bin/${name}`))];
      } catch {
        return undefined;
      }
    });
  const right = state();
  const { now } = Date, { readLinkSync } = Deno;
  let later = 0, links = 0, expected = false;
  const again = async () => {
    links = 0;
    if (expected) {
      t.home.expect();
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    Date.now = () => now() + later;
    Deno.readLinkSync = (path) => (links++, readLinkSync(path));
    try {
      return await t.take([encodeFields([[2, t.home.known!.id], [3, true]])]);
    } finally {
      // It looks at all of it for the next time, after the command has ended.
      await new Promise((resolve) => setTimeout(resolve, 5));
      Date.now = now;
      Deno.readLinkSync = readLinkSync;
    }
  };
  const leaf = t.out("k8/bin/tree/leaf");
  const changes: Record<string, () => void> = {
    "another content": () => {
      Deno.chmodSync(t.out("k8/bin/a"), 0o755);
      Deno.writeTextFileSync(t.out("k8/bin/a"), "A");
    },
    "another mode": () => Deno.chmodSync(t.out("k8/bin/a"), 0o777),
    "a file that went": () => Deno.removeSync(leaf),
    "one more in a tree": () => Deno.writeTextFileSync(t.out("k8/bin/tree/more"), ""),
    "a link that went": () => Deno.removeSync(t.out("k8/bin/l")),
    "a folder of another's": () => {
      Deno.renameSync(t.out("k8"), t.out(`k${later}`));
      Deno.mkdirSync(t.out("k8"));
    },
    "a convenience symlink that went": () => Deno.removeSync(`${t.ws}/bazel-bin`),
  };
  // What a look while the command ran has found counts as much as one after it.
  const both = [false, true].flatMap((isExpected) =>
    Object.entries(changes).map((one) => [isExpected, ...one] as const)
  );
  for (const [isExpected, what, change] of both) {
    expected = isExpected;
    // Times of changes are known in whole seconds only.
    later += 2_000;
    await again();
    await again();
    assert.equal(links, 0, what);
    change();
    await again();
    assert.deepEqual(state(), right, what);
    assert.equal(Deno.readLinkSync(`${t.ws}/bazel-bin`), t.out("k8/bin"), what);
  }
  // What happens after the look is the next command's.
  expected = false;
  later += 2_000;
  await again();
  t.home.expect();
  await new Promise((resolve) => setTimeout(resolve, 10));
  Deno.removeSync(leaf);
  await again();
  assert.notDeepEqual(state(), right);
  await again();
  assert.deepEqual(state(), right);

  later += 2_000;
  await again();
  await t.take([encodeFields([[2, t.home.known!.id], [3, true]])], { symlinkPrefix: "other-" }).catch(() => {});
  assert.deepEqual(state(), right);
});

Deno.test("what changed is fetched, and nothing else; a new mtime is no change", async () => {
  await using t = await laptop();
  await t.take([{ path: t.out("a"), content: "a" }, { path: t.out("b"), content: "b" }]);
  t.asked();
  await t.take([{ path: t.out("a"), content: "a", mtimeMs: 9_000 }, { path: t.out("b"), content: "B" }]);
  assert.deepEqual(t.asked(), [t.out("b")]);
  assert.deepEqual(stat(t.out("a")), { mode: "555", mtime: 9_000 });
  assert.equal(t.read(t.out("b")), "B");
});

Deno.test("a file becomes a folder, a folder a link and a link a file", async () => {
  await using t = await laptop();
  await t.take([
    { path: t.out("k8/1"), content: "file" },
    { path: t.out("k8/2"), kind: "directory", mode: 0o555 },
    { path: t.out("k8/2/x"), content: "x" },
    { path: t.out("k8/3"), target: t.ws },
  ]);
  await t.take([
    { path: t.out("k8/1/deep/x"), content: "x" },
    { path: t.out("k8/2"), target: "1" },
    { path: t.out("k8/3"), content: "file" },
  ]);
  assert.equal(t.read(t.out("k8/2/deep/x")), "x");
  assert.equal(t.read(t.out("k8/3")), "file");
  assert.deepEqual([...Deno.readDirSync(t.ws)], []);
});

Deno.test("a tree comes home exactly; other old outputs stay", async () => {
  await using t = await laptop();
  const tree = { path: t.out("k8/bin/app.runfiles"), kind: "directory" as const };
  const deep = { path: t.out("k8/bin/app.runfiles/_main/pkg"), kind: "directory" as const };
  await t.take([
    tree,
    deep,
    { path: t.out("k8/bin/app.runfiles/_main/a"), target: t.out("a") },
    { path: t.out("k8/bin/app.runfiles/_main/pkg/b"), target: t.out("b") },
    { path: t.out("k8/bin/app.runfiles/old/c"), content: "c" },
    { path: t.out("k8/bin/old"), content: "old" },
  ]);
  // Where a convenience symlink leads is named, too.
  const bin = { path: t.out("k8/bin"), kind: "directory" as const };
  await t.take([bin, tree, deep, { path: t.out("k8/bin/app.runfiles/_main/a"), target: t.out("A") }]);
  assert.equal(Deno.readLinkSync(t.out("k8/bin/app.runfiles/_main/a")), t.out("A"));
  assert.deepEqual([...Deno.readDirSync(t.out("k8/bin/app.runfiles/_main/pkg"))], []);
  assert.deepEqual([...Deno.readDirSync(t.out("k8/bin/app.runfiles"))].map((e) => e.name), ["_main"]);
  assert.equal(t.read(t.out("k8/bin/old")), "old");
});

Deno.test("a folder of an external repository comes home exactly as well, and the agent is told that it is here", async () => {
  await using t = await laptop();
  const npm = (name: string) => `${t.ob}/external/npm/${name}`;
  const kept = (name: string) => `${t.ob}/external/${name}`;
  const folder = (path: string): Made => ({ path, kind: "directory" });
  const first: Made[] = [
    folder(npm("foo")),
    { path: npm("foo/a.js"), content: "a" },
    { path: npm("foo/old.js"), content: "old" },
    { path: npm("other.js"), content: "not all of the repository was wanted" },
    folder(t.out("k8/bin/t")),
  ];
  for (const all of [false, true]) {
    await t.take(first, { all });
    Deno.writeTextFileSync(kept("@npm.marker"), "a server's");
    const { home } = await t.home.tell({ ...t.agent.link });
    assert.deepEqual(home!.trees.filter((name) => new TextDecoder().decode(name).startsWith("external")).length, 1);
    await t.take([folder(npm("foo")), { path: npm("foo/a.js"), content: "a2" }, first[4]], { all });
    assert.deepEqual([...Deno.readDirSync(npm("foo"))].map(({ name }) => name), ["a.js"]);
    assert.equal(t.read(npm("foo/a.js")), "a2");
    assert.ok(t.read(npm("other.js")));
    assert.equal(t.read(kept("@npm.marker")), "a server's");
    Deno.removeSync(kept("@npm.marker"));
  }
  // No agent can have all repositories removed, or what is beside them.
  Deno.writeTextFileSync(kept("@npm.marker"), "a server's");
  for (const path of [`${t.ob}/external`, t.ob, kept("@npm.marker"), `${t.ob}/server`]) {
    await assert.rejects(t.take([folder(path)]), (e: RbsError) => e.exitCode === 37, path);
  }
  assert.ok(t.read(npm("other.js")) && t.read(kept("@npm.marker")) && t.read(`${t.ob}/server/server.pid.txt`));
});

Deno.test("the same content is fetched once, and not at all if it is here under another name", async () => {
  await using t = await laptop();
  const content = "the same";
  await t.take([{ path: t.out("a"), content }, { path: t.out("b"), content, mode: 0o444 }]);
  assert.deepEqual(t.asked(), [t.out("a")]);
  assert.deepEqual(stat(t.out("b")), { mode: "444", mtime: 1_700_000_000_123 });
  await t.take([{ path: t.out("a"), content }, { path: t.out("c"), content }, { path: t.out("d"), content }]);
  assert.deepEqual(t.asked(), []);
  assert.equal(t.read(t.out("d")), content);
});

Deno.test("a connection that breaks in the middle goes on where it was", async () => {
  await using t = await laptop();
  const big = Buffer.alloc(20 << 20);
  for (let i = 0; i < big.length; i += 4) big.writeUInt32LE(i, i);
  const made = [{ path: t.out("a"), content: "a" }, { path: t.out("big"), content: big }, {
    path: t.out("z"),
    content: "z",
  }];
  t.agent.script = async (request, call) => {
    t.agent.script = (request, call) => t.agent.give(request, call);
    const records = request.files.flatMap(({ path }) => t.agent.records(new TextDecoder().decode(path)));
    await send(call, records.slice(0, 50));
    await call.drained;
    t.agent.cut();
  };
  assert.deepEqual(await t.take(made), { files: 3, bytes: big.length + 2 });
  assert.equal(Buffer.compare(Deno.readFileSync(t.out("big")), big), 0);
  const again = t.agent.asked.slice(3);
  assert.ok(again.length < 3, "what has arrived is not asked for again");
  assert.ok(again.every(({ path, offset }) => path !== t.out("big") || offset > 0), "nor is the beginning of a file");
});

Deno.test("an agent that is lost for good ends the command with one sentence", async () => {
  await using t = await laptop();
  const parts = t.agent.make([{ path: t.out("a"), content: "a" }]);
  t.agent.stop();
  await assert.rejects(t.take(parts), (e: RbsError) => /lost before all outputs/.test(e.message) && e.exitCode === 37);
});

Deno.test("an output that was changed at the agent meanwhile is an error of one sentence", async () => {
  await using t = await laptop();
  const parts = t.agent.make([{ path: t.out("a"), content: "a" }]);
  t.agent.contents.clear();
  await assert.rejects(t.take(parts), /changed at the agent/);
});

Deno.test("clean removes outputs and convenience symlinks, and then takes what the command has made", async () => {
  await using t = await laptop();
  await t.take([
    { path: t.out("bin/tree"), kind: "directory", mode: 0o555 },
    { path: t.out("bin/tree/x"), content: "x" },
    { path: `${t.ws}/bazel-bin`, target: t.out("bin") },
    { path: `${t.ws}/bazel-out`, target: t.out("").slice(0, -1) },
  ]);
  Deno.writeTextFileSync(`${t.ws}/main.cc`, "source");
  await t.take(t.agent.make([{ path: t.out("new"), content: "cleaned" }], { cleaned: true }));
  assert.deepEqual([...Deno.readDirSync(t.out(""))].map((e) => e.name), ["new"]);
  assert.deepEqual([...Deno.readDirSync(t.ws)].map((e) => e.name), ["main.cc"]);
  assert.equal(t.read(t.out("new")), "cleaned");
});

Deno.test("convenience symlinks that lead elsewhere go as they go with Bazel; of no other command than clean is it believed", async () => {
  await using t = await laptop();
  const links = () => [...Deno.readDirSync(t.ws)].map((e) => e.name).sort();
  for (const name of ["bazel-bin", "bazel-genfiles", "bazel-mine", "foo-bin", "bin"]) {
    Deno.symlinkSync("/another/execroot/_main", `${t.ws}/${name}`);
  }
  Deno.mkdirSync(`${t.ws}/src`);
  const lists = t.agent.make([{ path: t.out("x"), content: "x" }], { cleaned: true });
  await assert.rejects(t.take(lists, { cleans: false }), /`clean`.* refused/);
  assert.deepEqual(links(), ["bazel-bin", "bazel-genfiles", "bazel-mine", "bin", "foo-bin", "src"]);
  await t.take(lists);
  assert.deepEqual(links(), ["bazel-mine", "bin", "foo-bin", "src"]);

  for (const name of ["bazel-bin", "bazel-genfiles"]) Deno.symlinkSync("/another", `${t.ws}/${name}`);
  await t.take([{ path: `${t.ws}/bazel-bin`, target: t.out("bin") }]);
  assert.deepEqual(links(), ["bazel-bin", "bazel-mine", "bin", "foo-bin", "src"]);
  assert.equal(Deno.readLinkSync(`${t.ws}/bazel-bin`), t.out("bin"));
  await t.take([{ path: t.out("y"), content: "y" }], { cleansSymlinks: true, symlinkPrefix: "" });
  assert.deepEqual(links(), ["bazel-bin", "bazel-mine", "foo-bin", "src"]);
  Deno.removeSync(`${t.ws}/bazel-bin`);
  Deno.symlinkSync("/another", `${t.ws}/bazel-bin`);
  await t.home.expunge({ say: () => {} });
  assert.deepEqual(links(), ["bazel-mine", "foo-bin", "src"]);
});

Deno.test("a command that leaves symlinks alone has none made or removed, wherever they lead, whatever the agent says", async () => {
  await using t = await laptop();
  const names = ["bazel-bin", "bazel-out", "bazel-testlogs"];
  for (const name of names) Deno.symlinkSync("/mine", `${t.ws}/${name}`);
  const links = () => names.map((name) => Deno.readLinkSync(`${t.ws}/${name}`));
  const leavesSymlinks = true;
  const lie = [{ path: `${t.ws}/bazel-bin`, target: t.out("bin") }];
  await assert.rejects(t.take(lie, { leavesSymlinks }), /bazel-bin.*leaves alone/);
  await t.take([{ path: t.out("x"), content: "x" }], { leavesSymlinks });
  await t.take(t.agent.make([{ path: t.out("x"), content: "x" }], { cleaned: true }), { leavesSymlinks });
  await t.home.expunge({ leavesSymlinks, say: () => {} });
  assert.deepEqual(links(), ["/mine", "/mine", "/mine"]);
});

Deno.test("expunge leaves what the client needs", async () => {
  await using t = await laptop();
  Deno.symlinkSync("/usr", `${t.ob}/install`);
  Deno.writeTextFileSync(`${t.ob}/lock`, "pid=1");
  await t.take([{ path: t.out("bin/x"), content: "x" }, { path: `${t.ws}/bazel-bin`, target: t.out("bin") }]);
  await t.home.expunge({ say: (line) => t.said.push(line) });
  assert.deepEqual([...Deno.readDirSync(t.ob)].map((e) => e.name).sort(), ["install", "lock", "server"]);
  assert.equal(t.read(`${t.ob}/server/server.pid.txt`), "42");
  assert.deepEqual([...Deno.readDirSync(t.ws)], []);
  assert.equal(t.home.known, undefined);
  await t.take([{ path: t.out("bin/x"), content: "x" }]);
  assert.equal(t.read(t.out("bin/x")), "x");
});

Deno.test("convenience symlinks of ours go when the command does not make them any more; the developer's stay", async () => {
  await using t = await laptop();
  const bin = { path: `${t.ws}/bazel-bin`, target: t.out("bin") };
  const logs = { path: `${t.ws}/bazel-testlogs`, target: t.out("testlogs") };
  await t.take([bin, logs]);
  await t.take([{ path: t.out("x"), content: "x" }]);
  assert.equal([...Deno.readDirSync(t.ws)].length, 2, "a command without any leaves them");
  await t.take([bin]);
  assert.deepEqual([...Deno.readDirSync(t.ws)].map((e) => e.name), ["bazel-bin"]);
  Deno.mkdirSync(`${t.ws}/bazel-testlogs`);
  await t.take([bin, logs]);
  assert.match(t.said.join(""), /^rbs: warning: the symlink .*bazel-testlogs was not made: it is a file or folder/);
});

Deno.test("files that flags name go where the developer's own links lead; the lock file into the workspace", async () => {
  await using t = await laptop();
  const disk = t.temp.join("disk");
  Deno.mkdirSync(disk);
  Deno.writeTextFileSync(`${disk}/bep.json`, "old", { mode: 0o600 });
  Deno.symlinkSync(`${disk}/bep.json`, `${t.ws}/bep.json`);
  const other = await Deno.makeTempFile({ dir: "/dev/shm" });
  try {
    const namedFiles = [`${t.ws}/bep.json`, `${t.ws}/new/run.sh`, `${t.ws}/bazel-out/p.gz`, other];
    const made = [
      { path: `${t.ws}/bazel-out`, target: t.out("").slice(0, -1) },
      { path: namedFiles[0], content: "bep", mode: 0o644 },
      { path: namedFiles[1], content: "run", mode: 0o755 },
      { path: namedFiles[2], content: "profile", mode: 0o644 },
      { path: namedFiles[3], content: "bep", mode: 0o644 },
      { path: `${t.ws}/MODULE.bazel.lock`, content: "{}", mode: 0o644 },
    ];
    await t.take(made, { namedFiles });
    assert.ok(Deno.lstatSync(`${t.ws}/bep.json`).isSymlink);
    assert.equal(t.read(`${disk}/bep.json`), "bep");
    assert.equal(t.read(other), "bep");
    assert.equal(t.read(t.out("p.gz")), "profile");
    assert.deepEqual(stat(`${t.ws}/new/run.sh`).mode, "755");
    assert.equal(t.read(`${t.ws}/MODULE.bazel.lock`), "{}");
    t.asked();
    assert.deepEqual(await t.take(made, { namedFiles }), { files: 0, bytes: 0 });
    assert.deepEqual([...Deno.readDirSync(`${t.ob}/rbs`)].map((e) => e.name).sort(), ["agent", "outputs.index"]);
    await assert.rejects(t.take([{ path: namedFiles[0], content: "!" }]), /not a place for outputs/);
    await assert.rejects(
      t.take([{ path: t.ws + "/d", content: "!" }, { path: t.out("x"), content: "x" }], {
        namedFiles: [(Deno.mkdirSync(t.ws + "/d"), t.ws + "/d")],
      }),
      (e: RbsError) => /d cannot be written .* name another file/.test(e.message) && e.exitCode === 36,
    );
    assert.equal(t.read(t.out("x")), "x", "the others come home nevertheless");
  } finally {
    Deno.removeSync(other);
  }
});

Deno.test("a lock file that the developer has changed while the command ran stays, and is said", async () => {
  await using t = await laptop();
  const path = `${t.ws}/MODULE.bazel.lock`;
  const sources = { files: [], folders: [], onWritten() {} };
  await t.take([{ path, content: "of the command", mode: 0o644 }], { sources: { ...sources, asSent: () => true } });
  assert.equal(t.read(path), "of the command");
  Deno.writeTextFileSync(path, "checked out");
  await t.take([{ path, content: "of an older one", mode: 0o644 }], { sources: { ...sources, asSent: () => false } });
  assert.equal(t.read(path), "checked out");
  assert.match(
    t.said.join(""),
    /has written .*MODULE\.bazel\.lock, which you have changed meanwhile: your version stays/,
  );
});

Deno.test("links to an agent's storage give way to folders, and what was there before RBS comes back", async () => {
  await using t = await laptop();
  const storage = t.temp.join("storage");
  Deno.mkdirSync(`${storage}/execroot/_main`, { recursive: true });
  Deno.writeTextFileSync(`${storage}/command.log`, "theirs");
  for (const name of ["execroot", "external", "command.log"]) Deno.symlinkSync(join(storage, name), join(t.ob, name));
  Deno.mkdirSync(`${t.ob}/execroot.before-rbs`);
  Deno.writeTextFileSync(`${t.ob}/execroot.before-rbs/mine`, "mine");
  await t.take([{ path: t.out("x"), content: "x" }]);
  assert.equal(t.read(`${t.ob}/execroot/mine`), "mine");
  assert.equal(t.read(t.out("x")), "x");
  assert.equal(t.read(`${storage}/command.log`), "theirs");
  assert.deepEqual([...Deno.readDirSync(`${storage}/execroot/_main`)], []);
});

Deno.test("a runfiles tree comes home so that no later server of this machine believes it", async () => {
  await using t = await laptop();
  const tool = t.out("bin/tool");
  const made = [
    { path: `${tool}.runfiles_manifest`, content: "ws/x /x\n" },
    { path: `${tool}.runfiles`, kind: "directory" as const },
    { path: `${tool}.runfiles/MANIFEST`, content: "ws/x /x\n" },
    { path: `${tool}.runfiles/ws`, kind: "directory" as const },
    { path: `${tool}.runfiles/ws/MANIFEST`, content: "a file that is called so" },
  ];
  await t.take(made);
  assert.equal(Deno.readLinkSync(`${tool}.runfiles/MANIFEST`), "../tool.runfiles_manifest");
  assert.equal(t.read(`${tool}.runfiles/MANIFEST`), "ws/x /x\n");
  assert.equal(t.read(`${tool}.runfiles/ws/MANIFEST`), "a file that is called so");
  assert.deepEqual(await t.take(made), { files: 0, bytes: 0 });
  assert.ok(["", ".runfiles", ".runfiles/ws"].every((path) => t.home.isHome(tool + path) === (path !== "")));
  assert.ok(t.home.isHome(t.out("")) === false && t.home.isHome(t.out("bin")));
});

Deno.test("what a local server has made is put aside before anything of an agent's is written", async () => {
  await using t = await laptop();
  for (const folder of ["execroot/_main", "external/a", "action_cache"]) {
    Deno.mkdirSync(`${t.ob}/${folder}`, { recursive: true });
  }
  Deno.writeTextFileSync(`${t.ob}/external/@a.marker`, "mine");
  Deno.writeTextFileSync(`${t.ob}/external/a/x`, "mine");
  await t.take([{ path: `${t.ob}/external/a/x`, content: "theirs" }]);
  assert.equal(t.read(`${t.ob}/external/a/x`), "theirs");
  assert.deepEqual([...Deno.readDirSync(`${t.ob}/external`)].map((e) => e.name), ["a"]);
  assert.equal(t.read(`${t.ob}/external.before-rbs/a/x`), "mine");
  assert.throws(() => Deno.lstatSync(`${t.ob}/action_cache`), Deno.errors.NotFound);
});

Deno.test("Ctrl-C stops it at once, without a half file", async () => {
  await using t = await laptop();
  const controller = new AbortController();
  const big = Buffer.alloc(8 << 20, 1);
  t.agent.script = async (request, call) => {
    const records = request.files.flatMap(({ path }) => t.agent.records(new TextDecoder().decode(path)));
    await send(call, records.slice(0, 10));
    controller.abort();
  };
  const made = [{ path: t.out("a"), content: "a" }, { path: t.out("big"), content: big }];
  await assert.rejects(
    t.take(made, { signal: controller.signal }),
    (e: RbsError) => /^Interrupted/.test(e.message) && e.exitCode === 8,
  );
  assert.throws(() => Deno.lstatSync(t.out("big")), Deno.errors.NotFound);
  t.agent.script = (request, call) => t.agent.give(request, call);
  await t.take(made);
  assert.equal(Deno.readFileSync(t.out("big")).length, big.length);
});

/** May this user make a file system of its own? */
const canMount = new Deno.Command("unshare", { args: ["-rm", "true"], stderr: "null" }).outputSync().success;

Deno.test({ name: "a full disk is one sentence, and what has come stays", ignore: !canMount }, async () => {
  const url = (path: string) => JSON.stringify(new URL(path, import.meta.url).href);
  const script = `import { OutputsAgent } from ${url("../testing/outputs_agent.ts")};
    import { OutputsHome } from ${url("./outputs_sync.ts")};
    using agent = new OutputsAgent();
    const made = Array.from({ length: 9 }, (_, i) => ({ path: "/mnt/execroot/e/" + i, content: new Uint8Array(1 << 20).fill(i) }));
    const options = { link: agent.link, say() {}, signal: new AbortController().signal };
    await new OutputsHome({ outputBase: "/mnt", workspace: "/nowhere" }).take(agent.make(made), options)
      .catch((e) => console.log(e.exitCode, e.message));
    console.log([...Deno.readDirSync("/mnt/execroot/e")].length);`;
  const { stdout } = await new Deno.Command("unshare", {
    args: [
      "-rm",
      "bash",
      "-c",
      'mount -t tmpfs -o size=5m none /mnt && exec "$0" eval --ext=ts "$1"',
      Deno.execPath(),
      script,
    ],
    cwd: new URL(".", import.meta.url),
  }).output();
  assert.match(
    new TextDecoder().decode(stdout),
    /^36 The disk of \/mnt\/execroot\/e\/\d is full: make room there\.\n\d\n$/,
  );
});

Deno.test("comparing 10,000 files and links looks at each once", async () => {
  await using t = await laptop();
  const made: Made[] = [{ path: t.out("k8/bin/r"), kind: "directory" }];
  for (let i = 0; i < 5_000; i++) {
    made.push({ path: t.out(`k8/bin/r/pkg${i % 50}/link${i}`), target: t.out(`bin/pkg${i % 50}/file${i}`) });
    made.push({ path: t.out(`k8/bin/pkg${i % 50}/file${i}`), content: `${i}` });
  }
  await t.take(made);
  const unchanged = [encodeFields([[2, t.home.known!.id], [3, true]])];
  const { lstatSync, readLinkSync } = Deno;
  let looks = 0;
  Deno.lstatSync = (path) => (looks++, lstatSync(path));
  Deno.readLinkSync = (path) => (looks++, readLinkSync(path));
  try {
    assert.deepEqual(await t.take(unchanged), { files: 0, bytes: 0 });
  } finally {
    Object.assign(Deno, { lstatSync, readLinkSync });
  }
  assert.ok(looks >= 10_000 && looks < 11_000, `${looks} looks`);
});

/** Encoded Outputs messages of a command that tells what is here of earlier ones. */
function withHome(agent: OutputsAgent, made: Made[], home: Made[], gone: string[] = []): Uint8Array[] {
  const [first, last] = agent.make(home);
  const entries: [number, Uint8Array][] = [];
  for (const part of [first, last]) {
    scanFields(part, (field) => {
      if (field.number === 1) entries.push([6, bytesValue(part, field)]);
    });
  }
  return [...agent.make(made), encodeFields([...entries, ...gone.map((path): [number, string] => [7, path])])];
}

Deno.test("what is here of earlier commands becomes the agent's, or goes", async () => {
  await using t = await laptop();
  await t.take([
    { path: t.out("k8/bin/gen.h"), content: "one" },
    { path: t.out("k8/bin/current"), target: "gen.h" },
    { path: t.out("k8/bin/lib"), content: "lib" },
    { path: t.out("k8/bin/tool.runfiles"), kind: "directory", mode: 0o555 },
    { path: t.out("k8/bin/tool.runfiles/old"), content: "old" },
    { path: t.out("k8/bin/left.runfiles"), kind: "directory" },
    { path: t.out("k8/bin/left.runfiles/x"), content: "x" },
  ]);
  Deno.writeTextFileSync(`${t.ob}/mine`, "not an output");
  const app: Made[] = [{ path: t.out("k8/bin/app"), content: "app" }];
  await t.take(withHome(t.agent, app, [
    { path: t.out("k8/bin/gen.h"), content: "two" },
    { path: t.out("k8/bin/current"), target: "app" },
    { path: t.out("k8/bin/tool.runfiles"), kind: "directory", mode: 0o555 },
    { path: t.out("k8/bin/tool.runfiles/new"), content: "new" },
  ], [
    t.out("k8/bin/lib"),
    t.out("k8/bin/left.runfiles"),
    `${t.ob}/mine`,
    `${t.ob}/server/server.pid.txt`,
    `${t.ws}/x`,
  ]));
  assert.deepEqual([...Deno.readDirSync(t.out("k8/bin"))].map((e) => e.name).sort(), [
    "app",
    "current",
    "gen.h",
    "tool.runfiles",
  ]);
  assert.equal(t.read(t.out("k8/bin/gen.h")), "two");
  assert.equal(Deno.readLinkSync(t.out("k8/bin/current")), "app");
  assert.deepEqual([...Deno.readDirSync(t.out("k8/bin/tool.runfiles"))].map((e) => e.name), ["new"]);
  assert.equal(t.read(`${t.ob}/mine`), "not an output");
  assert.equal(t.read(`${t.ob}/server/server.pid.txt`), "42");
  // The same command again has nothing new, but for this.
  t.asked();
  const unchanged = encodeFields([[2, t.home.known!.id], [3, true]]);
  const [, , home] = withHome(t.agent, app, [{ path: t.out("k8/bin/gen.h"), content: "three" }]);
  await t.take([unchanged, home]);
  assert.deepEqual([t.read(t.out("k8/bin/gen.h")), t.asked()], ["three", [t.out("k8/bin/gen.h")]]);
  const outside = withHome(t.agent, app, [{ path: `${t.ws}/bazel-bin`, target: t.out("k8/bin") }]);
  await assert.rejects(t.take(outside), /was no output of an earlier command/);
});

Deno.test("an agent is told what is here if it cannot know: a new one, after a failure, and after this process was killed", async () => {
  await using t = await laptop();
  const told = async (link = t.agent.link) => {
    const told = await t.home.tell(link);
    const text = (names: Uint8Array[]) => names.map((name) => new TextDecoder().decode(name).split("/bin/")[1]).sort();
    return { told, home: told.home && { leaves: text(told.home.leaves), trees: text(told.home.trees) } };
  };
  const made: Made[] = [
    { path: t.out("k8/bin/a"), content: "a" },
    { path: t.out("k8/bin/l"), target: "a" },
    { path: t.out("k8/bin/t.runfiles"), kind: "directory" },
    { path: t.out("k8/bin/t.runfiles/x"), content: "x" },
    { path: t.out("k8/bin/folder"), kind: "directory" },
    { path: t.out("k8/bin/folder/y"), content: "y" },
  ];
  const first = await told();
  assert.deepEqual(first.home, { leaves: [], trees: [] });
  await t.take(made, { told: first.told });
  const second = await told();
  assert.equal(second.home, undefined, "it knows");
  await assert.rejects(t.take([encodeFields([[3, true]])], { told: second.told }));
  const all = { leaves: ["a", "l"], trees: ["folder", "t.runfiles"] };
  const third = await told();
  assert.deepEqual(third.home, all, "the last command's outputs have not come");
  await t.take(made, { told: third.told });
  assert.deepEqual((await told({ ...t.agent.link })).home, all, "another agent");
  t.restart();
  assert.deepEqual((await told()).home, all);
  // Killed while something came home.
  t.agent.script = () => {
    t.restart();
    throw new StatusError(Status.INTERNAL, "killed");
  };
  await assert.rejects(t.take([...made, { path: t.out("k8/bin/new"), content: "new" }]));
  Deno.removeSync(`${t.ob}/rbs/outputs.index`);
  t.restart();
  assert.deepEqual(
    (await told()).home,
    { leaves: ["a", "folder/y", "l"], trees: ["t.runfiles"] },
    "what is found here",
  );
});

Deno.test("an agent is told what is here after a take that failed, whatever other commands did meanwhile", async () => {
  await using t = await laptop();
  const gen = t.out("k8/bin/gen.h"), app = t.out("k8/bin/app"), { link } = t.agent;
  const stopped = { signal: AbortSignal.abort() };
  const isTold = async () => {
    const told = await t.home.tell(link);
    await t.take([{ path: app, content: "app" }], { told });
    return told.home !== undefined;
  };
  await t.take([{ path: gen, content: "old" }], { told: await t.home.tell(link) });
  assert.equal(await isTold(), false);

  const first = await t.home.tell(link), second = await t.home.tell(link);
  await assert.rejects(t.take([{ path: gen, content: "new" }], { told: first, ...stopped }));
  await t.take([{ path: app, content: "app" }], { told: second });
  assert.equal(await isTold(), true, "the first of two has failed");
  assert.equal(await isTold(), false);

  const third = await t.home.tell(link), fourth = await t.home.tell(link);
  await t.take([{ path: app, content: "app" }], { told: fourth });
  assert.equal(await isTold(), true, "the first of two is not here yet");
  await t.take([{ path: gen, content: "new" }], { told: third });
  assert.equal(await isTold(), false, "and now it is");

  // Nothing is told with these, and the agent forgets what it has sent, or that it was here.
  await assert.rejects(t.take(t.agent.make([], { cleaned: true }), stopped));
  assert.equal(await isTold(), true, "a clean that was interrupted");
  await t.home.tell(link);
  t.home.forgetTold();
  assert.equal(await isTold(), true, "a command whose answer never came");
  assert.equal(await isTold(), false);
  await t.home.expunge({ say: () => {} });
  assert.equal(await isTold(), true, "nothing is here any more");
});

Deno.test("after a command that brings all outputs, folders are none", async () => {
  await using t = await laptop();
  await t.take([
    { path: t.out("k8/bin/package"), kind: "directory" },
    { path: t.out("k8/bin/package/a"), content: "a" },
    { path: t.out("k8/bin/t.runfiles"), kind: "directory" },
    { path: t.out("k8/bin/t.runfiles/x"), content: "x" },
  ], { all: true });
  const { home } = await t.home.tell(t.agent.link);
  const text = (names: Uint8Array[]) => names.map((name) => new TextDecoder().decode(name).split("/bin/")[1]);
  assert.deepEqual([text(home!.leaves), text(home!.trees)], [["package/a"], ["t.runfiles"]]);
});

Deno.test("after Ctrl-C nothing that grew old stays, also if the new one does not come in time", async () => {
  await using t = await laptop();
  const named = t.temp.join("profile");
  await t.take([{ path: t.out("bin/a"), content: "old" }, { path: t.out("bin/b"), content: "same" }]);
  Deno.writeTextFileSync(named, "earlier profile");
  const stop = new AbortController();
  t.agent.script = () => stop.abort();
  const made: Made[] = [
    { path: t.out("bin/a"), content: "new" },
    { path: t.out("bin/b"), content: "same" },
    { path: named, content: "profile" },
  ];
  const taking = t.take(made, { signal: stop.signal, interrupted: true, namedFiles: [named] });
  await assert.rejects(taking, (e: RbsError) => e.exitCode === 8);
  assert.deepEqual([...Deno.readDirSync(t.out("bin"))].map((e) => e.name), ["b"]);
  assert.equal(t.read(named), "earlier profile");
});

Deno.test("what a command leaves beside its outputs never takes its exit code: the outputs come, and a warning", async () => {
  await using t = await laptop();
  // Nobody can make anything there, whoever they are.
  const home = new OutputsHome({ outputBase: t.ob, workspace: "/proc/sys/kernel" });
  Deno.writeTextFileSync(t.temp.join("plain"), "a file");
  const profile = t.temp.join("plain/profile.gz"), events = t.temp.join("plain/events.json");
  const made: Made[] = [
    { path: "/proc/sys/kernel/bazel-bin", target: t.out("bin") },
    { path: "/proc/sys/kernel/MODULE.bazel.lock", content: "{}" },
    { path: t.out("bin/a"), content: "a" },
    { path: profile, content: "profile" },
  ];
  const options: TakeOptions = {
    link: t.agent.link,
    say: (line) => t.said.push(line),
    signal: new AbortController().signal,
    secondaryFiles: new Set([profile]),
    namedFiles: [profile, events],
  };
  await home.take(t.agent.make(made), options);
  assert.equal(t.read(t.out("bin/a")), "a");
  assert.deepEqual(
    t.said.map((line) => /^rbs: warning: (the symlink \S+|\S+)/.exec(line)?.[1]).sort(),
    [
      "/proc/sys/kernel/MODULE.bazel.lock",
      profile,
      "the symlink /proc/sys/kernel/bazel-bin",
    ].sort(),
  );
  // The build events are what the command was asked for; they come last.
  const more: Made[] = [...made, { path: events, content: "events" }, { path: t.out("bin/b"), content: "b" }];
  await assert.rejects(home.take(t.agent.make(more), options), (e: RbsError) => e.exitCode === 36);
  assert.equal(t.read(t.out("bin/b")), "b");
});

Deno.test("convenience symlinks go as the command says: those of its prefix, all at once, or not at all", async () => {
  await using t = await laptop();
  const links = () => [...Deno.readDirSync(t.ws)].map((e) => e.name).sort();
  const target = t.out("bin");
  const out = { path: `${t.ws}/bazel-out`, target: t.out("").slice(0, -1) };
  const both: Made[] = [{ path: `${t.ws}/bazel-bin`, target }, out];
  await t.take(both);
  await t.take([{ path: `${t.ws}/foo-bin`, target }, out], { symlinkPrefix: "foo-" });
  assert.deepEqual(links(), ["bazel-bin", "bazel-out", "foo-bin"]);
  await t.take([{ path: t.out("bin/x"), content: "" }], { leavesSymlinks: true });
  assert.deepEqual(links(), ["bazel-bin", "bazel-out", "foo-bin"]);
  await t.take(t.agent.make([out], { cleaned: true }), { symlinkPrefix: "foo-" });
  assert.deepEqual(links(), ["bazel-bin", "bazel-out"]);
  await t.take([{ path: t.out("bin/x"), content: "" }], { cleansSymlinks: true });
  assert.deepEqual(links(), []);
  await t.take(both);
  await t.take(t.agent.make([], { cleaned: true }), { leavesSymlinks: true });
  assert.deepEqual(links(), ["bazel-bin", "bazel-out"]);
  await t.take(t.agent.make([], { cleaned: true }));
  assert.deepEqual(links(), []);
});
