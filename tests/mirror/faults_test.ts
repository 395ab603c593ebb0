/** What breaks, and what the user then sees: one plain sentence or nothing, and the next command works. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { PROGRAMS } from "../support/repository.ts";
import { run, type Running, start } from "../support/run.ts";
import { tempDir } from "../support/temp_dir.ts";
import { sentences } from "./normalize.ts";
import { ended, isAlive, signal } from "./support/processes.ts";
import { BAZEL, Exit, type Rig, rig, test, testEach } from "./support/rig.ts";

/** A command that finds the lock free and a warm server takes less, even on a slow machine. Milliseconds. */
const AT_ONCE = 10_000;

const shared = new Map<string, Promise<Rig>>();

/** The rig that all tests of one Bazel share whose faults end with the test. Its agents can be held. */
function sharedRig(bazel = BAZEL): Promise<Rig> {
  let one = shared.get(bazel.version);
  if (!one) shared.set(bazel.version, one = rig({ bazel, holdable: true }));
  return one;
}

Deno.test.afterAll(async () => {
  for (const one of shared.values()) await (await one)[Symbol.asyncDispose]();
});

/** Expects that a command failed with this code and exactly one sentence, which it returns. */
async function failsWith(command: Running, code: number): Promise<string> {
  const finished = await command.finished;
  assert.equal(finished.code, code, finished.stderr);
  const said = sentences(finished.stderr);
  assert.equal(said.length, 1, finished.stderr);
  assert.match(said[0], /^rbs: [A-Z].*\.$/);
  return said[0];
}

/** A rig whose agent is held, and a command that waits for it. */
async function starting(one: Rig): Promise<Running> {
  await one.buildsQuickly();
  const server = await one.server();
  await one.run(["shutdown"]);
  await ended(server.pid);
  await one.hold();
  const build = one.start(["build", "//:quick"]);
  await one.held();
  await build.says(/rbs: agent starting \(.*\) \d+\.\ds/);
  return build;
}

// --- the proxy

testEach("a proxy that was killed between commands is replaced without a word", async (bazel) => {
  const one = await sharedRig(bazel);
  await one.buildsQuickly();
  const [proxy, server] = [await one.proxy(), await one.server()];
  signal(proxy, "SIGKILL");
  await ended(proxy);
  assert.equal(await Deno.readTextFile(join(one.outputBase, "server/server.pid.txt")), String(proxy), "stale files");
  const { stderr } = await one.buildsQuickly();
  assert.deepEqual(sentences(stderr), []);
  assert.notEqual(await one.proxy(), proxy);
  assert.equal((await one.server()).pid, server.pid, "the warm server was lost with the proxy");
});

testEach("a proxy that is killed in mid-command looks like a killed server, and its action ends", async (bazel) => {
  const one = await sharedRig(bazel);
  await one.buildsQuickly();
  const server = await one.server();
  await using build = one.start(["build", "//:sleepy"]);
  await one.acting();
  signal(await one.proxy(), "SIGKILL");
  const { code, stderr } = await build.finished;
  assert.equal(code, Exit.SERVER_DIED, stderr);
  assert.match(stderr, /Server terminated abruptly/);
  // The agent gives a proxy that may have lost its connection only 5 s to come back.
  await one.idle(8_000);
  await one.buildsQuickly(AT_ONCE);
  assert.equal((await one.server()).pid, server.pid);
});

test("a proxy that is killed while the agent starts leaves the start to the next one", async () => {
  const one = await sharedRig();
  await using build = await starting(one);
  const agent = await one.held();
  signal(await one.proxy(), "SIGKILL");
  const { code, stderr } = await build.finished;
  assert.equal(code, Exit.SERVER_DIED, stderr);
  await one.release();
  await one.buildsQuickly();
  assert.equal((await one.agent()).pid, agent.pid);
});

test("an idle proxy ends by itself, and gives its session back", async () => {
  const cluster = (await sharedRig()).cluster!;
  await using one = await rig({ cluster, startupOptions: ["--max_idle_secs=2"] });
  await one.buildsQuickly();
  const [proxy, agent, server] = [await one.proxy(), await one.agent(), await one.server()];
  for (const { pid } of [{ pid: proxy }, agent, server]) await ended(pid);
  await one.nothingLeft();
  await one.buildsQuickly();
});

// --- the real server

testEach("a Bazel server that is killed in mid-command costs that command only", async (bazel) => {
  const one = await sharedRig(bazel);
  await one.buildsQuickly();
  const [agent, server] = [await one.agent(), await one.server()];
  await using build = one.start(["build", "//:sleepy"]);
  await one.acting();
  signal(server.pid, "SIGKILL");
  assert.match(await failsWith(build, Exit.SERVER_DIED), /The Bazel server of this session ended unexpectedly/);
  await one.idle();
  await one.buildsQuickly();
  assert.equal((await one.agent()).pid, agent.pid);
  assert.notEqual((await one.server()).pid, server.pid);
});

test("a client goes on at once from a server that could not start", async () => {
  const installBase = "/usr/share/bazel"; // Debian's, which its client trusts wherever it is.
  if (!await Deno.stat(join(installBase, "A-server.jar")).catch(() => undefined)) return;
  // An agent that lacks this Bazel can try to start a server only with the first command, when it has been sent.
  await using own = await tempDir();
  assert.equal((await run(["cp", "-RL", installBase, own.join("base")])).code, 0);
  const startupOptions = [`--install_base=${own.join("base")}`];
  await using one = await rig({ args: ["--workspace=synced"], startupOptions });
  const bad = await one.run(["--host_jvm_args=-XX:+NoSuchThing", "info", "workspace"]);
  assert.equal(bad.code, Exit.LOCAL_ENVIRONMENT, bad.stderr);
  assert.match(bad.stderr, /NoSuchThing/);
  const { stderr } = await one.buildsQuickly(100_000);
  // The client says so after five seconds, and after a minute it ends the server by force.
  assert.doesNotMatch(stderr, /Waiting for server process to terminate/);
  assert.equal((await one.run(["--host_jvm_args=-XX:+NoSuchThing", "info", "workspace"])).code, Exit.LOCAL_ENVIRONMENT);
  assert.equal((await one.run(["--host_jvm_args=-XX:+NoSuchThing", "shutdown"])).code, Exit.OK);
});

test("a Bazel server that was killed between commands is started again without a word", async () => {
  const one = await sharedRig();
  await one.buildsQuickly();
  const server = await one.server();
  signal(server.pid, "SIGKILL");
  await ended(server.pid);
  assert.deepEqual(sentences((await one.buildsQuickly()).stderr), []);
});

test("a Bazel server that is killed while it starts is started again, and the command goes on", async () => {
  const one = await sharedRig();
  await using build = await starting(one);
  await one.release();
  const server = await one.server();
  signal(server.pid, "SIGKILL");
  const { code, stderr } = await build.finished;
  assert.equal(code, Exit.OK, stderr);
  assert.deepEqual(sentences(stderr), []);
});

// --- the agent

testEach("an agent that is killed in mid-command takes all that it runs along", async (bazel) => {
  const one = await sharedRig(bazel);
  await one.buildsQuickly();
  const [agent, server] = [await one.agent(), await one.server()];
  await using build = one.start(["build", "//:sleepy"]);
  await one.acting();
  signal(agent.pid, "SIGKILL");
  assert.match(await failsWith(build, Exit.SERVER_DIED), /The agent at .* was lost in mid-command/);
  await one.idle();
  await ended(server.pid);
  await one.buildsQuickly();
  const left = (await one.processes()).filter((p) => p.text.includes("init.sh") && p.ppid === 1);
  assert.deepEqual(left, []);
});

test("an agent that was killed between commands is replaced without a word", async () => {
  const one = await sharedRig();
  await one.buildsQuickly();
  const [agent, server] = [await one.agent(), await one.server()];
  signal(agent.pid, "SIGKILL");
  await ended(server.pid);
  assert.deepEqual(sentences((await one.buildsQuickly()).stderr), []);
});

test("an agent that is killed while it starts is started again, and the command goes on", async () => {
  const one = await sharedRig();
  await using build = await starting(one);
  const agent = await one.held();
  await one.release();
  signal(agent.pid, "SIGKILL");
  const { code, stderr } = await build.finished;
  assert.equal(code, Exit.OK, stderr);
  assert.deepEqual(sentences(stderr), []);
});

test("an agent that stands still for three seconds in mid-command goes on where it was", async () => {
  const one = await sharedRig();
  await one.buildsQuickly();
  const agent = await one.agent();
  await using build = one.start(["build", "//:patient"]);
  await one.acting();
  signal(agent.pid, "SIGSTOP");
  await one.go();
  await new Promise((resolve) => setTimeout(resolve, 3_000)); // The fault itself.
  signal(agent.pid, "SIGCONT");
  const { code, stderr } = await build.finished;
  assert.equal(code, Exit.OK, stderr);
  assert.deepEqual(sentences(stderr), []);
  assert.equal((await one.agent()).pid, agent.pid);
});

test("an agent program that cannot start is named in the user's terminal", async () => {
  await using one = await rig({ args: ["--agent=/bin/false"] });
  const sentence = await failsWith(one.start(["build", "//:quick"]), Exit.LOCAL_ENVIRONMENT);
  assert.match(sentence, /The agent of ".*" ended \(exit code 1\), and its log .*agent\.log says nothing/);
  await one.run(["shutdown"]);
  await one.nothingLeft();
});

test("another Bazel version at the agent is told in one sentence that names both", async () => {
  const installBase = "/usr/share/bazel"; // Debian's, which its client trusts whatever is in it.
  if (!await Deno.stat(join(installBase, "A-server.jar")).catch(() => undefined)) return;
  await using other = await tempDir();
  for await (const { name } of Deno.readDir(installBase)) {
    if (name !== "install_base_key") await Deno.symlink(join(installBase, name), other.join(name));
  }
  const key = (md5: string) => Deno.writeTextFile(other.join("install_base_key"), md5);
  await key("0123456789abcdef0123456789abcdef");
  const { cluster, hold, held, release } = await sharedRig();
  await hold();
  await using one = await rig({ cluster, startupOptions: [`--install_base=${other.path}`] });
  await using build = one.start(["build", "//:quick"]);
  await held();
  await key("fedcba9876543210fedcba9876543210");
  await release();
  const sentence = await failsWith(build, Exit.LOCAL_ENVIRONMENT);
  assert.match(sentence, /install_md5 0123456789abcdef.*install_md5 fedcba9876543210/);
});

// --- the orchestrator

test("a build in flight does not notice that the orchestrator was killed, and the next one adopts its agent", async () => {
  await using one = await rig();
  const cluster = one.cluster!;
  await one.buildsQuickly();
  const [agent, server] = [await one.agent(), await one.server()];
  const serverPid = async () => (await one.run(["info", "server_pid"])).stdout;
  const known = await serverPid();
  await using build = one.start(["build", "//:patient"]);
  await one.acting();
  cluster.orchestrator.kill("SIGKILL");
  await cluster.orchestrator.finished;
  await one.go();
  const { code, stderr } = await build.finished;
  assert.equal(code, Exit.OK, stderr);
  assert.deepEqual(sentences(stderr), []);
  assert.deepEqual(sentences((await one.buildsQuickly(AT_ONCE)).stderr), [], "nor does the build after it");

  await cluster.restart();
  // A new proxy must ask the new orchestrator.
  const proxy = await one.proxy();
  signal(proxy, "SIGKILL");
  await ended(proxy);
  await one.buildsQuickly();
  assert.equal((await one.agent()).pid, agent.pid);
  assert.equal((await one.server()).pid, server.pid);
  assert.equal(await serverPid(), known);

  // What was adopted ends with the orchestrator that adopted it.
  await cluster.stop();
  await ended(agent.pid);
  await ended(server.pid);
});

test("an agent that nobody adopts ends by itself, but not in mid-command", async () => {
  await using one = await rig({ args: ["--lease-seconds=1"] });
  await using idle = await rig({ cluster: one.cluster });
  await Promise.all([one.buildsQuickly(), idle.buildsQuickly()]);
  const [agent, server] = [await one.agent(), await one.server()];
  await using build = one.start(["build", "//:patient"]);
  await one.acting();
  const [idleAgent, idleServer] = [await idle.agent(), await idle.server()];
  one.cluster!.orchestrator.kill("SIGKILL");
  await ended(idleAgent.pid);
  await ended(idleServer.pid);
  assert(await isAlive(agent.pid), "the agent ended in mid-command");
  await one.go();
  const { code, stderr } = await build.finished;
  assert.equal(code, Exit.OK, stderr);
  await ended(agent.pid);
  await ended(server.pid);
});

test("an orchestrator that is killed while the agent starts is waited for, and the command goes on", async () => {
  await using one = await rig({ holdable: true, args: ["--lease-seconds=1"] });
  await using build = await starting(one);
  const orphan = await one.held();
  one.cluster!.orchestrator.kill("SIGKILL");
  await one.cluster!.orchestrator.finished;
  await one.cluster!.restart();
  await one.release();
  const { code, stderr } = await build.finished;
  assert.equal(code, Exit.OK, stderr);
  assert.deepEqual(sentences(stderr), []);
  await ended(orphan.pid);
  await one.buildsQuickly();
});

test("a clean stop takes agents and servers along, and running commands are told", async () => {
  await using one = await rig();
  for (const name of ["SIGTERM", "SIGINT"] as const) {
    await one.buildsQuickly();
    const [agent, server] = [await one.agent(), await one.server()];
    await using build = one.start(["build", "//:sleepy"]);
    await one.acting();
    one.cluster!.orchestrator.kill(name);
    await one.cluster!.orchestrator.finished;
    assert(!await isAlive(agent.pid) && !await isAlive(server.pid), "an agent outlived its orchestrator's clean stop");
    await one.idle();
    assert.match(await failsWith(build, Exit.SERVER_DIED), /was told to end.*if the orchestrator has ended as well/);
    await one.cluster!.restart();
  }
  await one.buildsQuickly();
  await one.run(["shutdown"]);
  await one.nothingLeft();
});

test("an orchestrator that was there and is down is waited for, then named in one sentence", async () => {
  await using one = await rig();
  await one.cluster!.stop();
  const never = one.start(["build", "//:quick"]);
  assert.match(
    await failsWith(never, Exit.LOCAL_ENVIRONMENT),
    /The orchestrator at .* cannot be reached \(nothing listens there\): start it/,
  );
  assert.doesNotMatch((await never.finished).stderr, /waiting for the orchestrator/);

  await one.cluster!.restart();
  await one.buildsQuickly();
  await one.cluster!.stop();
  await using build = one.start(["build", "//:quick"]);
  const began = performance.now();
  await build.says(/rbs: waiting for the orchestrator at .* 1\.\ds/);
  const sentence = await failsWith(build, Exit.LOCAL_ENVIRONMENT);
  const took = performance.now() - began;
  assert(took < 15_000, `it took ${took} ms`);
  assert.match(sentence, /The orchestrator at .* cannot be reached \(nothing listens there\): start it/);

  await using later = one.start(["build", "//:quick"]);
  await later.says(/rbs: waiting for the orchestrator/);
  await one.cluster!.restart();
  const { code, stderr } = await later.finished;
  assert.equal(code, Exit.OK, stderr);
  assert.deepEqual(sentences(stderr), []);
});

test("an orchestrator that stands still delays only those who need it", async () => {
  const one = await sharedRig();
  await one.buildsQuickly();
  const { pid } = one.cluster!.orchestrator;
  signal(pid, "SIGSTOP");
  try {
    await one.buildsQuickly(AT_ONCE);
    const proxy = await one.proxy();
    signal(proxy, "SIGKILL");
    await ended(proxy);
    await using build = one.start(["build", "//:quick"]);
    await build.says(/rbs: asking the orchestrator at .* 1\.\ds/);
    signal(pid, "SIGCONT");
    const { code, stderr } = await build.finished;
    assert.equal(code, Exit.OK, stderr);
    assert.deepEqual(sentences(stderr), []);
  } finally {
    signal(pid, "SIGCONT");
  }
});

test("a full disk under the storage is told in one sentence, and the next command works when there is room", async () => {
  await using state = await tempDir("rbs-state-");
  const storage = state.join("storage");
  await Deno.mkdir(storage, { mode: 0o700 });
  // In a mount namespace of its own, which ends with its last process.
  const mounted = await run(["unshare", "--mount", "true"]);
  if (mounted.code !== 0) return console.log("not root: no disk that is full");
  const script =
    `mount -t tmpfs -o size=64m,mode=0700 rbs "$1" && head -c 100M /dev/zero >"$1/filler"; shift; exec "$@"`;
  const argv = ["unshare", "--mount", "sh", "-c", script, "sh", storage];
  await using orchestrator = start([...argv, PROGRAMS.orchestrator, "--local-mode", "--port=0"], {
    env: { RBS_STATE_DIR: state.path },
  });
  const outcome = await Promise.race([
    orchestrator.says(/ready on (\S+)/).then(([, address]) => address),
    orchestrator.finished.then(({ stderr }) => Promise.reject(new Error(stderr))),
  ]);
  await using one = await rig({ rbs: { RBS_STATE_DIR: state.path, RBS_ORCHESTRATOR_ADDR: outcome } });
  const sentence = await failsWith(one.start(["build", "//:quick"]), Exit.LOCAL_ENVIRONMENT);
  assert.match(sentence, /storage .* cannot be written .*[Nn]o space/);
  await Deno.remove(`/proc/${orchestrator.pid}/root${storage}/filler`);
  await one.buildsQuickly();
});

// --- more than one client

test("a second client waits for the first, or says at once that it would have to, as without RBS", async () => {
  const cluster = (await sharedRig()).cluster!;
  const said = await Promise.all([{ stock: true }, { cluster }].map(async (options) => {
    await using one = await rig(options);
    await one.buildsQuickly();
    await using first = one.start(["build", "//:patient"]);
    await one.acting();
    const hasty = await one.run(["--noblock_for_lock", "build", "//:quick"]);
    assert.equal(hasty.code, Exit.LOCK_HELD, hasty.stderr);
    await using second = one.start(["build", "//:quick"]);
    const [waiting] = await second.says(/^Another command.*$/m);
    await one.go();
    assert.equal((await first.finished).code, Exit.OK);
    assert.equal((await second.finished).code, Exit.OK);
    const plain = (text: string) => text.trim().replaceAll(/pid=\d+/g, "pid=N");
    return [plain(hasty.stderr), plain(waiting)];
  }));
  assert.deepEqual(said[1], said[0]);
});

test("a second client waits for one that waits for the agent, or says at once that it would have to", async () => {
  const one = await sharedRig();
  await using first = await starting(one);
  const hasty = await one.run(["--noblock_for_lock", "build", "//:quick"], { timeout: AT_ONCE });
  assert.equal(hasty.code, Exit.LOCK_HELD, hasty.stderr);
  assert.match(hasty.stderr, /^Another command \(pid=\d+\) is running\. Exiting immediately\.$/m);
  await using second = one.start(["build", "//:quick"]);
  await second.says(/rbs: agent starting/);
  await one.release();
  for (const { code, stderr } of [await first.finished, await second.finished]) assert.equal(code, Exit.OK, stderr);
});

test("changed startup options restart the server as without RBS", async () => {
  const cluster = (await sharedRig()).cluster!;
  const said = await Promise.all([{ stock: true }, { cluster }].map(async (options) => {
    await using one = await rig(options);
    await one.buildsQuickly();
    const server = await one.server();
    const { code, stderr } = await one.run(["--host_jvm_args=-Drbs.test=1", "build", "//:quick"]);
    assert.equal(code, Exit.OK, stderr);
    await ended(server.pid);
    assert((await one.server()).args.includes("-Drbs.test=1"));
    return stderr.split("\n").filter((line) => /WARNING|server/i.test(line) && !line.startsWith("rbs: agent starting"));
  }));
  assert.deepEqual(said[1], said[0]);
});
