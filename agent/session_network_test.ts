/** Sessions with a network of their own: what a build reaches there, and how the agent reaches its Bazel server. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { isRoot } from "./session_namespace.ts";
import { connectInside } from "./session_network.ts";
import { shell } from "./shell.ts";
import { TestAgent, type TestAgentOptions, TestWorkspace } from "./test_agent.ts";

const IS_ROOT = await isRoot();

/** Kinds of namespaces by what makes them, and why one cannot be tried here. */
const KINDS: [name: string, options: TestAgentOptions, probe: string][] = IS_ROOT
  ? [
    ["of root, by bubblewrap", { flags: ["--namespace=bwrap"] }, "bwrap --unshare-net --dev-bind / / true"],
    ["of root, by unshare", { flags: ["--namespace=unshare"] }, "unshare --net ip link set lo up"],
    [
      "of an ordinary user",
      { unprivileged: true },
      "setpriv --reuid 65534 --regid 65534 --clear-groups bwrap --unshare-user --unshare-net --dev-bind / / true",
    ],
    [
      "that is synced, of root, by bubblewrap",
      { flags: ["--namespace=bwrap"], syncedWithout: [] },
      "bwrap --unshare-net --dev-bind / / true",
    ],
    [
      "that is synced, of root, by unshare",
      { flags: ["--namespace=unshare"], syncedWithout: [] },
      "unshare --net ip link set lo up",
    ],
  ]
  : [["of an ordinary user", {}, "bwrap --unshare-user --unshare-net --dev-bind / / true"]];

/** Which of the kinds this machine can make. Says so of each that it cannot. */
const possible: typeof KINDS = [];
for (const kind of KINDS) {
  const { code, stderr } = await shell(kind[2]);
  if (code === 0) possible.push(kind);
  else console.log(`session_network_test: no session ${kind[0]} has a network of its own here: ${stderr.trim()}`);
}

/** A listener on this machine that says "outside" to whoever connects. */
function outside() {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  (async () => {
    for await (const connection of listener) {
      connection.write(new TextEncoder().encode("outside\n")).catch(() => {}).finally(() => connection.close());
    }
  })();
  return { port: (listener.addr as Deno.NetAddr).port, [Symbol.dispose]: () => listener.close() };
}

const reach = (port: number) => `{ read -r x <>/dev/tcp/127.0.0.1/${port} && echo $x; } 2>/dev/null || echo refused`;
const INTERFACES = `tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '`;

for (const [whose, options] of possible) {
  Deno.test(`a session ${whose} with a network of its own reaches no port of this machine, and has only lo`, async () => {
    using there = outside();
    // A synced session cannot have a developer's files in a system folder.
    await using workspace = await TestWorkspace.make("ws", "", options.syncedWithout ? "/" : undefined);
    await using agent = await TestAgent.start(workspace, { ...options, unshareNet: true });
    using supervisor = agent.supervise();
    await supervisor.ready();
    assert.equal(await agent.sh(reach(there.port)), "refused");
    assert.equal(await agent.sh(INTERFACES), "lo");
    assert.equal(await agent.sh(reach(agent.port)), "refused", "nor the agent's own");
  });
}

Deno.test("without the option a session reaches what this machine does", async () => {
  using there = outside();
  await using workspace = await TestWorkspace.make();
  await using agent = await TestAgent.start(workspace);
  using supervisor = agent.supervise();
  await supervisor.ready();
  assert.equal(await agent.sh(reach(there.port)), "outside");
});

Deno.test("where no namespace is allowed, there is no session with a network of its own, and it is said why", async () => {
  await using workspace = await TestWorkspace.make();
  await using agent = await TestAgent.start(workspace, { flags: ["--namespace=none"], unshareNet: true });
  using supervisor = agent.supervise();
  await assert.rejects(supervisor.ready(), /--unshare-net needs a namespace, and RBS_NAMESPACE=none forbids it/);
});

const [network] = possible;
if (network) {
  /** Agent with a Bazel server in a network of its own. */
  const withServer = async (build: string, run: (agent: TestAgent) => Promise<void>) => {
    await using workspace = await TestWorkspace.make("ws", build);
    const startupOptions = workspace.startupOptions();
    await using agent = await TestAgent.start(workspace, { ...network[1], startupOptions, unshareNet: true });
    using supervisor = agent.supervise();
    await supervisor.ready();
    await run(agent);
  };

  Deno.test("the Bazel server in a network of its own is found at its start, and by a client in the session", async () => {
    const spy = `genrule(name = "spy", outs = ["seen"], local = True, cmd = "(${
      INTERFACES.replaceAll("$", "$$")
    }) >$@ 2>&1")\n`;
    await withServer(spy, async (agent) => {
      assert.match(agent.log, /Bazel server \d+ answers at port \d+/);
      const built = await agent.run(["bazel", "build", "//:spy"]);
      assert.equal(built.code, 0, built.stderr);
      assert.equal(await agent.sh(`cat ${agent.workspace.workspace}/bazel-bin/seen`), "lo");
      const port = (await Deno.readTextFile(join(agent.workspace.storage, "out/server/command_port"))).split(":").at(
        -1,
      )!;
      await assert.rejects(Deno.connect({ hostname: "127.0.0.1", port: Number(port) }), "it is not to be had outside");
      // The splice is on the machine's side: a program of the session can neither see nor stop it.
      assert.equal(await agent.sh("ps -eo args | grep -c '[n]senter\\|[d]ev/tcp'"), "0");
    });
  });
}

/** A network of its own without anything else, and a port in it. */
function loneNetwork(program: string) {
  const process = new Deno.Command("bash", {
    args: ["-c", `exec unshare --net bash -c 'ip link set lo up; ${program}'`],
    stdin: "piped",
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  return {
    pid: process.pid,
    stdout: process.stdout,
    async [Symbol.asyncDispose]() {
      process.stdin.close().catch(() => {});
      try {
        process.kill("SIGKILL");
      } catch {
        // It has ended.
      }
      await process.status;
      await process.stdout.cancel().catch(() => {});
    },
  };
}

Deno.test({
  name: "what cannot be connected to is an error of one sentence, and leaves no process",
  ignore: !possible.some(([, { flags }]) => flags?.includes("--namespace=unshare")),
  async fn() {
    await using network = loneNetwork("echo up; exec cat");
    await network.stdout.getReader().read();
    const signal = AbortSignal.timeout(10_000);
    await assert.rejects(connectInside(network.pid, "127.0.0.1", 9, signal), /cannot be reached: .*refused/);
    const ended = new Deno.Command("true", { stdin: "null" }).spawn();
    await ended.status;
    await assert.rejects(connectInside(ended.pid, "127.0.0.1", 9, signal), /cannot be reached: its network is gone\.$/);
    await assert.rejects(connectInside(network.pid, "127.0.0.1", 9, AbortSignal.abort(new Error("no"))), /no/);
  },
});
