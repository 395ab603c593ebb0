/** Ctrl-C and other signals: what the user sees is what stock Bazel shows for the same, and nothing is left running. */
import assert from "node:assert/strict";
import type { Bazel } from "../support/bazels.ts";
import { type Finished, run, type Running } from "../support/run.ts";
import { eventually } from "../support/eventually.ts";
import { ended, isAlive, signal } from "./support/processes.ts";
import { BAZEL, BAZELS, Exit, type Rig, rig, test, testEach } from "./support/rig.ts";

/** A command that finds the lock free and a warm server takes less, even on a slow machine. Milliseconds. */
const AT_ONCE = 10_000;

/** The rigs that all tests of one Bazel share: without RBS, and through it. */
const shared = new Map<string, Promise<[stock: Rig, rbs: Rig]>>();

function rigs(bazel: Bazel): Promise<[stock: Rig, rbs: Rig]> {
  let both = shared.get(bazel.version);
  if (!both) {
    both = Promise.all([rig({ bazel, stock: true }), rig({ bazel, holdable: true })]);
    shared.set(bazel.version, both);
  }
  return both;
}

Deno.test.afterAll(async () => {
  for (const both of shared.values()) for (const one of await both) await one[Symbol.asyncDispose]();
});

/** Does the same to a command without RBS and through it: code and words must be the same, and the next command runs. */
function mirrored(name: string, bazels: readonly Bazel[], scenario: (rig: Rig) => Promise<Finished>) {
  const mirror = async (bazel: Bazel) => {
    const [stock, rbs] = await rigs(bazel);
    const outcomes: unknown[] = [];
    for (const one of [stock, rbs]) {
      await one.buildsQuickly();
      const server = await one.server();
      const finished = await scenario(one);
      await one.idle();
      await one.buildsQuickly(await isAlive(server.pid) ? AT_ONCE : undefined);
      outcomes.push({ code: finished.code, said: aboutTheEnd(finished.stderr) });
    }
    assert.deepEqual(outcomes[1], outcomes[0]);
  };
  testEach(name, mirror, bazels);
}

/** The lines that say why a command ended; not those that tell how the connection to a killed server broke. */
function aboutTheEnd(stderr: string): string[] {
  const lines = stderr.split(/[\r\n]+/).filter((line) => /interrupt|killed|terminated|signal/i.test(line));
  return [...new Set(lines.filter((line) => !line.startsWith("Could not interrupt server")))];
}

/** Sends Ctrl-C so many times, each after the client has said that it took the one before. */
async function interrupt(command: Running, times: number) {
  for (let sent = 1;; sent++) {
    command.kill("SIGINT");
    if (sent === times) return;
    await command.says(new RegExp(`(caught interrupt signal[^]*){${sent}}`)).catch(() => {});
  }
}

// --- as stock Bazel

mirrored("Ctrl-C in mid-action ends the command, its action and its lock", BAZELS, async (rig) => {
  await using build = rig.start(["build", "//:sleepy"]);
  await rig.acting();
  await interrupt(build, 1);
  return await build.finished;
});

mirrored("Ctrl-C while a repository is fetched ends the command and the fetch", BAZELS, async (rig) => {
  await using build = rig.start(["build", "@slow//..."]);
  await rig.acting();
  await interrupt(build, 1);
  return await build.finished;
});

mirrored("a second Ctrl-C changes nothing", BAZELS, async (rig) => {
  await using build = rig.start(["build", "//:sleepy"]);
  await rig.acting();
  const server = await rig.server();
  signal(server.pid, "SIGSTOP"); // Otherwise the command might be over before.
  await interrupt(build, 2);
  await build.says(/(caught interrupt signal[^]*){2}/);
  signal(server.pid, "SIGCONT");
  return await build.finished;
});

mirrored("a third Ctrl-C kills the client's server, and what it ran", BAZELS, async (rig) => {
  await using build = rig.start(["build", "//:sleepy"]);
  await rig.acting();
  const server = await rig.server();
  signal(server.pid, "SIGSTOP"); // A server that is stuck.
  const killed = rig.cluster ? await rig.proxy() : server.pid;
  await interrupt(build, 3);
  const finished = await build.finished;
  await ended(killed);
  if (rig.cluster) signal(server.pid, "SIGCONT"); // The session's server lives on, and is told to cancel.
  // Whether the client notices first that it killed its server (1) or that it lost it (37) is chance.
  assert([1, Exit.SERVER_DIED].includes(finished.code), finished.stderr);
  return { ...finished, code: 1, stderr: finished.stderr.replaceAll(/^Server terminated abruptly.*$/gm, "") };
});

mirrored("SIGTERM is a Ctrl-C", BAZELS, async (rig) => {
  await using build = rig.start(["build", "//:sleepy"]);
  await rig.acting();
  build.kill("SIGTERM");
  return await build.finished;
});

mirrored("a reader that has seen enough ends the command", [BAZEL], async (rig) => {
  await Deno.mkdir(`${rig.workspace.path}/many`, { recursive: true });
  const rules = `[filegroup(name = "f%d" % i) for i in range(20000)]`;
  await Deno.writeTextFile(`${rig.workspace.path}/many/BUILD`, rules);
  const { path: cwd, env } = rig.workspace;
  const pipe = ["bash", "-c", `"$@" | head -n 1; exit \${PIPESTATUS[0]}`, "bash"];
  return await run([...pipe, ...rig.workspace.argv(["query", "//many:all"])], { cwd, env });
});

mirrored("shutdown ends the server", BAZELS, async (rig) => {
  const server = rig.cluster ? await rig.proxy() : (await rig.server()).pid;
  const finished = await rig.run(["shutdown"]);
  assert(!await isAlive(server), "the client came back before its server had ended");
  return finished;
});

mirrored("SIGQUIT asks the server for its state, and it goes on", [BAZEL], async (rig) => {
  const server = rig.cluster ? await rig.proxy() : (await rig.server()).pid;
  await using build = rig.start(["build", "//:sleepy"]);
  await rig.acting();
  signal(server, "SIGQUIT");
  const log = `${rig.outputBase}/server/jvm.out`;
  const state = rig.cluster
    ? /rbs proxy, pid \d+\s+session .*: agent .*\s+build \(pid=\d+\), command id/
    : /thread dump/;
  await eventually(async () => state.test(await Deno.readTextFile(log)), "the state is in jvm.out");
  await interrupt(build, 1);
  return await build.finished;
});

// --- better than stock Bazel

testEach("a client that is killed takes its action along, and frees the lock", async (bazel) => {
  const [, rbs] = await rigs(bazel);
  await using build = rbs.start(["build", "//:sleepy"]);
  await rbs.acting();
  build.kill("SIGKILL");
  await rbs.idle(5_000);
  await rbs.buildsQuickly(AT_ONCE);
});

/** A shared rig whose agent is held, and a command that waits for it. */
async function starting(): Promise<{ rbs: Rig; build: Running } & AsyncDisposable> {
  const [, rbs] = await rigs(BAZEL);
  await rbs.buildsQuickly();
  const [server, agent] = [await rbs.server(), await rbs.agent()];
  await rbs.run(["shutdown"]);
  await ended(server.pid);
  // The word that the session is over may be on its way while the client is back already: over a link it takes longer.
  await ended(agent.pid);
  await rbs.hold();
  const build = rbs.start(["build", "//:quick"]);
  await build.says(/rbs: agent starting \(.*\) \d+\.\ds/);
  return {
    rbs,
    build,
    async [Symbol.asyncDispose]() {
      await rbs.release();
      await build[Symbol.asyncDispose]();
    },
  };
}

/** Lets the agent go on, and expects that the command after the interrupted one runs. */
async function goesOn(rbs: Rig) {
  await rbs.release();
  await rbs.buildsQuickly();
}

for (const [name, sent] of [["Ctrl-C", "SIGINT"], ["SIGTERM", "SIGTERM"]] as const) {
  test(`${name} while the agent starts ends the command at once, and the agent's start goes on`, async () => {
    await using start = await starting();
    start.build.kill(sent);
    const { code, stderr } = await start.build.finished;
    assert.equal(code, Exit.INTERRUPTED, stderr);
    assert.match(stderr, /rbs: interrupted before the agent was ready\.\n/);
    await goesOn(start.rbs);
  });
}

test("a client that is killed while the agent starts leaves no lock behind", async () => {
  await using start = await starting();
  start.build.kill("SIGKILL");
  await start.build.finished;
  await goesOn(start.rbs);
});

test("Ctrl-C three times kills a proxy that is stuck while the agent starts", async () => {
  await using start = await starting();
  const proxy = await start.rbs.proxy();
  signal(proxy, "SIGSTOP");
  await interrupt(start.build, 3);
  const { code, stderr } = await start.build.finished;
  assert([1, Exit.SERVER_DIED].includes(code), stderr);
  await ended(proxy);
  await goesOn(start.rbs);
});

test("SIGTERM to the proxy cancels what runs, and the next command starts another proxy", async () => {
  const [, rbs] = await rigs(BAZEL);
  await using build = rbs.start(["build", "//:sleepy"]);
  await rbs.acting();
  const proxy = await rbs.proxy();
  signal(proxy, "SIGTERM");
  const { code, stderr } = await build.finished;
  assert.equal(code, Exit.INTERRUPTED, stderr);
  assert.match(stderr, /^rbs: The proxy got SIGTERM, so the command was cancelled\.$/m);
  assert.match(stderr, /^ERROR: build interrupted$/m);
  await ended(proxy);
  await rbs.idle();
  await rbs.buildsQuickly();
});

test("SIGINT and SIGHUP to the proxy, as a terminal sends them to all, do nothing", async () => {
  const [, rbs] = await rigs(BAZEL);
  await rbs.buildsQuickly();
  const proxy = await rbs.proxy();
  for (const name of ["SIGINT", "SIGHUP"] as const) signal(proxy, name);
  await rbs.buildsQuickly();
  assert.equal(await rbs.proxy(), proxy);
});
