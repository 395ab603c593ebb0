/**
 * What only Bazel 8.1 to 9.3 does, with the real orchestrator, agent and proxy between doubles of such a client and server
 * (see support/newest/bazel.ts). Needs dist/, and no Bazel.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { PROGRAMS } from "../support/repository.ts";
import { output, run } from "../support/run.ts";
import { tempDir } from "../support/temp_dir.ts";
import { eventually } from "../support/eventually.ts";
import { type NewestBazel, newestBazel } from "./support/newest/bazel.ts";
import { WITHOUT_TERMINAL } from "./support/newest/client/command.ts";
import { serverLocale } from "./support/newest/client/server_process.ts";
import { Response, TOMORROW } from "./support/newest/messages.ts";
import { type Mode, type NewestRig, newestRig } from "./support/newest/session.ts";
import { ended, isAlive, signal } from "./support/processes.ts";
import { Exit, test } from "./support/rig.ts";

/** A client that waited for what cannot be had would do so for ten seconds. Milliseconds. */
const AT_ONCE = 1_000;
/** It would not have been answered before. Milliseconds. */
const LONG = 9_000;
/** A server that says that it ends, and does not, is ended after a minute. Milliseconds. */
const BY_FORCE = 45_000;
/** On a busy machine something takes longer than it should, but not each time. */
const ATTEMPTS = 5;

let bazel: Promise<NewestBazel> | undefined;
const rigs = new Map<Mode, Promise<NewestRig>>();

function newest(): Promise<NewestBazel> {
  return bazel ??= newestBazel();
}

/** The rig that the tests of a mode share. */
async function shared(mode: Mode): Promise<NewestRig> {
  const one = rigs.get(mode) ?? newest().then((bazel) => newestRig(mode, bazel));
  rigs.set(mode, one);
  return await one;
}

Deno.test.afterAll(async () => {
  for (const one of rigs.values()) await (await one)[Symbol.asyncDispose]();
  await (await bazel)?.[Symbol.asyncDispose]();
});

/** A case with and without a shared disk. */
function testBoth(name: string, fn: (mode: Mode) => Promise<void>) {
  for (const mode of ["shared", "synced"] as const) test(`the newest Bazel, ${mode}: ${name}`, () => fn(mode));
}

/** Stops a process of this test's while something is done. */
async function whileStopped<T>(pid: number, act: () => Promise<T>): Promise<T> {
  signal(pid, "SIGSTOP");
  try {
    return await act();
  } finally {
    signal(pid, "SIGCONT");
  }
}

/** The least time that something takes, of some attempts. Milliseconds. */
async function quickest(attempt: () => Promise<number>): Promise<number> {
  let least = Infinity;
  for (let i = 0; i < ATTEMPTS && least >= AT_ONCE; i++) least = Math.min(least, await attempt());
  return least;
}

testBoth("the first command starts a server, and the second finds it", async (mode) => {
  // The client chooses the locale of the server (since 8.4), whatever the user and the agent's machine have.
  const posix = { LC_ALL: "POSIX", LANG: "POSIX" };
  await using one = await newestRig(mode, await newest(), { env: posix, agentEnv: posix });
  const first = await one.good(["build", "//:quick"]);
  assert.match(first.stderr, /^Starting local Bazel server \(9\.3\.0\) and connecting to it\.\.\.$/m);
  assert.equal(await one.read("bazel-bin/quick.txt"), "quick\n");
  const second = await one.good(["build", "//show:copy"]);
  assert.doesNotMatch(second.stderr, /Starting local Bazel server/);
  assert.equal(await one.read("bazel-bin/show/copy.txt"), "text\n");
  const release = await one.good(["info", "release"]);
  assert.equal(release.stdout, "release 9.3.0\n");

  const notes = await one.notes();
  const [started, ...others] = notes.filter((note) => note.started);
  assert.deepEqual(others, [], "one server was started");
  assert.equal(started.cwd, one.workspace.path);
  const { outputBase, workspace } = one;
  for (const option of [`--output_base=${outputBase}`, `--workspace_directory=${workspace.path}`, "-Duser.variant="]) {
    assert(started.args?.includes(option), option);
  }
  assert.equal(started.locale, await serverLocale() ?? "POSIX");
  assert.deepEqual(notes.flatMap(({ command }) => command ?? []), ["build", "build", "info"]);
});

testBoth("a resized terminal and Ctrl-C do not wait for an orchestrator that stands still", async (mode) => {
  const one = await shared(mode);
  await one.buildsQuickly();
  const told: number[] = [];
  const took = await quickest(async () => {
    await using build = one.start(["--client_debug", "build", "//:sleepy"]);
    await one.acting();
    return await whileStopped(one.cluster!.orchestrator.pid, async () => {
      build.kill("SIGWINCH");
      await build.says(/client: the terminal has another size/);
      const began = performance.now();
      build.kill("SIGINT");
      const { code, stderr } = await build.finished;
      assert.equal(code, Exit.INTERRUPTED, stderr);
      told.push(Number(/client: UpdateTerminalSize took (\d+) ms$/m.exec(stderr)![1]));
      return performance.now() - began;
    });
  });
  assert(took < AT_ONCE, `Ctrl-C took ${took} ms`);
  assert(Math.min(...told) < AT_ONCE, `the new size was acknowledged after ${told} ms`);
  await one.idle();
  const { columns, rows } = WITHOUT_TERMINAL;
  const sizes = (await one.notes()).filter(({ size }) => size);
  assert.deepEqual(sizes.at(-1), { size: [columns, rows], known: true }, "the server knows the command by that id");
});

testBoth(
  "a resized terminal does not wait for an agent that is not there yet, and the server hears of it",
  async (mode) => {
    await using one = await newestRig(mode, await newest(), { holdable: true });
    await one.hold();
    await using build = one.start(["--client_debug", "build", "//:sleepy"]);
    await one.held();
    await build.says(/client: response with the fields/);
    build.kill("SIGWINCH");
    const took = Number((await build.says(/client: UpdateTerminalSize took (\d+) ms$/m))[1]);
    assert(took < LONG, `it took ${took} ms`);
    await one.release();
    await one.acting();
    const { columns, rows } = WITHOUT_TERMINAL;
    const size = await eventually(
      async () => (await one.notes()).find(({ size }) => size),
      "the server knows the size",
    );
    assert.deepEqual(size, { size: [columns, rows], known: true });
    build.kill("SIGINT");
    assert.equal((await build.finished).code, Exit.INTERRUPTED);
  },
);

testBoth(
  "a call that nobody knows does not wait for an agent that stands still, and reaches the server",
  async (mode) => {
    const one = await shared(mode);
    await one.buildsQuickly();
    await using build = one.start(["--client_debug", "build", "//:sleepy"]);
    await one.acting();
    const isTomorrow = ({ method }: { method?: string }) => method === TOMORROW.method;
    const before = (await one.notes()).filter(isTomorrow).length;
    const said = new RegExp(`(?:client: ${TOMORROW.method} took (\\d+) ms[^]*)`);
    const took = await whileStopped((await one.agent()).pid, async () => {
      build.kill("SIGUSR1");
      return Number((await build.says(said))[1]);
    });
    assert(took < LONG, `it took ${took} ms`);
    const notes = await eventually(async () => {
      const calls = (await one.notes()).filter(isTomorrow);
      return calls.length > before ? calls : undefined;
    }, "the server has the call");
    assert.notEqual(notes.at(-1)!.id, "");
    build.kill("SIGINT");
    assert.equal((await build.finished).code, Exit.INTERRUPTED);
  },
);

testBoth("--quiet shows nothing but errors, also while the agent starts", async (mode) => {
  await using one = await newestRig(mode, await newest(), { holdable: true });
  await one.hold();
  await using first = one.start(["--quiet", "build", "//:quick"]);
  await one.held();
  // It waits as long as one that says so.
  await using other = one.start(["build", "//:quick"]);
  await other.says(/^rbs: agent starting .* \d+\.\ds$/m);
  await one.release();
  const { code, stdout, stderr } = await first.finished;
  assert.deepEqual([code, stdout, stderr], [0, "", ""]);
  assert.equal((await other.finished).code, 0);
  assert.equal(await one.read("bazel-bin/quick.txt"), "quick\n");
  const bad = await one.run(["--quiet", "build", "//:nothing"]);
  assert.equal(bad.code, 2);
  assert.match(bad.stderr, /^ERROR: /);
  const commands = (await one.notes()).filter(({ command }) => command);
  assert.deepEqual(commands.map(({ quiet }) => quiet).toSorted(), [false, true, true]);
  // It is the client's own: the server is the same with it and without.
  assert.doesNotMatch((await one.good(["build", "//:quick"])).stderr, /Starting|killed/);
});

testBoth("what is linked to the repo contents cache comes home, and no link is dangling", async (mode) => {
  const one = await shared(mode);
  const cache = join(one.workspace.outputUserRoot, "cache/repos/v1/contents");
  for (const text of ["from far\n", "from farther\n"]) {
    await one.write("registry/far/data.txt", text);
    const { stdout } = await one.good(["run", "//show", "--", "a", "word"]);
    assert.equal(stdout, `${text}${text}${text}with a word\n`);
    const external = join(one.outputBase, "external/far+");
    assert.equal(await Deno.readTextFile(join(external, "data.txt")), text);
    if (mode === "shared") assert((await Deno.realPath(external)).startsWith(`${await Deno.realPath(cache)}/`));
    else await assert.rejects(Deno.stat(cache), Deno.errors.NotFound, "the cache is the agent's");
    const dangling = await output(["find", "-L", join(one.workspace.path, "bazel-bin/"), "-type", "l"]);
    assert.equal(dangling, "");
  }
  await one.good(["build", "@far//:copy", "@far//:data.txt"]);
  assert.equal(await one.read("bazel-bin/external/far+/copy.txt"), "from farther\n");
  // An editor's sources, by the name that a developer knows.
  const sources = await one.run(["build", "//show"], { env: { RBS_EXTERNAL_SOURCES: "far" } });
  assert.equal(sources.code, 0, sources.stderr);
  assert.equal(await Deno.readTextFile(join(one.outputBase, "external/far+/other.txt")), "other\n");
});

testBoth("after clean --expunge the cache is used again, and all is here again", async (mode) => {
  const one = await shared(mode);
  const show = async (text: string) => {
    const { stdout } = await one.good(["run", "//show"]);
    assert.equal(stdout, `${text}${text}${text}with \n`);
  };
  await one.write("registry/far/data.txt", "from far\n");
  await show("from far\n");
  const before = await one.proxy();
  await one.good(["clean", "--expunge"]);
  assert(!await isAlive(before), "the client did not wait");
  await assert.rejects(Deno.stat(join(one.outputBase, "external/far+")), Deno.errors.NotFound);
  await show("from far\n");
  await one.good(["clean"]);
  await show("from far\n");
});

testBoth("the lock file of modules is here after each build", async (mode) => {
  const one = await shared(mode);
  const module = await one.read("MODULE.bazel");
  for (const text of [module, `${module}# more\n`]) {
    await one.write("MODULE.bazel", text);
    await one.buildsQuickly();
    assert.equal(JSON.parse(await one.read("MODULE.bazel.lock")).module, text);
  }
});

testBoth("the script of --script_path is here and runs what was built", async (mode) => {
  const one = await shared(mode);
  await one.write("registry/far/data.txt", "from far\n");
  const script = join(one.workspace.path, "show.script");
  const { stdout } = await one.good(["run", `--script_path=${script}`, "//show"]);
  assert.equal(stdout, "", "nothing was executed");
  assert.equal(await output([script, "later"]), "from far\nfrom far\nfrom far\nwith later\n");
});

for (const how of ["inline_only", "both"]) {
  testBoth(
    `output groups that build events have inline (${how}) come home, and what they name is there`,
    async (mode) => {
      const one = await shared(mode);
      const options = [
        `--experimental_build_event_output_group_mode=default=${how}`,
        `--build_event_binary_file=${join(one.workspace.path, "events")}`,
      ];
      for (const events of [false, true]) {
        const text = `${how}, ${events}\n`;
        await one.write("show/text.txt", text);
        await one.good(["build", ...options.slice(0, events ? 2 : 1), "//show:more"]);
        for (const name of ["more.txt", "most.txt"]) assert.equal(await one.read(`bazel-bin/show/${name}`), text);
      }
      const named = [...(await one.read("events")).matchAll(/file:\/\/([\x21-\x7e]*?\.txt)/g)].map(([, path]) => path);
      assert(named.length >= 2, `${named}`);
      for (const path of named) assert.equal(await Deno.readTextFile(path), `${how}, true\n`, path);
    },
  );
}

testBoth("a server that cannot start is followed by one that can, and by one of another version", async (mode) => {
  await using later = await newestBazel("9.4.0");
  const now = await newest();
  await using one = await newestRig(mode, now, {
    installBases: mode === "synced" ? [now.installs, later.installs] : [],
  });
  const { path: cwd, env } = one.workspace;
  const startup = one.workspace.argv([]).slice(1);
  const byOther = (...args: string[]) => run([later.path, ...startup, ...args], { cwd, env });
  const fails = async () => {
    const { code, stderr } = await one.run(["--host_jvm_args=-Xno-such-option", "build", "//:quick"]);
    assert.equal(code, Exit.LOCAL_ENVIRONMENT, stderr);
    assert.match(stderr, /^rbs: .*-Xno-such-option/m);
  };
  await fails();
  await fails();
  assert((await one.buildsQuickly()).took < BY_FORCE, "the client had to end the proxy by force");

  await fails();
  const other = await byOther("info", "release");
  assert.deepEqual([other.code, other.stdout], [0, "release 9.4.0\n"], other.stderr);
  assert(other.took < BY_FORCE, "the client had to end the proxy by force");
  assert.match(other.stderr, /^Starting local Bazel server \(9\.4\.0\)/m);
  assert.equal((await byOther("build", "//:quick")).code, 0);
  assert.equal((await one.good(["info", "release"])).stdout, "release 9.3.0\n");
});

testBoth("a client that was told to expect the server's end comes back when it has ended", async (mode) => {
  const one = await shared(mode);
  await one.buildsQuickly();
  const first = await one.proxy();
  const shutdown = await one.run(["shutdown"]);
  assert.equal(shutdown.code, 0, shutdown.stderr);
  assert(!await isAlive(first), "the client did not wait");
  assert(shutdown.took < BY_FORCE, "the client had to end it by force");

  await one.buildsQuickly();
  const [proxy, server] = [await one.proxy(), await one.server()];
  const crash = await one.run(["crash"]);
  assert.equal(crash.code, Exit.SERVER_DIED, crash.stderr);
  assert.match(crash.stderr, /FATAL: bazel crashed/);
  assert(!await isAlive(proxy), "the client did not wait");
  assert(crash.took < BY_FORCE, "the client had to end it by force");
  await ended(server.pid);
  await one.buildsQuickly();
});

testBoth(
  "fields of tomorrow reach the server, and of its answers what a client may do something about does not",
  async (mode) => {
    const one = await shared(mode);
    const { code, stderr } = await one.run(["--client_debug", "build", "//:quick", TOMORROW.option], {
      env: { TOMORROW: "1" },
    });
    assert.equal(code, 0, stderr);
    const runs = (await one.notes()).filter(({ method }) => method === "Run");
    assert(runs.at(-1)!.fields!.includes(TOMORROW.requestField), `${runs.at(-1)!.fields}`);
    const fields = [...stderr.matchAll(/^client: response with the fields (.*)$/gm)].map(([, numbers]) => numbers);
    assert(fields.length > 1);
    assert(!fields.some((numbers) => numbers.split(" ").includes(String(TOMORROW.responseField))), stderr);
    // What is known to be data passes: `info` says all a second time by an extension.
    const info = await one.run(["--client_debug", "info", "release"]);
    assert.match(info.stderr, new RegExp(`with the fields .*\\b${Response.commandExtensions}\\b`));
  },
);

testBoth("a command waits for another as long as it was told to, and says so", async (mode) => {
  const one = await shared(mode);
  await one.buildsQuickly();
  await using build = one.start(["build", "//:sleepy"]);
  await one.acting();
  const waits = await one.run(["--block_for_lock=1s", "build", "//:quick"]);
  assert.equal(waits.code, Exit.LOCK_HELD, waits.stderr);
  assert.match(waits.stderr, /Another command \(pid=\d+\) is still running after \d+ ms/);
  const none = await one.run(["--noblock_for_lock", "build", "//:quick"]);
  assert.equal(none.code, Exit.LOCK_HELD, none.stderr);
  build.kill("SIGINT");
  assert.equal((await build.finished).code, Exit.INTERRUPTED);
});

testBoth(
  "what an rc file has for this version alone counts, and startup options of 8.2 reach the server",
  async (mode) => {
    await using one = await newestRig(mode, await newest());
    await one.write(
      ".bazelrc",
      "try-import-if-bazel-version ~9 %workspace%/nine.rc\ntry-import-if-bazel-version <9.3.0 %workspace%/eight.rc\n",
    );
    await one.write("nine.rc", "startup --experimental_cgroup_parent=rbs-test\nbuild --nine\n");
    await one.write("eight.rc", "startup --host_jvm_args=-Xno-such-option\nbuild --eight\n");
    await one.buildsQuickly();
    const notes = await one.notes();
    assert(notes.find(({ started }) => started)!.args!.includes("--experimental_cgroup_parent=rbs-test"));
    const { args = [] } = notes.find(({ command }) => command === "build")!;
    assert.deepEqual(args.filter((arg) => /build=--(eight|nine)$/.test(arg)), ["--default_override=1:build=--nine"]);
    assert.deepEqual(args.filter((arg) => arg.startsWith("--rc_source=/")), [
      `--rc_source=${join(one.workspace.path, "nine.rc")}`,
    ]);
  },
);

test("the newest Bazel, shared: jbazel's client inside of the session finds the server that the proxy's has", async () => {
  const now = await newest();
  await using one = await newestRig("shared", now, { agentEnv: { RBS_BAZEL: now.path } });
  const { path: cwd, env, outputUserRoot } = one.workspace;
  const jbazel = (...args: string[]) =>
    run([PROGRAMS.jbazel, `--output_user_root=${outputUserRoot}`, ...args], { cwd, env });
  await one.buildsQuickly();
  const inside = await jbazel("info", "server_pid");
  assert.equal(inside.code, 0, inside.stderr);
  assert.equal(inside.stdout, (await one.good(["info", "server_pid"])).stdout);
  assert.doesNotMatch(inside.stderr, /Starting local Bazel server|needs to be killed/);
  assert.equal((await jbazel("build", "//show:copy")).code, 0);
  assert.equal(await one.read("bazel-bin/show/copy.txt"), "text\n");
  assert.equal((await one.notes()).filter(({ started }) => started).length, 1);
});

// --- --lock_install_base

test("the newest Bazel, synced: a server whose install base the session may not write starts once, without its lock", async () => {
  // The agent's machine has this Bazel, and shows it read-only.
  const one = await shared("synced");
  await one.buildsQuickly();
  const { locks, installBase, args = [] } = (await one.notes()).find(({ started }) => started)!;
  assert.equal(locks, false, "the flag was given");
  assert(installBase?.startsWith((await newest()).installs), String(installBase));
  assert(!args.includes("--lock_install_base"));
});

test("the newest Bazel, synced: an install base that was sent is locked", async () => {
  await using one = await newestRig("synced", await newest(), { installBases: [] });
  await one.buildsQuickly();
  await one.buildsQuickly();
  const started = (await one.notes()).filter((note) => note.started);
  assert.equal(started.length, 1);
  assert.equal(started[0].locks, true);
});

test("the newest Bazel, shared: a server locks its install base where it may, and starts once where it may not", async () => {
  const one = await shared("shared");
  await one.buildsQuickly();
  assert.equal((await one.notes()).find(({ started }) => started)!.locks, true);
  // An ordinary user's own lock file the user's session may write as well.
  if (Deno.uid() !== 0) return;
  await using folder = await tempDir("rbs-newest-base-", "/");
  await Deno.chmod(folder.path, 0o755);
  const base = folder.join("base");
  await using other = await newestRig("shared", await newest(), { startupOptions: [`--install_base=${base}`] });
  await other.buildsQuickly();
  await other.buildsQuickly();
  const started = (await other.notes()).filter((note) => note.started);
  assert.deepEqual(started.map(({ locks, installBase }) => [locks, installBase]), [[false, base]]);
});
