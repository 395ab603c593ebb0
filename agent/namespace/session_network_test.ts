/** Sessions with their own network: what a build reaches there, and how the agent reaches its Bazel server. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { join } from "node:path";
import type { Transport } from "../../proto/transport/transport.ts";
import { isRoot, SessionNamespace } from "./mount_namespace.ts";
import { connectInside } from "./session_network.ts";
import { quoteAll, shell } from "./shell.ts";
import { TestAgent, type TestAgentOptions, TestWorkspace } from "../test_agent.ts";
import { eventually } from "../../tests/support/eventually.ts";

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
    });
  });
}

/** A session without an agent, in this process, in which a program says back what it is told, at a port. */
async function echoing() {
  await using stack = new AsyncDisposableStack();
  const workspace = stack.use(await TestWorkspace.make());
  const namespace = new SessionNamespace({ kind: "auto", storageDirectory: workspace.storage, unshareNet: true });
  stack.defer(() => namespace.close());
  const [program, told] = [join(workspace.root, "echo.ts"), join(workspace.root, "port")];
  await Deno.writeTextFile(
    program,
    `const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
Deno.writeTextFileSync(Deno.args[0], String(listener.addr.port));
for await (const c of listener) c.readable.pipeTo(c.writable).catch(() => {});`,
  );
  const init = await namespace.init();
  init.run(`exec ${quoteAll([Deno.execPath(), "run", "--no-check", "-A", program, told])}\n`);
  const port = () => Number(Deno.readTextFileSync(told));
  await eventually(() => Promise.resolve().then(() => port() > 0).catch(() => false), "the program listens");
  const all = stack.move();
  return {
    namespace,
    init,
    connect: () => namespace.dial!("127.0.0.1", port(), AbortSignal.timeout(10_000)),
    [Symbol.asyncDispose]: () => all.disposeAsync(),
  };
}

/** The processes in `pid`'s care, theirs among them, that are named `cat`. */
async function cats(pid: number): Promise<number[]> {
  const { stdout } = await shell(`ps -eo pid=,ppid=,stat=,comm=`);
  const all = stdout.trim().split("\n").map((line) => line.trim().split(/\s+/));
  const children = all.filter(([, parent, state]) => Number(parent) === pid && !state.startsWith("Z"));
  const below = await Promise.all(children.map(async ([child]) => await cats(Number(child))));
  return [...children.filter((fields) => fields[3] === "cat").map(([child]) => Number(child)), ...below.flat()];
}

async function readExactly(transport: Transport, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length;) {
    const n = await transport.read(bytes.subarray(at));
    assert.notEqual(n, null, `only ${at} bytes came`);
    at += n!;
  }
  return bytes;
}

if (network) {
  Deno.test("a splice carries bytes as they are, both ways at once, and no program of the session sees it", async () => {
    await using session = await echoing();
    const transport = await session.connect();
    const sent = new Uint8Array(8 << 20).map((_, i) => i * 7 + (i >> 8));
    const received = readExactly(transport, sent.length);
    for (let at = 0; at < sent.length;) at += await transport.write(sent.subarray(at, at + 300_000));
    assert.deepEqual(createHash("sha256").update(await received).digest(), createHash("sha256").update(sent).digest());

    assert.equal((await cats(Deno.pid)).length, 2);
    assert.equal((await session.init.call(`ps -eo comm= | grep -cx cat`)).stdout.trim(), "0");
    transport.close();
    await eventually(async () => (await cats(Deno.pid)).length === 0, "its processes end", 5_000);
    assert.equal(await transport.read(new Uint8Array(1)).catch(() => null), null);
  });

  Deno.test("a splice that is killed, or whose session ends, is a connection that ended, and leaves no process", async () => {
    await using session = await echoing();
    for (const end of ["kill", "close"] as const) {
      const transport = await session.connect();
      await transport.write(new Uint8Array([1]));
      await readExactly(transport, 1);
      const over = transport.read(new Uint8Array(1));
      if (end === "close") await session.namespace.close();
      else for (const pid of await cats(Deno.pid)) Deno.kill(pid, "SIGKILL");
      assert.equal(await over, null);
      // One of its processes may end a moment after the other.
      const isRefused = () => transport.write(new Uint8Array([1])).then(() => false, () => true);
      await eventually(isRefused, "who writes is told", 5_000);
      transport.close();
      await eventually(async () => (await cats(Deno.pid)).length === 0, "its processes end", 5_000);
    }
    await assert.rejects(session.connect(), /namespace ended/);
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
