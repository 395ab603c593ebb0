import assert from "node:assert/strict";
import { random } from "../testing/pipe.ts";
import { changeTree, describeFolder, describeTree, makeTree, writeMadeTree } from "../testing/trees.ts";
import { tempDir } from "../../tests/support/temp_dir.ts";
import { sameDigest } from "./entry.ts";
import { decodeName } from "./names.ts";
import { renameSync } from "./file_calls.ts";
import { digestFile, digestOf } from "./read.ts";
import { scanTree } from "./scan.ts";
import { localFiles } from "./local_files.ts";

const at = (seconds: number) => new Date(1_600_000_000_000 + seconds * 1000);

Deno.test("a scan finds what is there, whatever its name", async () => {
  for (let seed = 0; seed < 15; seed++) {
    await using directory = await tempDir();
    const tree = makeTree(random(seed), 60, seed % 3 === 0);
    writeMadeTree(directory.path, tree);
    assert.deepEqual(await describeFolder(directory.path), describeTree(tree, digestOf), `seed ${seed}`);
  }
});

Deno.test("a scan follows no symlink", async () => {
  await using directory = await tempDir();
  Deno.mkdirSync(directory.join("real"));
  Deno.writeTextFileSync(directory.join("real/file"), "x");
  Deno.symlinkSync("real", directory.join("link"));
  Deno.symlinkSync(".", directory.join("loop"));
  Deno.symlinkSync("gone", directory.join("dangling"));
  assert.deepEqual([...(await scanTree(localFiles, directory.path)).keys()].sort(), [
    "dangling",
    "link",
    "loop",
    "real",
    "real/file",
  ]);
  assert.equal((await scanTree(localFiles, directory.path)).get("dangling")!.target, "gone");
  assert.equal((await scanTree(localFiles, directory.path, { under: "link/file" })).size, 0);
  assert.deepEqual([...(await scanTree(localFiles, directory.path, { under: "link" })).keys()], ["link"]);
  assert.deepEqual([...(await scanTree(localFiles, directory.path, { under: "real" })).keys()].sort(), [
    "real",
    "real/file",
  ]);
  // The root itself may be one: whoever names it knows.
  assert.deepEqual([...(await scanTree(localFiles, directory.join("link"))).keys()], ["file"]);
});

Deno.test("pipes, sockets and devices are left out, and named", async () => {
  await using directory = await tempDir();
  const made = await new Deno.Command("mkfifo", { args: [directory.join("pipe")] }).output();
  assert.ok(made.success);
  using _socket = Deno.listen({ transport: "unix", path: directory.join("socket") });
  const device = await new Deno.Command("mknod", { args: [directory.join("null"), "c", "1", "3"], stderr: "null" })
    .output();
  const skipped: string[] = [];
  const found = await scanTree(localFiles, directory.path, {
    onSkipped: (path, what) => skipped.push(`${path} ${what}`),
  });
  assert.equal(found.size, 0);
  const expected = ["pipe", "socket", ...device.success ? ["null"] : []];
  assert.deepEqual(skipped.sort(), expected.sort().map((name) => `${name} is no file, folder or symlink`));
});

Deno.test("what is skipped is not looked into", async () => {
  await using directory = await tempDir();
  for (const name of [".git/objects", "bazel-out/x", "src"]) Deno.mkdirSync(directory.join(name), { recursive: true });
  const asked: string[] = [];
  const found = await scanTree(localFiles, directory.path, {
    skip(path) {
      asked.push(path);
      return path === ".git" || path.startsWith("bazel-");
    },
  });
  assert.deepEqual([...found.keys()], ["src"]);
  assert.deepEqual(asked.sort(), [".git", "bazel-out", "src"]);
});

Deno.test("digests are carried over to files that look the same, and to no others", async () => {
  await using directory = await tempDir();
  const names = ["same", "content", "size", "replaced", "turned"];
  for (const name of names) {
    Deno.writeTextFileSync(directory.join(name), "before");
    Deno.utimeSync(directory.join(name), at(0), at(0));
  }
  const digest = digestOf(new Uint8Array());
  const previous = await scanTree(localFiles, directory.path);
  for (const entry of previous.values()) entry.digest = digest;
  Deno.writeTextFileSync(directory.join("content"), "after!");
  Deno.utimeSync(directory.join("content"), at(1), at(1));
  Deno.writeTextFileSync(directory.join("size"), "longer than before");
  Deno.utimeSync(directory.join("size"), at(0), at(0));
  Deno.writeTextFileSync(directory.join("new"), "after!");
  Deno.utimeSync(directory.join("new"), at(0), at(0));
  Deno.renameSync(directory.join("new"), directory.join("replaced"));
  Deno.removeSync(directory.join("turned"));
  Deno.symlinkSync("same", directory.join("turned"));
  const found = await scanTree(localFiles, directory.path, { previous });
  assert.deepEqual([...found.values()].filter((e) => e.digest).map((e) => e.path), ["same"]);
});

Deno.test("a file that was changed a moment ago is not trusted the next time", async () => {
  await using directory = await tempDir();
  Deno.writeTextFileSync(directory.join("fresh"), "x");
  Deno.writeTextFileSync(directory.join("old"), "x");
  Deno.utimeSync(directory.join("old"), at(0), at(0));
  const soon = new Date(Date.now() + 10_000);
  Deno.writeTextFileSync(directory.join("future"), "x");
  Deno.utimeSync(directory.join("future"), soon, soon);
  // What Bazel's install base has: no clock is so far ahead.
  const far = new Date(Date.now() + 10 * 365 * 24 * 3600 * 1000);
  Deno.writeTextFileSync(directory.join("far"), "x");
  Deno.utimeSync(directory.join("far"), far, far);
  const now = new Date();
  Deno.utimeSync(directory.join("fresh"), now, now);
  const previous = await scanTree(localFiles, directory.path);
  for (const entry of previous.values()) entry.digest = digestFile(localFiles, directory.join(entry.path));
  assert.ok(!previous.get("old")!.racy);
  assert.ok(previous.get("future")!.racy);
  assert.ok(!previous.get("far")!.racy);
  const found = await scanTree(localFiles, directory.path, { previous });
  assert.equal(found.get("fresh")!.digest === undefined, previous.get("fresh")!.racy);
  assert.ok(found.get("old")!.digest);
  assert.equal(found.get("future")!.digest, undefined);
});

Deno.test("any change is seen by a scan that knows what was there before", async () => {
  for (let seed = 100; seed < 110; seed++) {
    await using directory = await tempDir();
    const below = random(seed);
    const before = makeTree(below, 40), after = changeTree(below, before);
    const root = directory.join("tree");
    Deno.mkdirSync(root);
    writeMadeTree(root, before);
    const previous = await scanTree(localFiles, root);
    for (const e of previous.values()) if (e.kind === "file") e.digest = digestFile(localFiles, `${root}/${e.path}`);
    Deno.renameSync(root, directory.join("old"));
    Deno.mkdirSync(root);
    writeMadeTree(root, after);
    const found = await scanTree(localFiles, root, { previous });
    for (const e of found.values()) {
      if (e.digest) assert.ok(sameDigest(e.digest, digestFile(localFiles, `${root}/${e.path}`)), `seed ${seed}`);
    }
  }
});

Deno.test("a folder that cannot be read is named; a root that cannot be is an error, and one that is not there is empty", async () => {
  await using directory = await tempDir();
  assert.equal((await scanTree(localFiles, directory.join("gone"))).size, 0);
  Deno.writeTextFileSync(directory.join("file"), "x");
  assert.equal((await scanTree(localFiles, directory.join("file"))).size, 0);
  // Root may read everything; a folder whose listing needs bash, and none to be had, cannot be read by anybody.
  Deno.mkdirSync(directory.join("tree/closed"), { recursive: true });
  Deno.writeTextFileSync(directory.join("x"), "x");
  renameSync(directory.join("x"), directory.join("tree/closed", decodeName(Uint8Array.of(0xff))));
  const script = `import { localFiles } from ${JSON.stringify(new URL("./local_files.ts", import.meta.url))};
    import { scanTree } from ${JSON.stringify(new URL("./scan.ts", import.meta.url))};
    const scan = async (root) => console.log(
      [...(await scanTree(localFiles, root, { onSkipped: (...what) => console.log(...what) })).keys()]);
    await scan(Deno.args[0]);
    await scan(Deno.args[0] + "/closed").catch((e) => console.log(e.name, e.message));`;
  Deno.writeTextFileSync(directory.join("scan.ts"), script);
  const { stdout } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-config", "--allow-read", "--no-prompt", directory.join("scan.ts"), directory.join("tree")],
    stderr: "null",
  }).output();
  const [skipped, found, error] = new TextDecoder().decode(stdout).split("\n");
  assert.equal(skipped, "closed cannot be read");
  assert.equal(found, '[ "closed" ]');
  assert.match(error, /^RbsError The folder .*closed cannot be read/);
});

Deno.test("a scan is ended by its signal, and lets others work meanwhile", async () => {
  await using directory = await tempDir();
  for (let i = 0; i < 300; i++) {
    Deno.mkdirSync(directory.join(`d${i}`));
    for (let j = 0; j < 20; j++) Deno.writeTextFileSync(directory.join(`d${i}/f${j}`), "");
  }
  const stop = new AbortController();
  const timer = setTimeout(() => stop.abort(), 0);
  await assert.rejects(scanTree(localFiles, directory.path, { signal: stop.signal }), { name: "AbortError" });
  clearTimeout(timer);
});

Deno.test("what looks the same is the very entry that was found before, whatever came and went around it", async () => {
  await using directory = await tempDir();
  const root = directory.path;
  for (let i = 0; i < 20; i++) {
    Deno.mkdirSync(`${root}/d${i}/e`, { recursive: true });
    for (let j = 0; j < 10; j++) {
      Deno.writeTextFileSync(`${root}/d${i}/e/f${j}`, `${i} ${j}`);
      Deno.utimeSync(`${root}/d${i}/e/f${j}`, at(0), at(0));
    }
  }
  let previous = await scanTree(localFiles, root);
  const changes = [
    () => {},
    () => Deno.removeSync(`${root}/d3`, { recursive: true }),
    () => Deno.removeSync(`${root}/d7/e/f2`),
    () => Deno.writeTextFileSync(`${root}/d9/e/new`, "new"),
    () => Deno.renameSync(`${root}/d11`, `${root}/renamed`),
    () => {
      Deno.removeSync(`${root}/d13/e`, { recursive: true });
      Deno.writeTextFileSync(`${root}/d13/e`, "a file");
    },
  ];
  for (const [i, change] of changes.entries()) {
    change();
    const found = await scanTree(localFiles, root, { previous });
    const fresh = await scanTree(localFiles, root);
    assert.deepEqual([...found.keys()].sort(), [...fresh.keys()].sort(), `change ${i}`);
    let others = 0;
    for (const [path, entry] of found) {
      assert.deepEqual({ ...entry, racy: false }, { ...fresh.get(path)!, racy: false });
      if (previous.get(path) !== entry) others++;
    }
    assert.ok(others <= (i === 4 ? 13 : i === 0 ? 0 : 3), `change ${i}: ${others} entries are others`);
    // As a tree that was changed in places: in another order than the next scan's.
    previous = new Map([...found].sort(([a], [b]) => i % 2 ? a < b ? -1 : 1 : 0));
  }
});

Deno.test("each folder's entries are told once it was listed, and who is told may ask for time", async () => {
  await using directory = await tempDir();
  for (const path of ["a/b", "c"]) Deno.mkdirSync(directory.join(path), { recursive: true });
  for (const path of ["a/f", "a/b/g", "h"]) Deno.writeTextFileSync(directory.join(path), path);
  const told: string[] = [];
  let waited = 0;
  const found = await scanTree(localFiles, directory.path, {
    onFound(entries) {
      told.push(...entries.map(({ path }) => path));
      for (const { path } of entries) {
        const folder = path.slice(0, Math.max(0, path.lastIndexOf("/")));
        assert.ok(folder === "" || told.indexOf(folder) < told.indexOf(path));
      }
      return new Promise((resolve) => setTimeout(() => resolve(void waited++)));
    },
  });
  assert.deepEqual(told.sort(), [...found.keys()].sort());
  assert.equal(waited, 4);
});
