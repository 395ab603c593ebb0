import assert from "node:assert/strict";
import { join } from "node:path";
import { Code, RpcError } from "../proto/transport/rpc/client.ts";
import { shell } from "./namespace/shell.ts";
import { TestAgent, type TestAgentOptions, TestWorkspace } from "./test_agent.ts";
import { eventually } from "../tests/support/eventually.ts";

const isRoot = Deno.uid() === 0;
const MAIN = join(import.meta.dirname!, "main.ts");

/** A test's own number of seconds to sleep, by which its process is known on the whole machine. */
function sleepSeconds(): number {
  return 100_000 + Math.floor(Math.random() * 800_000);
}

async function isRunning(commandLine: string): Promise<boolean> {
  return (await shell(`ps -eo args=`)).stdout.split("\n").includes(commandLine);
}

const GENRULE = `genrule(name = "g", outs = ["o"], cmd = "echo hi >$@")\n`;

/** What each kind of namespace promises, with a real server, a stock client inside, and a nested sandbox. */
async function session(options: TestAgentOptions & { user?: string; samePaths: boolean }): Promise<void> {
  await using workspace = await TestWorkspace.make("ws", GENRULE);
  const startupOptions = workspace.startupOptions({ user: options.user });
  await using agent = await TestAgent.start(workspace, { ...options, startupOptions });
  using supervisor = agent.supervise();
  const { samePaths, warnings } = await supervisor.ready();
  assert.equal(samePaths, options.samePaths);
  assert.equal(warnings.length, samePaths ? 0 : 1, warnings.join());

  const pidFile = join(workspace.storage, "out/server/server.pid.txt");
  const pid = await Deno.readTextFile(pidFile);
  const build = await agent.run(["bazel", "build", "--spawn_strategy=linux-sandbox", "//:g"]);
  assert.equal(build.code, 0, build.stderr);
  assert.match(build.stderr, /1 linux-sandbox/);
  const info = await agent.run(["bazel", "info", "server_pid", "output_base"]);
  assert.match(info.stdout, new RegExp(`server_pid: ${pid}\\b`), "a stock client inside finds the agent's server");
  const name = samePaths ? workspace.outputBase : join(workspace.storage, "out");
  assert.match(info.stdout, new RegExp(`output_base: ${name}\n`));

  assert.equal(
    await Deno.readTextFile(join(workspace.workspace, "bazel-bin/o")),
    "hi\n",
    "bazel-bin leads to the storage",
  );
  assert(isRoot === false || (await Deno.lstat(join(workspace.outputBase, "execroot"))).isSymlink);

  agent.process.kill("SIGTERM");
  assert.equal((await agent.process.status).code, 0);
  const { stdout } = await shell(`ps -eo args=`);
  assert(!stdout.includes(workspace.workspace), "nothing of the session is left");
}

const BY_ROOT = { ignore: !isRoot };
Deno.test(
  "a session of root, by bubblewrap",
  BY_ROOT,
  () => session({ flags: ["--namespace=bwrap"], samePaths: true }),
);
Deno.test("a session of root, by unshare", BY_ROOT, () => session({ flags: ["--namespace=unshare"], samePaths: true }));
Deno.test("a session of an ordinary user, by bubblewrap", () =>
  session({ unprivileged: isRoot, user: isRoot ? "nobody" : undefined, flags: ["--namespace=auto"], samePaths: true }));
Deno.test(
  "a session without a namespace says so",
  BY_ROOT,
  () => session({ flags: ["--namespace=none"], samePaths: false }),
);

Deno.test("the session outlives its server, its client's server and its namespace, and dies with its agent", async (t) => {
  const seconds = sleepSeconds();
  const sleeping = `sleep ${seconds}`;
  const build = `genrule(name = "slow", outs = ["o"], cmd = "${sleeping}", local = 1)\n`;
  await using workspace = await TestWorkspace.make("ws", build);
  await using agent = await TestAgent.start(workspace, { startupOptions: workspace.startupOptions() });
  using supervisor = agent.supervise();
  await supervisor.ready();
  const ofServer = (file: string) => Deno.readTextFileSync(join(workspace.storage, "out/server", file));
  const serverPid = () => Number(ofServer("server.pid.txt"));

  await t.step("kill -9 of the Bazel server ends the command, and the next one has a new server", async () => {
    const cookie = ofServer("request_cookie");
    const from = supervisor.messages.length;
    const command = agent.execute({ args: ["bazel", "build", "//:slow"] });
    await eventually(() => isRunning(sleeping), "the action runs");
    await agent.sh(`kill -9 ${serverPid()}`);
    const { code, stderr } = await command.result;
    assert.equal(code, 37, stderr);
    await supervisor.activity(0, from);
    const info = await agent.run(["bazel", "info", "server_pid"]);
    assert.equal(info.code, 0, info.stderr);
    assert.notEqual(ofServer("request_cookie"), cookie);
    assert.doesNotMatch(info.stderr, /Starting local Bazel server/, "the agent had started it");
  });

  await t.step("kill -9 of the namespace ends the command, and the next one has a new namespace", async () => {
    await agent.sh(`kill -9 $(pgrep -f -- '${sleeping}$')`);
    const command = agent.execute({ args: ["/bin/bash", "-c", "echo up; sleep 1000"] });
    await command.says("up");
    const { stdout } = await shell(`pgrep -P ${agent.process.pid} -f bwrap`);
    Deno.kill(Number(stdout.trim()), "SIGKILL");
    assert.equal((await command.result).code, 137);
    const info = await agent.run(["bazel", "info", "server_pid"]);
    assert.equal(info.code, 0, info.stderr);
  });

  await t.step("kill -9 of the agent ends every process of the session within 2 s", async () => {
    const command = agent.execute({ args: ["bazel", "build", "//:slow"] });
    await eventually(() => isRunning(sleeping), "the action runs");
    agent.process.kill("SIGKILL");
    await eventually(
      async () =>
        !(await shell(`ps -eo args=`)).stdout.split("\n").some((l) => l === sleeping || l.includes(workspace.root)),
      "all is gone",
      2_000,
    );
    await assert.rejects(command.result, (e) => e instanceof RpcError && e.code === Code.UNAVAILABLE);
  });
});

for (
  const [who, options] of [
    ["an agent of an ordinary user", { unprivileged: true }],
    ["an agent by unshare", { flags: ["--namespace=unshare"] }],
    ["an agent without a namespace", { flags: ["--namespace=none"] }],
  ] as const
) {
  Deno.test(`kill -9 of ${who} ends all of its session within 2 s`, BY_ROOT, async () => {
    await using workspace = await TestWorkspace.make("ws", GENRULE);
    // A pid namespace takes a server along as it takes anything; without one, it is ended by its number.
    const hasPidNamespace = !("flags" in options && options.flags[0] === "--namespace=none");
    const startupOptions = hasPidNamespace ? [] : workspace.startupOptions();
    await using agent = await TestAgent.start(workspace, { ...options, startupOptions });
    using supervisor = agent.supervise();
    await supervisor.ready();
    const sleeping = `sleep ${sleepSeconds()}`;
    // Without a pid namespace, a process that has left its session is nobody's.
    const escaping = hasPidNamespace ? `setsid ${sleeping} &` : "";
    const command = agent.execute({ args: ["/bin/bash", "-c", `${escaping} echo up; ${sleeping}`] });
    await command.says("up");
    agent.process.kill("SIGKILL");
    await assert.rejects(command.result);
    await eventually(
      async () =>
        !(await shell(`ps -eo args=`)).stdout.split("\n").some((l) => l === sleeping || l.includes(workspace.root)),
      "all is gone",
      2_000,
    );
  });
}

Deno.test("a session without startup options has the server that a client inside starts, and ends it with itself", async () => {
  await using workspace = await TestWorkspace.make("ws", GENRULE);
  await using agent = await TestAgent.start(workspace);
  using supervisor = agent.supervise();
  await supervisor.ready();
  assert(!supervisor.messages.some((m) => m.case === "step" && /Bazel server/.test(m.value)));
  const first = await agent.run(["bazel", "info", "server_pid"]);
  assert.equal(first.code, 0, first.stderr);
  const second = await agent.run(["bazel", "--host_jvm_args=-Dx=y", "info", "output_base"]);
  assert.equal(second.stdout, workspace.outputBase + "\n", "the caller's own startup options count as well");
  assert.match(second.stderr, /startup options are different/);
  await supervisor.call.send({ message: { case: "stop", value: { graceMs: 100 } } });
  assert.equal((await agent.process.status).code, 0);
  assert(!(await shell(`ps -eo args=`)).stdout.includes(workspace.root));
});

Deno.test("an agent that nobody supervises ends itself when its lease is over", async () => {
  await using workspace = await TestWorkspace.make();
  // Long enough for a busy machine to come and supervise it.
  await using agent = await TestAgent.start(workspace, { leaseSeconds: 8 });
  const supervisor = agent.supervise();
  await supervisor.ready();
  const left = performance.now();
  supervisor[Symbol.dispose]();
  assert.equal((await agent.process.status).code, 0);
  assert(performance.now() - left > 7_900);
});

Deno.test("a new supervisor replaces the former one, and learns at once that the agent is ready", async () => {
  await using workspace = await TestWorkspace.make();
  await using agent = await TestAgent.start(workspace);
  using first = agent.supervise();
  await first.ready();
  using second = agent.supervise();
  await second.ready();
  assert.equal((await first.over)?.code, Code.ABORTED);
});

Deno.test("a start that cannot be is told in one sentence, and the agent ends", async (t) => {
  const failure = async (options: (workspace: TestWorkspace) => TestAgentOptions) => {
    await using workspace = await TestWorkspace.make();
    await using agent = await TestAgent.start(workspace, options(workspace));
    using supervisor = agent.supervise();
    const { case: kind, value } = await supervisor.find((m) => m.case === "failed" || m.case === "ready");
    assert(kind === "failed", JSON.stringify(value));
    supervisor.call.end();
    assert.equal((await agent.process.status).code, 1);
    assert.doesNotMatch(value.reason, /\n/);
    return value;
  };
  await t.step("another Bazel version", async () => {
    const md5 = "0123456789abcdef0123456789abcdef";
    const { reason, transient } = await failure((w) => ({ startupOptions: w.startupOptions({ md5 }) }));
    const installed = await Deno.readTextFile("/usr/share/bazel/install_base_key");
    assert.match(reason, new RegExp(`${md5}.*${installed}.*install the same version`));
    assert.equal(transient, false);
  });
  await t.step("an install base that is not there", async () => {
    const { reason } = await failure((w) => ({ startupOptions: w.startupOptions({ installBase: "/no/install" }) }));
    assert.match(reason, /\/no\/install.*RBS_INSTALL_BASES/);
  });
  await t.step("a JVM option that is none", async () => {
    const { reason, transient } = await failure((w) => ({
      startupOptions: w.startupOptions({ hostJvmArgs: ["-XX:+Nonsense"] }),
    }));
    assert.match(reason, /Nonsense.*jvm\.out/);
    assert.equal(transient, false);
  });
  await t.step("a storage that cannot be written", async () => {
    const { reason } = await failure((w) => ({ storage: join(w.workspace, "WORKSPACE", "storage") }));
    assert.match(reason, /storage .* cannot be written/);
  });
});

/** The smallest permissions with which an agent works. */
function permissions(workspace: TestWorkspace): string[] {
  return [
    "--ignore-env",
    "--allow-env=RBS_NAMESPACE,RBS_BAZEL,RBS_INSTALL_BASES,RBS_AGENT_HOST",
    "--allow-net=127.0.0.1,[::1]",
    // Where what a request names leads to is looked at on the way as well; and where root may be root.
    `--allow-read=${workspace.root},/tmp,/var`,
    `--allow-write=${workspace.storage}`,
    "--allow-run=bash",
    "--allow-ffi",
  ];
}

Deno.test("an agent works with the smallest permissions, and is denied what is just outside of them", async () => {
  await using workspace = await TestWorkspace.make("ws", GENRULE);
  const options = { startupOptions: workspace.startupOptions(), permissions: permissions(workspace) };
  {
    await using agent = await TestAgent.start(workspace, options);
    using supervisor = agent.supervise();
    assert.deepEqual((await supervisor.ready()).warnings, []);
    const { code, stderr } = await agent.run(["bazel", "build", "//:g"]);
    assert.equal(code, 0, stderr);
    agent.process.kill("SIGTERM");
    assert.equal((await agent.process.status).code, 0);
  }
  await using agent = await TestAgent.start(workspace, { ...options, storage: workspace.storage + "-other" });
  using supervisor = agent.supervise();
  await assert.rejects(supervisor.ready(), /storage-other cannot be written \(Requires (read|write) access/);
});

Deno.test("the same version at another place is used", async () => {
  await using workspace = await TestWorkspace.make();
  await Deno.symlink("/usr/share/bazel", join(workspace.root, "4.2.3"));
  const startupOptions = workspace.startupOptions({ installBase: "/no/install" });
  await using agent = await TestAgent.start(workspace, {
    startupOptions,
    flags: [`--install-bases=/nowhere:${workspace.root}`],
  });
  using supervisor = agent.supervise();
  await supervisor.ready();
});

Deno.test("by hand, the agent says what it is for", async () => {
  const run = async (...args: string[]) => {
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--quiet", MAIN, ...args],
      stdin: "null",
    }).output();
    const decoder = new TextDecoder();
    return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
  };
  const [empty, unknown, help, test] = await Promise.all([run(), run("--nonsense"), run("--help"), run("--self-test")]);
  assert.deepEqual([empty.code, unknown.code, help.code, test.code], [2, 2, 0, 0], test.stdout);
  assert.match(empty.stderr, /^agent: [^\n]*\n$/);
  assert.match(help.stdout, /RBS_NAMESPACE/);
  assert.match(test.stdout, /linux-sandbox +works/);
});
