/** Sessions with a network of their own (`--unshare-net`): builds work as ever, and reach nothing outside of it. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { output } from "../support/run.ts";
import { ended, processesNaming, signal } from "./support/processes.ts";
import { BAZEL, Exit, type Rig, rig, test } from "./support/rig.ts";

const probe = `if [ "$(id -u)" = 0 ]; then bwrap --unshare-net --dev-bind / / true
else bwrap --unshare-user --unshare-net --dev-bind / / true; fi 2>&1 || true`;
const refused = await output(["sh", "-c", probe]);
if (refused !== "") console.log(`network_test: no session has a network of its own here: ${refused.trim()}`);

/** A listener on this machine; a rig with a target that connects to it. */
async function world(args: string[], agentEnv: Record<string, string> = {}) {
  await using stack = new AsyncDisposableStack();
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  stack.defer(() => listener.close());
  (async () => {
    for await (const connection of listener) {
      connection.write(new TextEncoder().encode("outside\n")).catch(() => {}).finally(() => connection.close());
    }
  })();
  const one = stack.use(await rig({ args, agentEnv }));
  const port = (listener.addr as Deno.NetAddr).port;
  const look = `{ read -r x <>/dev/tcp/127.0.0.1/${port} && echo $$x; } || echo refused; tail -n +3 /proc/net/dev`;
  const targets = `genrule(name = "spy", outs = ["seen"], cmd = "{ ${look}; } >$@ 2>/dev/null")
genrule(name = "loud", outs = ["loud.txt"], cmd = "seq 1 100000 >&2; touch $@")\n`;
  await Deno.writeTextFile(join(one.workspace.path, "BUILD"), targets, { append: true });
  const all = stack.move();
  return { one, [Symbol.asyncDispose]: () => all.disposeAsync() };
}

/** What the action found: what the listener outside said, and the names of the network's interfaces. */
async function seen(one: Rig): Promise<string[]> {
  const { code, stderr } = await one.run(["build", "//:spy"]);
  assert.equal(code, Exit.OK, stderr);
  const [said, ...interfaces] = (await Deno.readTextFile(join(one.workspace.path, "bazel-bin/seen"))).trim().split(
    "\n",
  );
  return [said, ...interfaces.map((line) => line.split(":")[0].trim())];
}

/** The processes by which the agent reaches into the session's network. */
async function splices(one: Rig): Promise<number[]> {
  const agent = await one.agent();
  return (await processesNaming("")).filter((p) => p.ppid === agent.pid && p.args[0] === "cat").map((p) => p.pid);
}

for (const workspace of BAZEL && refused === "" ? ["shared", "synced"] : []) {
  test(`a ${workspace} session with a network of its own builds, streams, is cancelled and ended as any, and reaches nothing outside`, async () => {
    // By the variable, or by the flag.
    await using made = workspace === "shared"
      ? await world([`--workspace=${workspace}`], { RBS_UNSHARE_NET: "1" })
      : await world([`--workspace=${workspace}`, "--unshare-net"]);
    const { one } = made;
    assert.deepEqual(await seen(one), ["refused", "lo"]);

    const loud = await one.run(["build", "//:loud"]);
    assert.equal(loud.code, Exit.OK, loud.stderr);
    const numbers = loud.stderr.split(/\r?\n/).filter((line) => /^\d+$/.test(line));
    assert.deepEqual([numbers.length, numbers.at(-1)], [100_000, "100000"]);

    await using build = one.start(["build", "//:sleepy"]);
    await build.says(/Analyzed|Analyzing/);
    await one.acting();
    build.kill("SIGINT");
    assert.equal((await build.finished).code, Exit.INTERRUPTED);
    await one.idle();

    const server = await one.server();
    assert.equal((await one.run(["shutdown"])).code, Exit.OK);
    await one.buildsQuickly();
    assert.notEqual((await one.server()).pid, server.pid);
  });
}

if (BAZEL && refused === "") {
  test("without the option an action reaches what listens on this machine", async () => {
    await using made = await world(["--workspace=shared"], { RBS_UNSHARE_NET: "0" });
    assert.equal((await seen(made.one))[0], "outside");
  });

  test("a way into the session's network that is killed costs a command at the most, and is made again", async () => {
    await using made = await world(["--unshare-net", "--workspace=shared"]);
    const { one } = made;
    await one.buildsQuickly();
    const before = await splices(one);
    assert.equal(before.length, 1, "one way for all commands");
    await one.buildsQuickly();
    assert.deepEqual(await splices(one), before);

    signal(before[0], "SIGKILL");
    await one.buildsQuickly();
    const [splice, ...others] = await splices(one);
    assert.deepEqual(others, []);
    assert.notEqual(splice, before[0]);

    await using build = one.start(["build", "//:sleepy"]);
    await one.acting();
    signal(splice, "SIGKILL");
    const { code, stderr } = await build.finished;
    assert.equal(code, Exit.SERVER_DIED, stderr);
    assert.match(stderr, /rbs: The Bazel server of this session ended unexpectedly/);
    await one.buildsQuickly();
    await one.idle();

    const [last] = await splices(one);
    signal((await one.agent()).pid, "SIGKILL");
    await ended(last);
    await one.buildsQuickly();
  });
}
