import assert from "node:assert/strict";
import { FolderWatcher, type Hints, type WatcherOptions } from "./watcher.ts";
import { tempDirSync } from "../../tests/support/temp_dir.ts";

/** A folder to watch, a folder for cookies, and a watcher; all go with the scope. */
function setUp(options: WatcherOptions = {}, folders: string[] = []) {
  const temp = tempDirSync(), root = temp.join("ws");
  Deno.mkdirSync(root);
  for (const folder of folders) Deno.mkdirSync(`${root}/${folder}`, { recursive: true });
  const watcher = new FolderWatcher(temp.join("cookies"), options);
  return {
    root,
    watcher,
    path: (name: string) => `${root}/${name}`,
    watch: (...names: string[]) => watcher.restart([root, ...names.map((n) => `${root}/${n}`)]),
    /** The changed paths, relative to the root. */
    async changed(): Promise<string[]> {
      const hints = await watcher.collect();
      assert.ok(hints, `the watcher doubts: ${watcher.doubt}`);
      return relative(root, hints.changed);
    },
    [Symbol.dispose]() {
      watcher.close();
      temp[Symbol.dispose]();
    },
  };
}

function relative(root: string, paths: Set<string>): string[] {
  return [...paths].filter((p) => p.startsWith(root)).map((p) => p.slice(root.length + 1)).sort();
}

/** Lets the watcher see that no event waits; else many changes look like a burst. */
const quiet = () => new Promise((resolve) => setTimeout(resolve, 10));

const CHANGES: [string, (path: (name: string) => string) => void, string[]][] = [
  ["a new file", (path) => Deno.writeTextFileSync(path("a/new"), "x"), ["a/new"]],
  ["an edit", (path) => Deno.writeTextFileSync(path("a/old"), "y"), ["a/old"]],
  ["an appended byte", (path) => Deno.writeTextFileSync(path("a/old"), "z", { append: true }), ["a/old"]],
  ["a mode", (path) => Deno.chmodSync(path("a/old"), 0o755), ["a/old"]],
  ["a time", (path) => Deno.utimeSync(path("a/old"), 1, 1), ["a/old"]],
  ["a removal", (path) => Deno.removeSync(path("a/old")), ["a/old"]],
  ["a rename", (path) => Deno.renameSync(path("a/old"), path("moved")), ["a/old", "moved"]],
  ["a symlink", (path) => Deno.symlinkSync("old", path("a/link")), ["a/link"]],
  ["a dangling symlink", (path) => Deno.symlinkSync("nowhere", path("a/link")), ["a/link"]],
  ["a symlink out of the tree", (path) => Deno.symlinkSync("/usr/lib", path("a/link")), ["a/link"]],
  ["a new folder", (path) => Deno.mkdirSync(path("a/b")), ["a/b"]],
  ["a folder's mode", (path) => Deno.chmodSync(path("a"), 0o700), ["a"]],
];

for (const [what, change, expected] of CHANGES) {
  Deno.test(`${what} is seen by a collect right after it`, async () => {
    using t = setUp({}, ["a"]);
    Deno.writeTextFileSync(t.path("a/old"), "x");
    await t.watch("a");
    assert.deepEqual(await t.changed(), []);
    change(t.path);
    assert.deepEqual(await t.changed(), expected);
    assert.deepEqual(await t.changed(), []);
  });
}

Deno.test("what was there before is not trusted until the watcher was started", async () => {
  using t = setUp();
  assert.equal(await t.watcher.collect(), undefined);
  await t.watch();
  assert.deepEqual(await t.changed(), []);
});

Deno.test("a folder that was renamed away and back is not watched any more, nor what is below it", async () => {
  using t = setUp({}, ["a/b/c", "other"]);
  const watched = () => ["", "/a", "/a/b", "/a/b/c", "/other"].filter((p) => t.watcher.watches(t.root + p));
  await t.watch("a", "a/b", "a/b/c", "other");
  Deno.renameSync(t.path("a"), t.path("z"));
  Deno.renameSync(t.path("z"), t.path("a"));
  const hints = await t.watcher.collect() as Hints;
  assert.ok(hints.replaced.has(t.path("a")));
  assert.deepEqual(watched(), ["", "/other"]);
  t.watcher.add([t.path("a"), t.path("a/b"), t.path("a/b/c")]);
  assert.deepEqual(watched(), ["", "/other"], "the system would tell nothing of them");
  await t.watch("a", "a/b", "a/b/c");
  Deno.writeTextFileSync(t.path("a/b/c/f"), "");
  assert.deepEqual(await t.changed(), ["a/b/c/f"]);
});

Deno.test("a folder that was renamed is watched by its new name, with what is below it", async () => {
  using t = setUp({}, ["a/b"]);
  await t.watch("a", "a/b");
  Deno.renameSync(t.path("a"), t.path("z"));
  await t.changed();
  t.watcher.add([t.path("z"), t.path("z/b")]);
  Deno.writeTextFileSync(t.path("z/b/f"), "");
  assert.deepEqual(await t.changed(), ["z/b/f"]);
});

Deno.test("folders are added until there is one watcher too many, and no change is missed meanwhile", async () => {
  using t = setUp({}, ["again"]);
  await t.watch("again");
  for (let i = 0; i < 40; i++) {
    await quiet();
    Deno.removeSync(t.path("again"), { recursive: true });
    Deno.mkdirSync(t.path("again"));
    Deno.mkdirSync(t.path(`d${i}`));
    await t.changed();
    await quiet();
    t.watcher.add([t.path(`d${i}`), t.path("again")]);
    const seen = t.watcher.watches(t.path("again"));
    Deno.writeTextFileSync(t.path(`d${i}/f`), "");
    Deno.writeTextFileSync(t.path("again/f"), "");
    assert.deepEqual(await t.changed(), seen ? ["again/f", `d${i}/f`] : [`d${i}/f`]);
  }
});

Deno.test("no burst of changes loses one without a doubt", async () => {
  using t = setUp({}, Array.from({ length: 50 }, (_, i) => `d${i}`));
  const folders = Array.from({ length: 50 }, (_, i) => `d${i}`);
  let doubts = 0;
  for (const files of [1, 2, 3, 5, 8, 20, 100, 1000]) {
    await t.watch(...folders);
    await t.changed();
    // From another process, while this one is idle, as a version control system does it.
    const script = `for ((i = 0; i < ${files}; i++)); do echo ${files} > "$0/d$((i % 50))/f$i"; done`;
    await new Deno.Command("bash", { args: ["-c", script, t.root] }).output();
    const hints = await t.watcher.collect();
    if (hints) assert.equal(relative(t.root, hints.changed).length, files, `${files} files`);
    else doubts++;
    if (files === 1) assert.ok(hints, "one file is no burst");
    if (files === 1000) assert.ok(!hints, "a thousand files are");
  }
  assert.ok(doubts < 8);
});

Deno.test("a change while this process is busy is not lost without a doubt", async () => {
  using t = setUp();
  await t.watch();
  await t.changed();
  for (let i = 0; i < 300; i++) Deno.writeTextFileSync(t.path(`f${i}`), "");
  const hints = await t.watcher.collect();
  assert.ok(!hints || hints.changed.size === 300);
});

Deno.test("a name that is not UTF-8 is a reason for doubt, and the watcher goes on after it", async () => {
  using t = setUp();
  await t.watch();
  await new Deno.Command("bash", { args: ["-c", `echo > "$0/"$'r\\xff'`, t.root] }).output();
  assert.equal(await t.watcher.collect(), undefined);
  await t.watch();
  Deno.writeTextFileSync(t.path("f"), "");
  assert.deepEqual(await t.changed(), ["f"]);
});

Deno.test("events that do not come are a reason for doubt", async () => {
  const silent = {
    [Symbol.asyncIterator]: () => ({ next: () => new Promise(() => {}) }),
    close() {},
  } as unknown as Deno.FsWatcher;
  using t = setUp({ open: () => silent, cookieMs: 5 });
  await t.watch();
  assert.equal(await t.watcher.collect(), undefined);
  assert.equal(t.watcher.doubt, "events do not come");
});

Deno.test("a cookie of which the event was lost is touched again", async () => {
  let drops = 0;
  /** Swallows the first two events of each cookie. */
  const open = (paths: string[]) => {
    const real = Deno.watchFs(paths, { recursive: false });
    async function* rest() {
      let left = 2;
      for await (const event of real) {
        if (event.paths.some((path) => path.includes("/cookie-")) && left-- > 0) drops++;
        else yield event;
      }
    }
    return { [Symbol.asyncIterator]: rest, close: () => real.close() } as unknown as Deno.FsWatcher;
  };
  using t = setUp({ open, cookieMs: 60_000 }, ["a"]);
  await t.watch("a");
  Deno.writeTextFileSync(t.path("a/f"), "");
  assert.deepEqual(await t.changed(), ["a/f"]);
  assert.equal(drops, 2);
});

Deno.test("who knows that events were lost need not wait for the rest of them; other doubts are none of that kind", async () => {
  let losses = 0;
  using t = setUp({ cookieMs: 60_000, onLoss: () => losses++ }, ["a"]);
  assert.equal(t.watcher.isLossy, false, "nothing is watched yet");
  await t.watch("a");
  assert.equal(t.watcher.isLossy, false);
  for (let i = 0; i < 2_000; i++) Deno.writeTextFileSync(t.path(`a/${i}`), "");
  assert.equal(await t.watcher.collect(), undefined);
  assert.deepEqual([t.watcher.isLossy, losses], [true, 1]);
  await t.watch("a");
  assert.deepEqual(await t.changed(), []);
  assert.equal(t.watcher.isLossy, false);
  t.watcher.doubtAll("a folder is another one");
  assert.equal(t.watcher.isLossy, false);
});

Deno.test("who does not answer is not closed, since all would wait with it: of a pipe that is gone", async () => {
  let closed = 0;
  const silent = {
    [Symbol.asyncIterator]: () => ({ next: () => new Promise(() => {}) }),
    close: () => void closed++,
  } as unknown as Deno.FsWatcher;
  using t = setUp({ open: () => silent, cookieMs: 5 });
  for (let i = 0; i < 3; i++) {
    await t.watch();
    assert.equal(await t.watcher.collect(), undefined);
  }
  assert.equal(closed, 0);
  t.watcher.close();
  assert.equal(closed, 0);
});

Deno.test("too many folders: the system's refusal is not tried again at once", async () => {
  let tries = 0, now = 1e6;
  using t = setUp({
    open() {
      tries++;
      throw new Error("OS file watch limit reached.");
    },
    clock: { wall: () => now, steady: () => now },
  });
  await t.watch();
  await t.watch();
  assert.equal(await t.watcher.collect(), undefined);
  assert.match(t.watcher.doubt!, /1 folders cannot be watched \(OS file watch limit/);
  assert.equal(tries, 1);
  now += 120_000;
  await t.watch();
  assert.equal(tries, 2);
});

Deno.test("a file system that tells nothing is never trusted", async () => {
  using t = setUp({ fileSystem: () => 0x6969 });
  await t.watch();
  assert.equal(await t.watcher.collect(), undefined);
  assert.match(t.watcher.doubt!, /is on NFS/);
});

Deno.test("a machine that slept is a reason for doubt", async () => {
  let slept = 0;
  using t = setUp({ clock: { wall: () => 1e6 + slept, steady: () => 1e6 } });
  await t.watch();
  assert.deepEqual(await t.changed(), []);
  slept = 60_000;
  assert.equal(await t.watcher.collect(), undefined);
  await t.watch();
  assert.deepEqual(await t.changed(), []);
});

Deno.test("a folder that vanished before it could be watched, or is a symlink, is left out", async () => {
  using t = setUp({}, ["a"]);
  Deno.symlinkSync("/usr", t.path("link"));
  await t.watch("a", "gone", "link");
  assert.deepEqual(await t.changed(), []);
  assert.deepEqual(["a", "gone", "link"].map((f) => t.watcher.watches(t.path(f))), [true, false, false]);
});

Deno.test("a named pipe behind a burst of changes holds up nobody", async () => {
  // By itself, since a fault would hold up all tests.
  const script = `
    import { FolderWatcher } from ${JSON.stringify(import.meta.resolve("./watcher.ts"))};
    for (const n of [12, 20, 40]) {
      const folder = Deno.makeTempDirSync();
      Deno.mkdirSync(folder + "/a");
      const watcher = new FolderWatcher(folder + "/cookies");
      await watcher.restart([folder + "/a"]);
      await watcher.collect();
      for (let i = 0; i < n; i++) Deno.writeTextFileSync(folder + "/a/" + i, "");
      const hints = watcher.collect();
      new Deno.Command("mkfifo", { args: [folder + "/a/pipe"] }).outputSync();
      await hints;
      await watcher.restart([folder + "/a"]);
      watcher.close();
      Deno.removeSync(folder, { recursive: true });
    }
    console.log("done");
    Deno.exit(0);
  `;
  const child = new Deno.Command(Deno.execPath(), {
    args: ["eval", "--no-check", script],
    stdout: "piped",
    signal: AbortSignal.timeout(60_000),
  }).spawn();
  assert.equal(new TextDecoder().decode((await child.output()).stdout), "done\n");
});
