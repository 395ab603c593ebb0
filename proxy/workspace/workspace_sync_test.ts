import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import type { Entry } from "../../proto/tree/entry.ts";
import { RbsError } from "../../proto/base/errors.ts";
import { ConnectError } from "../../proto/transport/grpc/channel.ts";
import { Status, StatusError } from "../../proto/transport/grpc/calls.ts";
import type { Connection } from "../../proto/transport/grpc/channel.ts";
import { type AgentScript, WorkspaceAgent } from "../testing/workspace_agent.ts";
import { type BarrierOptions, WorkspaceSync, type WorkspaceSyncOptions } from "./workspace_sync.ts";
import { readIndex } from "../../proto/tree/index_file.ts";
import { localFiles } from "../../proto/tree/local_files.ts";
import { eventually } from "../../tests/support/eventually.ts";
import { tempDirSync } from "../../tests/support/temp_dir.ts";

/** A workspace, an agent and a sync between them; all go with the scope. */
function setUp(
  script: AgentScript = {},
  sweep?: WorkspaceSyncOptions["sweep"],
  watchMounts?: WorkspaceSyncOptions["watchMounts"],
  watcher?: WorkspaceSyncOptions["watcher"],
) {
  const directory = tempDirSync(), temp = directory.path;
  const workspace = `${temp}/ws`, outputBase = `${temp}/out`;
  Deno.mkdirSync(workspace);
  const agent = new WorkspaceAgent(`${temp}/agent`, script);
  const said: string[] = [];
  const syncs: WorkspaceSync[] = [];
  const start = () => {
    const sync = new WorkspaceSync({ workspace, outputBase, sweep, watchMounts, watcher });
    syncs.push(sync);
    return sync;
  };
  const t = {
    temp,
    workspace,
    agent,
    said,
    sync: start(),
    /** Another proxy for the same workspace. */
    restart() {
      t.sync.close();
      t.sync = start();
    },
    path: (name: string) => `${workspace}/${name}`,
    write(name: string, content: string | Uint8Array = name) {
      Deno.mkdirSync(t.path(name).slice(0, t.path(name).lastIndexOf("/")), { recursive: true });
      Deno.writeFileSync(t.path(name), typeof content === "string" ? new TextEncoder().encode(content) : content);
    },
    barrier: (options: Partial<BarrierOptions> = {}) =>
      t.sync.barrier({
        link: agent.link,
        say: (line) => said.push(line),
        signal: new AbortController().signal,
        ...options,
      }),
    /** Lets the watcher see that no event waits; else many changes in a row are a burst, which only a scan can follow. */
    quiet: () => new Promise((resolve) => setTimeout(resolve, 15)),
    /** Barriers until all is watched, and was looked at since. */
    async watched() {
      for (let i = 0; i < 3; i++) {
        await t.synced();
        await t.quiet();
      }
    },
    /** A barrier, after which the agent has what is here. @returns the calls that it took */
    async synced(options: Partial<BarrierOptions> = {}): Promise<string[]> {
      const { generation } = await t.barrier(options);
      assert.equal(generation, `g${agent.generation}`);
      assert.deepEqual(listing(agent.root(workspace)), listing(workspace));
      return agent.takeCalls();
    },
    [Symbol.dispose]() {
      for (const sync of syncs) sync.close();
      agent[Symbol.dispose]();
      directory[Symbol.dispose]();
    },
  };
  return t;
}

/** The calls of a proxy that knows nothing: it begins to send, is refused, and compares. */
const NOT_EMPTY = ["Open", "Apply", "Open"];
const REFUSED = "Connection refused (os error 111)";
const SILENT = "no answer within 5 s";

/** A way to the agent on which a call finds no connection when `fails` says why, and `calls` of what became of each. */
function unreliable(agent: WorkspaceAgent, fails: () => string | undefined | Promise<string>) {
  const calls: string[] = [];
  const connection: Pick<Connection, "call"> = {
    async call(path, headers) {
      const why = await fails();
      calls.push(why ?? path.split("/").at(-1)!);
      if (why) throw new ConnectError(why === REFUSED ? "refused" : "unreachable", why);
      return await agent.connection.call(path, headers);
    },
  };
  return { calls, link: { ...agent.link, connection: connection as Connection } };
}

/** An agent that breaks off so many Apply calls. */
function breaking(times: number): AgentScript {
  return {
    message(_, cut) {
      if (times-- <= 0) return;
      cut();
      throw new Error("cut");
    },
  };
}

const unavailable = (e: unknown) => e instanceof StatusError && e.code === Status.UNAVAILABLE;

/** All that can be seen of a tree: names, kinds, modes, times, targets, contents. */
function listing(root: string): string[] {
  const lines: string[] = [];
  const list = (folder: string) => {
    for (const { name } of Deno.readDirSync(`${root}/${folder}`)) {
      const path = folder ? `${folder}/${name}` : name;
      if (path === ".git" || path === "home-only") continue;
      const info = Deno.lstatSync(`${root}/${path}`);
      const mode = (info.mode! & 0o7777).toString(8);
      if (info.isSymlink) lines.push(`${path} -> ${Deno.readLinkSync(`${root}/${path}`)}`);
      else if (info.isDirectory) {
        lines.push(`${path}/ ${mode}`);
        list(path);
      } else lines.push(`${path} ${mode} ${info.mtime!.getTime()} ${Deno.readTextFileSync(`${root}/${path}`)}`);
    }
  };
  list("");
  return lines.sort();
}

Deno.test("everything that Bazel can see arrives", async () => {
  using t = setUp();
  t.write("BUILD");
  t.write("a/b/c.txt");
  t.write("tool.sh", "#!/bin/sh\n");
  t.write("empty", "");
  t.write("ünï ✓.txt");
  t.write("big", new Uint8Array(3 << 20).fill(7));
  Deno.chmodSync(t.path("tool.sh"), 0o755);
  Deno.utimeSync(t.path("BUILD"), 1_000_000.123, 1_000_000.123);
  Deno.mkdirSync(t.path("empty folder"), { mode: 0o750 });
  Deno.symlinkSync("b/c.txt", t.path("a/link"));
  Deno.symlinkSync("nowhere", t.path("dangling"));
  Deno.symlinkSync("/etc/passwd", t.path("out of it"));
  assert.deepEqual(await t.synced(), ["Open", "Apply"]);
});

Deno.test("what changes while it is sent for the first time is sent as it is in the end", async () => {
  using t = setUp();
  for (let i = 0; i < 60; i++) {
    t.write(`d${i}/f`, "x".repeat(50_000));
    Deno.utimeSync(t.path(`d${i}/f`), 1_000_000, 1_000_000);
  }
  let changed = false;
  t.agent.script = {
    // The first of its files have arrived, and most are still to be found or read.
    message(number) {
      if (number !== 2 || changed) return;
      changed = true;
      for (let i = 0; i < 60; i += 4) {
        t.write(`d${i}/f`, "changed");
        Deno.removeSync(t.path(`d${i + 1}`), { recursive: true });
        t.write(`d${i + 2}/new`, "new");
      }
    },
  };
  await t.barrier();
  assert.ok(changed);
  // The barrier began before: the next one has it all.
  await t.synced();
});

Deno.test("with nothing changed, nothing is sent", async () => {
  using t = setUp();
  t.write("a/f");
  await t.synced();
  for (let i = 0; i < 5; i++) assert.deepEqual(await t.synced(), []);
});

const CHANGES: [string, (t: ReturnType<typeof setUp>) => void][] = [
  ["an edit", (t) => t.write("a/one", "other")],
  ["an edit of the same length", (t) => t.write("a/one", "a/oen")],
  ["a new file in a new folder", (t) => t.write("x/y/z/new")],
  ["a removed file", (t) => Deno.removeSync(t.path("a/one"))],
  ["a removed folder", (t) => Deno.removeSync(t.path("a"), { recursive: true })],
  ["a renamed file", (t) => Deno.renameSync(t.path("a/one"), t.path("a/ONE"))],
  ["a renamed folder", (t) => Deno.renameSync(t.path("a"), t.path("b/a"))],
  ["a mode", (t) => Deno.chmodSync(t.path("a/one"), 0o755)],
  ["a time", (t) => Deno.utimeSync(t.path("a/one"), 5, 5)],
  ["a folder's mode", (t) => Deno.chmodSync(t.path("a"), 0o700)],
  ["a file that becomes a folder", (t) => (Deno.removeSync(t.path("a/one")), t.write("a/one/more"))],
  ["a folder that becomes a file", (t) => (Deno.removeSync(t.path("a"), { recursive: true }), t.write("a"))],
  ["a folder that becomes a symlink", (t) => {
    Deno.renameSync(t.path("a"), t.path("real"));
    Deno.symlinkSync("real", t.path("a"));
  }],
  ["a symlink that leads elsewhere", (t) => {
    Deno.removeSync(t.path("link"));
    Deno.symlinkSync("/usr", t.path("link"));
  }],
  ["a symlink that becomes a folder", (t) => (Deno.removeSync(t.path("link")), t.write("link/f"))],
  ["an empty folder", (t) => Deno.mkdirSync(t.path("hollow"))],
  ["a folder renamed away and back, changed", (t) => {
    Deno.renameSync(t.path("a"), t.path("b/a"));
    t.write("b/a/one", "changed");
    Deno.renameSync(t.path("b/a"), t.path("a"));
  }],
];

for (const [what, change] of CHANGES) {
  Deno.test(`${what} takes one call, and a proxy that was not there finds it as well`, async () => {
    using t = setUp();
    t.write("a/one", "a/one");
    t.write("a/two", "2".repeat(10_000));
    t.write("b/three");
    Deno.symlinkSync("a", t.path("link"));
    await t.synced();
    await t.synced();
    await t.quiet();
    change(t);
    assert.deepEqual(await t.synced(), ["Apply"]);
    assert.deepEqual(await t.synced(), []);
    await t.quiet();
    t.write("a-later");
    assert.deepEqual(await t.synced(), ["Apply"]);
  });

  Deno.test(`${what} is found by a proxy that was not there`, async () => {
    using t = setUp();
    t.write("a/one", "a/one");
    t.write("a/two", "2".repeat(10_000));
    t.write("b/three");
    Deno.symlinkSync("a", t.path("link"));
    await t.synced();
    t.sync.close();
    change(t);
    t.restart();
    assert.deepEqual(await t.synced(), ["Apply"]);
    t.restart();
    assert.deepEqual(await t.synced(), []);
  });
}

Deno.test("a file that is changed by another of its names is sent", async () => {
  using t = setUp();
  t.write("a/f", "one");
  t.write("a/other");
  Deno.linkSync(t.path("a/f"), `${t.temp}/elsewhere`);
  await t.watched();
  for (let i = 0; i < 4; i++) {
    await t.quiet();
    Deno.writeTextFileSync(`${t.temp}/elsewhere`, `by its other name, ${i}`);
    assert.deepEqual(await t.synced(), ["Apply"]);
  }
  t.restart();
  Deno.writeTextFileSync(`${t.temp}/elsewhere`, "while nobody watched");
  await t.synced();
  await t.quiet();
  Deno.writeTextFileSync(`${t.temp}/elsewhere`, "and then");
  await t.synced();
  // It has one name left, and another file its place.
  Deno.writeTextFileSync(t.path("a/new"), "new");
  Deno.renameSync(t.path("a/new"), t.path("a/f"));
  await t.synced();
  await t.quiet();
  Deno.writeTextFileSync(t.path("a/f"), "newer");
  await t.synced();
});

Deno.test("of very many files with other names each change is found", async () => {
  using t = setUp();
  for (let i = 0; i < 4_200; i++) t.write(`d/f${i}`, "one");
  Deno.mkdirSync(`${t.temp}/store`);
  for (let i = 0; i < 4_200; i++) Deno.linkSync(t.path(`d/f${i}`), `${t.temp}/store/f${i}`);
  await t.synced();
  for (const i of [0, 4_199, 2_000, 4_100]) {
    await t.quiet();
    Deno.writeTextFileSync(`${t.temp}/store/f${i}`, "another");
    await t.synced();
  }
});

/** Waits until a barrier has sent something. */
async function sent(t: ReturnType<typeof setUp>): Promise<void> {
  await eventually(async () => {
    await t.quiet();
    return (await t.synced().catch(() => [])).length > 0;
  });
}

Deno.test("what no watcher tells is found in the background", async () => {
  using t = setUp({}, { firstMs: 20, everyMs: 20, forMs: 60_000 });
  t.write("a/f", "one");
  await t.watched();
  // A second name that it gets now, and by which it is changed: the folder's watcher hears of neither.
  Deno.linkSync(t.path("a/f"), `${t.temp}/elsewhere`);
  await t.synced();
  Deno.writeTextFileSync(`${t.temp}/elsewhere`, "another");
  await sent(t);
});

Deno.test("what a look found that was broken off is watched all the same", async () => {
  using t = setUp();
  const outside = [{ path: `${t.temp}/outside`, readOnly: true }];
  const synced = async () => {
    await t.barrier({ outside });
    assert.deepEqual(listing(t.agent.root(t.path("").slice(0, -1))), listing(t.path("")));
  };
  t.write("a/f", "one");
  for (let i = 0; i < 5_000; i++) {
    const folder = `${t.temp}/outside/many/${i % 100}`;
    Deno.mkdirSync(folder, { recursive: true });
    Deno.writeTextFileSync(`${folder}/${i}`, "");
  }
  for (let i = 0; i < 3; i++) {
    await synced();
    await t.quiet();
  }
  Deno.renameSync(`${t.temp}/outside/many`, `${t.temp}/outside/others`);
  t.write("new/f", "one");
  // The workspace has been looked at, and the other folder takes longer.
  const { signal } = new AbortController();
  let asked = 0;
  Object.defineProperty(signal, "throwIfAborted", {
    value() {
      if (++asked > 1) throw new Error("nobody waits");
    },
  });
  assert.equal(await t.sync.look(signal), false);
  assert.equal(asked, 2);
  await synced();
  await t.quiet();
  t.write("new/g", "two");
  await synced();
});

Deno.test("a file is another by all of its names, whichever it is changed by", async () => {
  using t = setUp({}, { firstMs: 60_000, everyMs: 60_000, forMs: 600_000 });
  t.write("a/f", "one");
  t.write("b/other");
  await t.watched();
  // Its second name comes when the first is known.
  Deno.linkSync(t.path("a/f"), t.path("b/g"));
  await t.watched();
  Deno.linkSync(t.path("a/f"), `${t.temp}/elsewhere`);
  for (
    const [i, path] of [t.path("a/f"), t.path("b/g"), `${t.temp}/elsewhere`, t.path("a/f"), t.path("b/g")].entries()
  ) {
    await t.quiet();
    Deno.writeTextFileSync(path, `change ${i}`);
    assert.deepEqual(await t.synced(), ["Apply"]);
  }
});

Deno.test("commands that come all the time do not put off the look in the background", async () => {
  using t = setUp({}, { firstMs: 60, everyMs: 60, forMs: 600_000 });
  t.write("a/f", "one");
  await t.watched();
  Deno.linkSync(t.path("a/f"), `${t.temp}/elsewhere`);
  Deno.writeTextFileSync(`${t.temp}/elsewhere`, "another");
  const until = performance.now() + 20_000;
  while ((await t.barrier(), t.agent.takeCalls()).length === 0) {
    assert.ok(performance.now() < until, "it is not seen");
    await t.quiet();
  }
});

Deno.test("a folder that the last command did not use is looked at as well", async () => {
  using t = setUp({}, { firstMs: 20, everyMs: 20, forMs: 600_000 });
  const path = `${t.temp}/lib`, outside = [{ path, readOnly: true }];
  Deno.mkdirSync(path);
  Deno.writeTextFileSync(`${path}/f`, "one");
  t.write("a/f", "one");
  for (let i = 0; i < 3; i++) {
    await t.barrier({ outside });
    await t.quiet();
  }
  await t.barrier();
  Deno.linkSync(`${path}/f`, `${t.temp}/elsewhere`);
  Deno.writeTextFileSync(`${t.temp}/elsewhere`, "another");
  // Many times as long as a look and the rest after it.
  const until = performance.now() + 2_000;
  while (performance.now() < until) {
    await t.barrier();
    await t.quiet();
  }
  await t.barrier({ outside });
  assert.equal(Deno.readTextFileSync(`${t.agent.root(path)}/f`), "another");
});

Deno.test("a pipe that is made in the workspace keeps nobody waiting, nor from seeing changes", async () => {
  using t = setUp();
  t.write("a/f", "one");
  await t.watched();
  new Deno.Command("mkfifo", { args: [t.path("a/pipe")] }).outputSync();
  for (const [i, name] of ["a/f", "a/g", "b/h", "a/f"].entries()) {
    t.write(name, `change ${i}`);
    await t.barrier();
    assert.equal(Deno.readTextFileSync(`${t.agent.root(t.path("").slice(0, -1))}/${name}`), `change ${i}`);
  }
  Deno.removeSync(t.path("a/pipe"));
  await t.watched();
  t.write("a/f", "last");
  assert.deepEqual(await t.synced(), ["Apply"]);
});

Deno.test("the first look in the background is while the command runs", async () => {
  using t = setUp({}, { firstMs: 20, everyMs: 60_000, forMs: 60_000 });
  t.write("a/f", "one");
  await t.watched();
  await t.quiet();
  Deno.linkSync(t.path("a/f"), `${t.temp}/elsewhere`);
  Deno.writeTextFileSync(`${t.temp}/elsewhere`, "another");
  await sent(t);
});

Deno.test("a file system that is mounted over a folder is seen, and what changes in it, and that it is gone", {
  ignore: Deno.uid() !== 0,
}, async () => {
  using t = setUp({}, { firstMs: 20, everyMs: 20, forMs: 60_000 });
  t.write("a/f", "below");
  await t.watched();
  const mounted = `${t.temp}/mounted`;
  Deno.mkdirSync(mounted);
  Deno.writeTextFileSync(`${mounted}/g`, "mounted");
  const run = (...argv: string[]) => {
    const { success, stderr } = new Deno.Command(argv[0], { args: argv.slice(1) }).outputSync();
    assert.ok(success, new TextDecoder().decode(stderr));
  };
  run("mount", "--bind", mounted, t.path("a"));
  try {
    await sent(t);
    await t.quiet();
    t.write("a/h", "new in it");
    await t.synced();
    await t.quiet();
    t.write("a/h", "changed in it");
    await t.synced();
  } finally {
    run("umount", t.path("a"));
  }
  await sent(t);
  await t.quiet();
  t.write("a/f", "below again");
  await t.synced();
});

Deno.test("after a long rest no watcher is trusted", async () => {
  using t = setUp({}, { firstMs: 20, everyMs: 20, forMs: 0 });
  t.write("a/f", "one");
  await t.synced();
  await t.quiet();
  Deno.linkSync(t.path("a/f"), `${t.temp}/elsewhere`);
  Deno.writeTextFileSync(`${t.temp}/elsewhere`, "another");
  await eventually(() => t.sync.describe().includes("nobody has looked"));
  assert.deepEqual(await t.synced(), ["Apply"]);
});

Deno.test("an outside folder is another one when a symlink on its way leads elsewhere", async () => {
  using t = setUp();
  t.write("BUILD");
  for (const version of ["v1", "v2"]) {
    Deno.mkdirSync(`${t.temp}/${version}/lib`, { recursive: true });
    Deno.writeTextFileSync(`${t.temp}/${version}/lib/f`, version);
  }
  Deno.symlinkSync("v1", `${t.temp}/current`);
  const path = `${t.temp}/current/lib`;
  const there = async () => {
    await t.synced({ outside: [{ path, readOnly: true }] });
    return Deno.readTextFileSync(`${t.agent.root(path)}/f`);
  };
  assert.equal(await there(), "v1");
  assert.equal(await there(), "v1");
  await t.quiet();
  Deno.removeSync(`${t.temp}/current`);
  Deno.symlinkSync("v2", `${t.temp}/current`);
  assert.equal(await there(), "v2");
  await t.quiet();
  Deno.writeTextFileSync(`${t.temp}/v2/lib/f`, "changed");
  assert.equal(await there(), "changed");
});

Deno.test("what changes in a folder that was just found is found", async () => {
  using t = setUp();
  t.write("BUILD");
  await t.synced();
  for (let i = 0; i < 20; i++) {
    t.write(`d${i}/f`, "1");
    await t.synced();
    t.write(`d${i}/f`, "22");
    t.write(`d${i}/e/f`, "1");
    await t.synced();
    t.write(`d${i}/e/f`, "333");
    await t.synced();
  }
});

Deno.test("a burst of changes is followed by a scan", async () => {
  using t = setUp();
  for (let i = 0; i < 20; i++) t.write(`d${i}/f`);
  await t.synced();
  const script = `for ((i = 0; i < 2000; i++)); do echo $i > "$0/d$((i % 20))/f$i"; done; rm -r "$0/d3"; mkdir "$0/d3"`;
  await new Deno.Command("bash", { args: ["-c", script, t.workspace] }).output();
  assert.deepEqual(await t.synced(), ["Apply"]);
  t.write("d3/again");
  assert.deepEqual(await t.synced(), ["Apply"]);
  // Watched anew behind the barriers, which wait for a scan only.
  await eventually(() => t.sync.describe().includes(", watched"));
  t.write("d4/more");
  assert.deepEqual(await t.synced(), ["Apply"]);
});

/** Deno.watchFs whose events come so late, in their order. */
function late(ms: number) {
  return (paths: string[]) => {
    const real = Deno.watchFs(paths, { recursive: false });
    const queue: { at: number; event: Deno.FsEvent }[] = [];
    let wake = Promise.withResolvers<void>(), done = false;
    const read = (async () => {
      for await (const event of real) {
        queue.push({ at: performance.now() + ms, event });
        wake.resolve();
      }
      done = true;
      wake.resolve();
    })();
    async function* rest() {
      while (!done || queue.length > 0) {
        const next = queue.shift();
        if (next) {
          await new Promise((resolve) => setTimeout(resolve, Math.max(0, next.at - performance.now())));
          yield next.event;
        } else {
          await wake.promise;
          wake = Promise.withResolvers();
        }
      }
      await read;
    }
    return { [Symbol.asyncIterator]: rest, close: () => real.close() } as unknown as Deno.FsWatcher;
  };
}

Deno.test("an edit is in the next barrier, however late the system's events come", async () => {
  for (const ms of [0, 10, 30, 60]) {
    using t = setUp({}, { firstMs: 1e6, everyMs: 1e6, forMs: 1e7 }, undefined, { open: late(ms) });
    t.write("a/f");
    const isWatched = async () => {
      await t.barrier();
      return t.sync.describe().includes(", watched");
    };
    for (let i = 0; i < 6; i++) {
      await eventually(isWatched);
      t.write("a/f", `edit ${i}`);
      await t.synced();
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
});

Deno.test("what rules keep at home is known by its path, if it is here", async () => {
  using t = setUp();
  for (const name of ["ign/deep/f", "f.log", "src/g", ".git/config"]) t.write(name);
  t.write(".rbsignore", "ign\n*.log\n");
  assert.equal(t.sync.staysHome("ign/deep/f"), false, "nobody has looked yet");
  await t.synced().catch(() => {});
  const paths = ["ign/deep/f", "ign", "f.log", ".git/config", "ign/none", "none.log", "src/g", "src"];
  assert.deepEqual(paths.filter((path) => t.sync.staysHome(path)), ["ign/deep/f", "ign", "f.log", ".git/config"]);
});

Deno.test("what is mounted in, at or above a root is in doubt at once, and elsewhere not", async () => {
  let mounted: (path: string) => void = () => assert.fail("it was not asked for");
  const calls: string[] = [];
  using t = setUp({}, { firstMs: 60_000, everyMs: 60_000, forMs: 600_000 }, (onChange) => {
    mounted = onChange;
    return { start: () => calls.push("start"), close: () => calls.push("close") };
  });
  t.write("a/b/f");
  await t.watched();
  assert.deepEqual(new Set(calls), new Set(["start"]));
  const isWatched = () => t.sync.describe().includes(", watched");
  await eventually(isWatched);
  mounted("/elsewhere");
  mounted(`${t.workspace}x`);
  assert.equal(isWatched(), true);
  for (const point of [t.path("a/b"), t.workspace, t.temp, "/"]) {
    mounted(point);
    assert.match(t.sync.describe(), new RegExp(`not watched \\(what is mounted at ${point} is something else`));
    await t.synced();
    await eventually(isWatched);
  }
  t.sync.close();
  assert.equal(calls.at(-1), "close");
});

Deno.test("an agent that has it already is sent nothing, and only what differs", async () => {
  using t = setUp();
  for (let i = 0; i < 50; i++) t.write(`d/f${i}`);
  await t.synced();
  t.sync.close();
  Deno.removeSync(`${t.temp}/out`, { recursive: true });
  t.restart();
  assert.deepEqual(await t.synced(), NOT_EMPTY);
  t.sync.close();
  Deno.removeSync(`${t.temp}/out`, { recursive: true });
  t.write("d/f7", "changed");
  Deno.removeSync(t.path("d/f8"));
  t.restart();
  assert.deepEqual(await t.synced(), [...NOT_EMPTY, "Apply"]);
  assert.deepEqual(t.agent.records.map((r) => r.remove ?? r.entry?.path), ["d/f8", "d/f7"]);
});

Deno.test("a moved file is not sent again", async () => {
  using t = setUp();
  t.write("from/a", "a".repeat(100_000));
  t.write("from/b", "b".repeat(100_000));
  t.write("big", new Uint8Array(2 << 20).fill(1));
  await t.synced();
  // Digests are made once nobody waits, and written down.
  const digests = () =>
    (readIndex(localFiles, `${t.temp}/out/rbs/workspace.index`)?.roots ?? []).flatMap(({ entries }) =>
      [...entries.values()].filter(({ digest }) => digest)
    );
  await eventually(() => digests().length === 3, "each file's digest", 30_000);
  const before = t.agent.receivedBytes;
  Deno.renameSync(t.path("from"), t.path("to"));
  Deno.renameSync(t.path("big"), t.path("to/big"));
  Deno.chmodSync(t.path("to/a"), 0o600);
  assert.deepEqual(await t.synced(), ["Apply"]);
  assert.ok(t.agent.receivedBytes - before < 1000);
});

Deno.test("a generation that the agent refuses is asked for anew, also when the command was refused", async () => {
  using t = setUp();
  t.write("f");
  await t.synced();
  // Another proxy was there.
  t.agent.generation++;
  Deno.writeTextFileSync(`${t.agent.root(t.workspace)}/g`, "");
  t.write("f", "changed");
  assert.deepEqual(await t.synced(), ["Apply", "Open", "Apply"]);
  t.agent.generation++;
  t.sync.forget();
  assert.deepEqual(await t.synced(), ["Open"]);
});

Deno.test("what .rbsignore names stays home, from the moment on at which it names it", async () => {
  using t = setUp();
  t.write("home-only/secret");
  t.write(".git/config");
  t.write("a/b.log");
  t.write(".rbsignore", "/home-only/\n");
  await t.synced();
  const there = () => listing(t.agent.root(t.workspace)).map((line) => line.split(" ")[0]);
  assert.deepEqual(there(), [".rbsignore", "a/", "a/b.log"]);
  t.write("home-only/secret", "changed");
  assert.deepEqual(await t.synced(), []);
  await t.quiet();
  t.write(".rbsignore", "/home-only/\n*.log\n!.git\n");
  await t.barrier();
  assert.deepEqual(there(), [".rbsignore", "a/"]);
  assert.equal(Deno.readTextFileSync(`${t.agent.root(t.workspace)}/.git/config`), ".git/config");
});

Deno.test("a .rbsignore that cannot be read stops the barrier with a sentence, and nothing is removed", async () => {
  using t = setUp();
  t.write("f");
  await t.synced();
  Deno.writeFileSync(t.path(".rbsignore"), Uint8Array.of(0xff, 0x0a));
  await assert.rejects(t.barrier(), { message: /\.rbsignore is not UTF-8: fix or remove it\. Nothing was synced\.$/ });
  Deno.removeSync(t.path(".rbsignore"));
  assert.deepEqual(await t.synced(), []);
});

Deno.test("convenience symlinks stay home, and those that the agent's Bazel made stay there", async () => {
  using t = setUp();
  t.write("f");
  Deno.symlinkSync(`${t.temp}/out/execroot/_main/bazel-out`, t.path("bazel-out"));
  await t.barrier();
  const there = t.agent.root(t.workspace);
  assert.deepEqual([...Deno.readDirSync(there)].map((e) => e.name), ["f"]);
  Deno.symlinkSync(`${t.temp}/out/execroot/_main/bazel-out/k8/bin`, `${there}/bazel-bin`);
  t.sync.forget();
  t.agent.takeCalls();
  await t.barrier();
  assert.deepEqual(t.agent.takeCalls(), ["Open"]);
  assert.equal(Deno.lstatSync(`${there}/bazel-bin`).isSymlink, true);
});

Deno.test("an output base within the workspace stays home", async () => {
  using t = setUp();
  const sync = new WorkspaceSync({ workspace: t.temp, outputBase: `${t.temp}/out` });
  t.write("f");
  Deno.mkdirSync(`${t.temp}/out/x`, { recursive: true });
  using elsewhere = setUp();
  await sync.barrier({ link: elsewhere.agent.link, say() {}, signal: new AbortController().signal });
  sync.close();
  assert.deepEqual([...Deno.readDirSync(elsewhere.agent.root(t.temp))].map((e) => e.name).sort(), ["ws"]);
});

Deno.test("roots outside of the workspace come along, those within it do not count", async () => {
  using t = setUp();
  t.write("f");
  const repo = `${t.temp}/repo`;
  Deno.mkdirSync(`${repo}/src`, { recursive: true });
  Deno.writeTextFileSync(`${repo}/src/x`, "1");
  const opened: string[][] = [];
  t.agent.script = { open: (roots) => void opened.push(roots) };
  await t.synced();
  const outside = [{ path: repo, readOnly: true }, { path: t.path("sub"), readOnly: true }, {
    path: `${repo}/src`,
    readOnly: true,
  }];
  assert.deepEqual(await t.synced({ outside }), ["Open", "Apply"]);
  assert.deepEqual(opened, [[], [repo]]);
  assert.equal(Deno.readTextFileSync(`${t.agent.root(repo)}/src/x`), "1");
  assert.deepEqual(await t.synced({ outside }), []);
  Deno.writeTextFileSync(`${repo}/src/x`, "22");
  // A command that does not use it does not wait for it.
  assert.deepEqual(await t.synced(), []);
  assert.deepEqual(await t.synced({ outside }), ["Apply"]);
  assert.equal(Deno.readTextFileSync(`${t.agent.root(repo)}/src/x`), "22");
});

Deno.test("a root that the agent cannot have is a warning, once; the workspace is an error", async () => {
  using t = setUp();
  const repo = `${t.temp}/repo`;
  Deno.mkdirSync(repo);
  t.write("BUILD");
  t.agent.script = { refusals: { [repo]: "The folder cannot be had." } };
  const outside = [{ path: repo, readOnly: true }];
  await t.synced({ outside });
  await t.synced({ outside });
  assert.deepEqual(t.said, ["rbs: warning: The folder cannot be had.\n"]);
  t.agent.script = { refusals: { [t.workspace]: "The workspace cannot be had." } };
  t.sync.forget();
  await assert.rejects(t.barrier(), { name: "RbsError", message: "The workspace cannot be had." });
});

Deno.test("a cut connection goes on where it was, within the caller's patience", async () => {
  using t = setUp();
  for (let i = 0; i < 40; i++) t.write(`f${i}`, new Uint8Array(400_000).fill(i));
  let cuts = 0;
  t.agent.script = {
    message(number, cut) {
      if (number === 8 && cuts++ < 2) {
        cut();
        throw new Error("cut");
      }
    },
  };
  assert.deepEqual(await t.synced({ patienceMs: 20_000 }), ["Open", "Apply", "Open", "Apply", "Open", "Apply"]);
  assert.ok(t.agent.receivedBytes < 1.5 * 40 * 400_000, "what had arrived is not sent again");
});

Deno.test("without patience a cut connection is UNAVAILABLE, and the next barrier goes on", async () => {
  using t = setUp();
  t.write("f");
  t.agent.script = {
    message(_, cut) {
      cut();
      throw new Error("cut");
    },
  };
  await assert.rejects(t.barrier(), unavailable);
  t.agent.script = {};
  t.agent.takeCalls();
  assert.deepEqual(await t.synced(), ["Open", "Apply"]);
});

Deno.test("an agent whose port refuses the first connection is given up at once, whatever the patience", async () => {
  using t = setUp();
  t.write("f");
  const { link, calls } = unreliable(t.agent, () => REFUSED);
  await assert.rejects(t.barrier({ link, patienceMs: 60_000 }), unavailable);
  assert.deepEqual(calls, [REFUSED]);
  const silent = [SILENT, SILENT];
  const later = unreliable(t.agent, () => silent.shift() ?? REFUSED);
  await assert.rejects(t.barrier({ link: later.link, patienceMs: 60_000 }), unavailable);
  assert.deepEqual(later.calls, [SILENT, SILENT, REFUSED]);
});

Deno.test("an agent that dies in mid-sync is given up when its port has refused twice in a row", async () => {
  using t = setUp(breaking(1));
  t.write("f");
  const fails = [undefined, undefined, REFUSED, SILENT, REFUSED];
  const { link, calls } = unreliable(t.agent, () => fails.length > 0 ? fails.shift() : REFUSED);
  await assert.rejects(t.barrier({ link, patienceMs: 60_000 }), unavailable);
  assert.deepEqual(calls, ["Open", "Apply", REFUSED, SILENT, REFUSED, REFUSED]);
  await t.synced();
});

Deno.test("a sync outlasts one refusal and a long silence", async () => {
  using t = setUp(breaking(1));
  t.write("f");
  const fails = [undefined, undefined, REFUSED, SILENT, SILENT];
  const { link, calls } = unreliable(t.agent, () => fails.shift());
  await t.synced({ link, patienceMs: 60_000 });
  assert.deepEqual(calls, ["Open", "Apply", REFUSED, SILENT, SILENT, "Open", "Apply"]);
});

Deno.test("an agent that is not the session's any more is not waited for", async () => {
  using t = setUp();
  t.write("f");
  let current = true;
  const { link, calls } = unreliable(t.agent, () => {
    if (calls.length === 2) current = false;
    return SILENT;
  });
  await assert.rejects(t.barrier({ link, patienceMs: 60_000, isCurrent: () => current }), unavailable);
  assert.deepEqual(calls, [SILENT, SILENT, SILENT]);
});

Deno.test("patience ends, and begins anew with each answer of the agent", async () => {
  using t = setUp(breaking(4));
  t.write("f");
  // The four waits together are longer than that, since each is at least 50, 100, 200, 400 ms.
  await t.synced({ patienceMs: 500 });
  t.write("f", "other");
  const { link, calls } = unreliable(t.agent, () => SILENT);
  await assert.rejects(t.barrier({ link, patienceMs: 200 }), unavailable);
  assert.ok(calls.length > 1);
});

Deno.test("who waits for an agent that is silent sees why, and Ctrl-C ends it", async () => {
  using t = setUp();
  t.write("f");
  const stop = new AbortController(), connecting = Promise.withResolvers<void>();
  // Once it was said, nobody answers any more, not even that there is no connection.
  const { link } = unreliable(t.agent, () => {
    if (t.said.length === 0) return SILENT;
    connecting.resolve();
    return new Promise<never>(() => {});
  });
  const barrier = t.barrier({ link, signal: stop.signal, patienceMs: 60_000 });
  await Promise.race([connecting.promise, barrier]);
  assert.match(t.said[0], /^rbs: syncing again after the connection was lost \(no answer within 5 s\) \d\.\ds\n$/);
  stop.abort();
  await assert.rejects(barrier, { message: "The sync of the workspace was interrupted." });
  await t.synced();
});

Deno.test("a large file that was cut off is not sent from its beginning again", async () => {
  using t = setUp();
  t.write("big", crypto.getRandomValues(new Uint8Array(1 << 16)));
  const piece = Deno.readFileSync(t.path("big"));
  using file = Deno.openSync(t.path("big"), { write: true });
  for (let i = 0; i < 800; i++) file.writeSync(piece);
  let cut = false;
  t.agent.script = {
    message(number, cutOff) {
      if (number < 40 || cut) return;
      cut = true;
      cutOff();
      throw new Error("cut");
    },
  };
  await t.barrier({ patienceMs: 20_000 });
  assert.ok(cut && t.agent.receivedBytes < 60e6, `${t.agent.receivedBytes} bytes`);
  assert.deepEqual(Deno.readFileSync(`${t.agent.root(t.workspace)}/big`), Deno.readFileSync(t.path("big")));
});

Deno.test("errors that are not the link's are sentences", async () => {
  using t = setUp();
  t.write("f");
  t.agent.script = {
    message() {
      throw new StatusError(Status.RESOURCE_EXHAUSTED, "The agent's disk is full.");
    },
  };
  await assert.rejects(
    t.barrier(),
    (e) => e instanceof RbsError && e.message === "The workspace cannot be synced: The agent's disk is full.",
  );
  t.agent.script = {
    open() {
      throw new StatusError(Status.FAILED_PRECONDITION, "Another epoch.");
    },
  };
  await assert.rejects(t.barrier(), (e) => e instanceof StatusError && e.code === Status.FAILED_PRECONDITION);
});

Deno.test("Ctrl-C ends a barrier at every stage, and the next one completes", async () => {
  const never = () => new Promise<void>(() => {});
  for (const stage of ["before", "open", "message", "applied", "unreachable"]) {
    using t = setUp();
    t.write("f");
    const stop = new AbortController();
    const reached = () => {
      setTimeout(() => stop.abort());
      return never();
    };
    if (stage === "before") stop.abort();
    else if (stage === "unreachable") {
      t.agent.script = {
        open() {
          reached();
          throw new StatusError(Status.UNAVAILABLE, "Not there.");
        },
      };
    } else t.agent.script = { [stage]: reached };
    await assert.rejects(t.barrier({ signal: stop.signal, patienceMs: 60_000 }), {
      message: "The sync of the workspace was interrupted.",
    }, stage);
    t.agent.script = {};
    await t.synced();
  }
});

Deno.test("barriers that come together are all served, and none sees older files", async () => {
  using t = setUp();
  t.write("f", "1");
  const all = await Promise.all([t.barrier(), t.barrier(), t.barrier()]);
  assert.equal(new Set(all.map((r) => r.generation)).size, 1);
  assert.deepEqual(t.agent.takeCalls(), ["Open", "Apply"]);
});

Deno.test("a look ahead is as good as the barrier's own: what was saved before it is sent, what comes later is not lost", async () => {
  using t = setUp();
  t.write("f", "1");
  assert.equal(await t.sync.look(), false, "nothing is known yet");
  await t.synced();
  // The first look in the background has proved that nothing was missed.
  while (!await t.sync.look()) await t.quiet();
  t.write("f", "22");
  assert.equal(await t.sync.look(), true);
  t.write("later");
  await t.quiet();
  await t.barrier({ looked: true });
  assert.deepEqual([...Deno.readDirSync(t.agent.root(t.workspace))].map((e) => e.name), ["f"]);
  assert.equal(Deno.readTextFileSync(`${t.agent.root(t.workspace)}/f`), "22");
  assert.deepEqual(t.agent.takeCalls().slice(-1), ["Apply"]);
  assert.deepEqual(await t.synced(), ["Apply"]);

  // Another root than those that were looked at.
  const other = `${t.temp}/other`;
  Deno.mkdirSync(other);
  assert.equal(await t.sync.look(), true);
  t.write("later", "changed");
  await t.synced({ looked: true, outside: [{ path: other, readOnly: true }] });
  t.sync.close();
  assert.equal(await t.sync.look(), false);
});

Deno.test("what a command writes here and at the agent is left alone by other commands' barriers until it has ended", async () => {
  using t = setUp();
  const { agent, workspace } = t;
  t.write("old.json", "of an earlier build");
  t.write("d/f", "f");
  await t.watched();
  const files = ["old.json", "new.json", "d/new.json"];
  const there = (name: string) => `${agent.root(workspace)}/${name}`;
  const readable = (path: string) => {
    try {
      return Deno.readTextFileSync(path);
    } catch {
      return undefined;
    }
  };
  /** As the agent tells of it, once it is here just so. */
  const told = (name: string): Entry => {
    const time = new Date(1_700_000_000_000);
    for (const path of [there(name), t.path(name)]) Deno.utimeSync(path, time, time);
    Deno.chmodSync(there(name), Deno.statSync(t.path(name)).mode! & 0o777);
    const content = Deno.readFileSync(there(name));
    const { mode, size } = Deno.statSync(there(name));
    const digest = new Uint8Array(createHash("sha256").update(content).digest());
    return { path: t.path(name), kind: "file", mode: mode! & 0o755, size, mtimeMs: time.getTime(), digest };
  };
  /** The server writes, and half of it is here. @returns what writes the rest, to the same files */
  const begin = () => {
    const server = files.map((name) => Deno.openSync(there(name), { write: true, create: true, truncate: true }));
    for (const file of server) file.writeSync(new TextEncoder().encode("first "));
    for (const name of files) Deno.writeTextFileSync(t.path(name), "fi");
    return () => {
      for (const file of server) {
        file.writeSync(new TextEncoder().encode("second"));
        file.close();
      }
    };
  };

  for (const round of [1, 2]) {
    const held = t.sync.hold(files.map(t.path));
    const finish = begin();
    await t.quiet();
    t.write("d/f", `the developer goes on, ${round}`);
    await t.barrier();
    assert.equal(Deno.readTextFileSync(there("d/f")), `the developer goes on, ${round}`);
    t.sync.forget();
    await t.barrier();
    finish();
    for (const name of files) assert.equal(readable(there(name)), "first second", name);
    // All of it comes home.
    for (const name of files) Deno.writeTextFileSync(t.path(name), "first second");
    held.arrived(files.map(told));
    held[Symbol.dispose]();
    agent.takeCalls();
    assert.deepEqual(await t.synced(), [], "both have it");
    await t.quiet();
    assert.deepEqual(await t.synced(), []);
    t.sync.forget();
    assert.deepEqual(await t.synced(), ["Open"]);
  }

  // What the developer does with it afterwards is sent as ever.
  t.write("old.json", "mine");
  Deno.removeSync(t.path("new.json"));
  await t.quiet();
  assert.deepEqual(await t.synced(), ["Apply"]);

  // A command that broke: what is here counts.
  const broken = t.sync.hold(files.map(t.path));
  begin()();
  Deno.writeTextFileSync(there("new.json"), "and it was not even begun here");
  Deno.removeSync(t.path("new.json"));
  t.write("old.json", "mine");
  broken[Symbol.dispose]();
  assert.deepEqual(await t.synced(), ["Apply"]);
  assert.equal(readable(there("new.json")), undefined);

  // One that has written nothing, beside one that has.
  const one = t.sync.hold([t.path("old.json")]), other = t.sync.hold([t.path("old.json")]);
  one.arrived([]);
  one[Symbol.dispose]();
  const finish = begin();
  await t.barrier();
  finish();
  assert.equal(readable(there("old.json")), "first second");
  for (const name of files) Deno.writeTextFileSync(t.path(name), "first second");
  other.arrived(files.map(told));
  other[Symbol.dispose]();
  await t.synced();
});

Deno.test("a file that a command names twice is let go of with it", async () => {
  using t = setUp();
  t.write("bep.json", "of the command");
  await t.watched();
  const held = t.sync.hold([t.path("bep.json"), t.path("bep.json")]);
  held.arrived([]);
  held[Symbol.dispose]();
  // Outputs that come when the command has broken are nobody's any more.
  held.arrived([{ path: t.path("bep.json"), kind: "file", mode: 0o644, size: 1, mtimeMs: 0 }]);
  t.write("bep.json", "the developer's");
  await t.synced();
});

Deno.test("a command that ends while another one's barrier looks takes no file away from the agent", async () => {
  using t = setUp();
  t.write("MODULE.bazel.lock", "{}");
  for (let i = 0; i < 5_000; i++) t.write(`d${i % 100}/f${i}`, "");
  await t.watched();
  const held = t.sync.hold([t.path("MODULE.bazel.lock")]);
  for (let i = 0; i < 40; i++) t.write(`burst${i}`);
  await t.quiet();
  // Asked in each rest of the look.
  const { signal } = new AbortController();
  let asked = 0;
  Object.defineProperty(signal, "throwIfAborted", {
    value() {
      if (++asked !== 2) return;
      held.arrived([]);
      held[Symbol.dispose]();
    },
  });
  await t.barrier({ signal });
  assert.ok(asked >= 2);
  await t.synced();
});

Deno.test("a command that breaks while another one's barrier sends leaves nothing of its own at the agent", async () => {
  using t = setUp();
  t.write("bep.json", "here");
  t.write("f");
  await t.watched();
  const held = t.sync.hold([t.path("bep.json")]);
  const sending = Promise.withResolvers<void>(), go = Promise.withResolvers<void>();
  t.agent.script = { applied: () => (sending.resolve(), go.promise) };
  t.write("f", "changed");
  await t.quiet();
  const running = t.barrier();
  await sending.promise;
  Deno.writeTextFileSync(`${t.agent.root(t.path("").slice(0, -1))}/bep.json`, "half of it");
  held[Symbol.dispose]();
  t.agent.script = {};
  go.resolve();
  await running;
  await t.synced();
});

Deno.test("a barrier that gives up its place does not stop the others", async () => {
  using t = setUp();
  t.write("f");
  const first = Promise.withResolvers<void>(), go = Promise.withResolvers<void>();
  t.agent.script = { applied: () => (first.resolve(), go.promise) };
  const running = t.barrier();
  await first.promise;
  const stop = new AbortController();
  const waiting = t.barrier({ signal: stop.signal });
  const last = t.barrier();
  stop.abort();
  await assert.rejects(waiting, { message: "The sync of the workspace was interrupted." });
  go.resolve();
  await running;
  await last;
});

Deno.test("a file that cannot be read is named in one warning, and the others arrive", {
  ignore: Deno.uid() === 0,
}, async () => {
  using t = setUp();
  t.write("secret");
  t.write("f");
  Deno.chmodSync(t.path("secret"), 0);
  await t.barrier();
  await t.barrier();
  assert.deepEqual(t.said, [
    `rbs: warning: 1 file or folder cannot be read, and the agent does not have them: ${t.path("secret")}\n`,
  ]);
  assert.deepEqual([...Deno.readDirSync(t.agent.root(t.workspace))].map((e) => e.name), ["f"]);
});

Deno.test("a workspace that is gone removes nothing", async () => {
  using t = setUp();
  t.write("f");
  await t.synced();
  Deno.renameSync(t.workspace, `${t.temp}/elsewhere`);
  await assert.rejects(t.barrier(), { message: `The workspace ${t.workspace} is not there any more.` });
  Deno.renameSync(`${t.temp}/elsewhere`, t.workspace);
  assert.deepEqual(await t.synced(), []);
});

Deno.test("an index that is damaged is ignored", async () => {
  using t = setUp();
  t.write("f");
  await t.synced();
  t.sync.close();
  const index = `${t.temp}/out/rbs/workspace.index`;
  const bytes = Deno.readFileSync(index);
  bytes[20] ^= 1;
  Deno.writeFileSync(index, bytes);
  t.restart();
  assert.deepEqual(await t.synced(), NOT_EMPTY);
});

Deno.test("a slow agent is progress on stderr", async () => {
  using t = setUp();
  t.write("f");
  t.agent.script = { applied: () => new Promise((resolve) => setTimeout(resolve, 1_300)) };
  await t.synced();
  assert.match(t.said.join(""), /^rbs: syncing 1 of 1 file, 0 of 0 MB\nrbs: synced 1 file, 0 MB, in 1\.\d s\n$/);
});
