/**
 * Links that break, at every stage of a command: it ends as if nothing had happened, with no byte lost or doubled; and what
 * happens when a link does not come back.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { repoHash } from "../../proto/bazel/workspace.ts";
import { eventually } from "../support/eventually.ts";
import { ended, signal } from "../mirror/support/processes.ts";
import { BAZEL, Exit, type Rig, rig } from "../mirror/support/rig.ts";
import type { Link } from "../support/link.ts";
import { output, type Running } from "../support/run.ts";
import { type Machine, type TwoMachines, twoMachines } from "../support/two_machines.ts";

/** 20 targets with 1 MB each in an attribute, for `query --output=build`. */
const BIG = `
TEXT = ("0123456789abcdef" * 64) * 1024

[genrule(
    name = "big_%d" % i,
    outs = ["big_%d.txt" % i],
    cmd = "echo " + TEXT,
) for i in range(20)]
`;

/** Outputs that nothing can compress. */
const RANDOM = `
genrule(
    name = "random",
    outs = ["random.bin", "random.sha256"],
    cmd = "head -c 20M /dev/urandom > $(location random.bin); sha256sum < $(location random.bin) > $(location random.sha256)",
)
`;

/** An action that waits, and then prints much. @param marker See {@link Rig.marker}. */
const loud = (marker: string) => `
genrule(
    name = "loud",
    outs = ["loud.txt"],
    cmd = "sleep ${marker} || true; seq -f 'line %.0f' 50000 | tee $@ >&2",
)
`;

interface Pair {
  machines: TwoMachines;
  link: Link;
  rig: Rig;
}

/** The two machines that most tests share, and a workspace that was built there once. */
let shared: Promise<Pair & AsyncDisposable> | undefined;

async function makePair(agentEnv?: Record<string, string>): Promise<Pair & AsyncDisposable> {
  const machines = await twoMachines();
  console.log(`The packets of seed ${machines.link.seed} are lost (RBS_TEST_SEED).`);
  const one = await rig({ bazel: BAZEL, machines, agentEnv, holdable: true });
  for (const [name, text] of [["big", BIG], ["random", RANDOM]]) {
    await Deno.mkdir(join(one.workspace.path, name));
    await Deno.writeTextFile(join(one.workspace.path, name, "BUILD"), text);
  }
  await one.buildsQuickly();
  return {
    machines,
    link: machines.link,
    rig: one,
    async [Symbol.asyncDispose]() {
      await machines.link.heal();
      await one[Symbol.asyncDispose]();
      await machines[Symbol.asyncDispose]();
    },
  };
}

Deno.test.afterAll(async () => await (await shared)?.[Symbol.asyncDispose]());

/** A case with the shared machines, whose link is whole before and after it. */
function test(name: string, fn: (pair: Pair) => Promise<void>) {
  const run = async () => {
    const pair = await (shared ??= makePair());
    try {
      await fn(pair);
    } finally {
      await pair.link.set({ mode: "carries", rate: 0 });
    }
  };
  Deno.test({ name, fn: run, sanitizeOps: false, sanitizeResources: false });
}

/** Waits until so many bytes more have gone one way. */
async function carried(link: Link, direction: "there" | "back", bytes: number) {
  const before = (await link.count())[direction].bytes;
  await eventually(
    async () => (await link.count())[direction].bytes - before >= bytes,
    `${bytes} bytes went over the link`,
  );
}

/** The break itself. */
function pause(seconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, seconds * 1_000));
}

/** Expects that a command ended well, and that RBS said nothing but what it waited for. */
async function endsWell(command: Running) {
  const finished = await command.finished;
  assert.equal(finished.code, Exit.OK, finished.stderr);
  const progress = /^rbs: .*( \d+\.\ds| left)$|^rbs: (syncing|synced|bringing home|brought home) /;
  const said = finished.stderr.split("\n").filter((line) => line.startsWith("rbs: ") && !progress.test(line));
  assert.deepEqual(said, []);
  return finished;
}

/** How links break, and how they come back. */
const BREAKS: Record<string, { seconds: number; break(link: Link): Promise<void>; mend(link: Link): Promise<void> }> = {
  "falls silent for 2 s": { seconds: 2, break: (link) => link.cut(), mend: (link) => link.heal() },
  "falls silent for 12 s": { seconds: 12, break: (link) => link.cut(), mend: (link) => link.heal() },
  "resets its connections": { seconds: 1, break: (link) => link.reset(), mend: (link) => link.heal() },
  "is unplugged, and the laptop comes back with another address": {
    seconds: 3,
    break: (link) => link.unplug(),
    mend: (link) => link.plugIn(),
  },
};

// --- a link that comes back

test("a link that is down when a command starts is waited for", async ({ link, rig }) => {
  signal(await rig.proxy(), "SIGKILL"); // A new one must ask the orchestrator.
  await link.cut();
  await using build = rig.start(["build", "//:quick"]);
  await build.says(/rbs: .* \d\.\ds/);
  await pause(3);
  await link.heal();
  await endsWell(build);
});

test("a link that breaks while the agent starts costs time only", async ({ link, rig }) => {
  const server = await rig.server();
  await rig.run(["shutdown"]);
  await ended(server.pid);
  await rig.hold();
  await using build = rig.start(["build", "//:quick"]);
  await rig.held();
  await link.cut();
  await rig.release();
  await pause(6);
  await link.heal();
  await endsWell(build);
});

for (const [how, fault] of Object.entries(BREAKS)) {
  test(`output that streams while the link ${how} arrives whole, and once`, async ({ link, rig }) => {
    const query = ["query", "--order_output=full", "--output=build", "//big:all"];
    const digest = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");
    const whole = await rig.run(query);
    assert(whole.stdoutBytes.length > 20_000_000, whole.stderr);
    await link.set({ rate: 100e6 });
    await using command = rig.start(query);
    await carried(link, "back", 5e6);
    await fault.break(link);
    await pause(fault.seconds);
    await fault.mend(link);
    const { stdoutBytes } = await endsWell(command);
    assert.equal(digest(stdoutBytes), digest(whole.stdoutBytes));
  });
}

test("a link that breaks several times in one command costs time only", async ({ link, rig }) => {
  await using build = rig.start(["build", "//:patient"]);
  await rig.acting();
  for (const fault of Object.values(BREAKS).filter(({ seconds }) => seconds < 10)) {
    await fault.break(link);
    await pause(fault.seconds);
    await fault.mend(link);
    await pause(1);
  }
  await rig.go();
  await endsWell(build);
});

/** New files in the workspace. */
interface Content {
  bytes: number;
  /** Expects that the agent has just these files. */
  arrived(): Promise<void>;
}

/** Writes so many files of so many bytes each, which nothing can compress, in the place of those before. */
async function writeContent(
  { machines, rig: { workspace, cluster } }: Pair,
  count: number,
  size: number,
): Promise<Content> {
  const folder = join(workspace.path, "content");
  await Deno.remove(folder, { recursive: true }).catch(() => {});
  await Deno.mkdir(folder);
  for (let i = 0; i < count; i++) await Deno.writeFile(join(folder, `${i}`), randomBytes(size));
  const digests = (on: Machine, folder: string) => output(["sh", "-c", `cd ${folder} && sha256sum *`], { on });
  const here = await digests(machines.laptop, folder);
  return {
    bytes: count * size,
    async arrived() {
      const there = join(cluster!.state, "storage/*", `${repoHash(workspace.path)}-*`, "root", folder);
      assert.equal(await digests(machines.cloud, there), here);
    },
  };
}

test("a first sync of many small files outlasts a link that is silent for long", async (pair) => {
  const { machines, link, rig: { cluster } } = pair;
  await using one = await rig({ bazel: BAZEL, machines, cluster });
  const content = await writeContent({ ...pair, rig: one }, 3_000, 4_000);
  await link.set({ rate: 40e6 });
  await using query = one.start(["query", "//:quick"]);
  await query.says(/^rbs: syncing /m);
  const before = (await link.count()).there.bytes;
  await carried(link, "there", content.bytes / 4);
  await link.cut();
  // Who gave up the agent with the connection (after 8 s) would wait for the orchestrator for 10 s more.
  await pause(22);
  await link.heal();
  await endsWell(query);
  await content.arrived();
  const sent = (await link.count()).there.bytes - before;
  assert(sent < content.bytes * 1.3, `${sent} bytes were sent for ${content.bytes}`);
});

test("a cut in mid-sync goes on where it was", async ({ link, rig }) => {
  const size = 20e6;
  await Deno.writeFile(join(rig.workspace.path, "large.bin"), randomBytes(size));
  await link.set({ rate: 40e6 });
  const before = (await link.count()).there.bytes;
  await using build = rig.start(["build", "//:quick"]);
  await carried(link, "there", size / 2);
  await link.cut();
  await pause(3);
  await link.heal();
  await endsWell(build);
  const sent = (await link.count()).there.bytes - before;
  assert(sent < size * 1.3, `${sent} bytes were sent for a file of ${size}`);
});

/** Expects that {@link RANDOM} of this package is here as it was made. */
async function randomIsHome({ workspace }: Rig, name: string) {
  const bin = join(workspace.path, "bazel-bin", name);
  const sum = createHash("sha256").update(await Deno.readFile(join(bin, "random.bin"))).digest("hex");
  assert.equal((await Deno.readTextFile(join(bin, "random.sha256"))).split(" ")[0], sum);
}

test("a cut while outputs come home goes on where it was", async ({ link, rig }) => {
  await link.set({ rate: 40e6 });
  const before = (await link.count()).back.bytes;
  await using build = rig.start(["build", "//random"]);
  await carried(link, "back", 10e6);
  await link.cut();
  await pause(3);
  await link.heal();
  await endsWell(build);
  const received = (await link.count()).back.bytes - before;
  await randomIsHome(rig, "random");
  assert(received < 20e6 * 1.3, `${received} bytes were received for 20 MB`);
});

// --- processes that die, or stand still, while bytes are on their way

/** A proxy is killed. Its client ends. */
async function killProxy(rig: Rig, command: Running) {
  const proxy = await rig.proxy();
  signal(proxy, "SIGKILL");
  await ended(proxy);
  assert.equal((await command.finished).code, Exit.SERVER_DIED);
}

test("a proxy that is killed in mid-sync leaves the rest to the next one", async (pair) => {
  const { link, rig } = pair;
  const content = await writeContent(pair, 1, 20e6);
  await link.set({ rate: 60e6 });
  const before = (await link.count()).there.bytes;
  await using build = rig.start(["build", "//:quick"]);
  await carried(link, "there", content.bytes / 2);
  await killProxy(rig, build);
  await endsWell(rig.start(["build", "//:quick"]));
  await content.arrived();
  const sent = (await link.count()).there.bytes - before;
  assert(sent < content.bytes * 1.3, `${sent} bytes were sent for ${content.bytes}`);
});

test("an agent that is killed in mid-sync costs time only, and what it had got is not sent again", async (pair) => {
  const { link, rig } = pair;
  // What lay in the buffers of both ends is lost with it: a few megabytes.
  const content = await writeContent(pair, 1_000, 20e3);
  await link.set({ rate: 40e6 });
  const before = (await link.count()).there.bytes;
  const agent = await rig.agent();
  await using build = rig.start(["build", "//:quick"]);
  await carried(link, "there", content.bytes / 2);
  signal(agent.pid, "SIGKILL");
  await endsWell(build);
  assert.notEqual((await rig.agent()).pid, agent.pid);
  await content.arrived();
  const sent = (await link.count()).there.bytes - before;
  assert(sent < content.bytes * 1.3, `${sent} bytes were sent for ${content.bytes}`);
});

test("a proxy that is killed while outputs come home leaves the rest to the next one", async ({ link, rig }) => {
  const folder = join(rig.workspace.path, "more");
  await Deno.mkdir(folder);
  await Deno.writeTextFile(join(folder, "BUILD"), RANDOM);
  await link.set({ rate: 60e6 });
  const before = (await link.count()).back.bytes;
  await using build = rig.start(["build", "//more:random"]);
  await carried(link, "back", 10e6);
  await killProxy(rig, build);
  await endsWell(rig.start(["build", "//more:random"]));
  await randomIsHome(rig, "more");
  const received = (await link.count()).back.bytes - before;
  assert(received < 20e6 * 1.3, `${received} bytes were received for 20 MB`);
});

test("a laptop that sleeps in mid-action goes on, and no byte of output is lost or doubled", async ({ rig }) => {
  const folder = join(rig.workspace.path, "loud");
  await Deno.mkdir(folder);
  await Deno.writeTextFile(join(folder, "BUILD"), loud(rig.marker));
  await using build = rig.start(["build", "//loud"]);
  await rig.acting();
  const proxy = await rig.proxy();
  signal(proxy, "SIGSTOP");
  try {
    await rig.go();
    await pause(10); // Longer than the agent waits for a sign of life.
  } finally {
    signal(proxy, "SIGCONT");
  }
  const { stderr } = await endsWell(build);
  const lines = Array.from({ length: 50_000 }, (_, i) => `line ${i + 1}\n`).join("");
  const at = stderr.indexOf("line 1\n");
  // Not assert.equal: it would compare two long texts for minutes to say where they differ.
  assert(stderr.slice(at, at + lines.length) === lines, `the output differs: …${stderr.slice(-1_000)}`);
  assert.equal(stderr.match(/^line \d+$/gm)?.length, 50_000);
  assert.equal(await rig.proxy(), proxy);
});

test("a link that was down between two commands is not noticed", async ({ link, rig }) => {
  const server = await rig.server();
  for (const fault of Object.values(BREAKS)) {
    await fault.break(link);
    await pause(fault.seconds);
    await fault.mend(link);
    await endsWell(rig.start(["build", "//:quick"]));
  }
  assert.equal((await rig.server()).pid, server.pid);
});

// --- a link that does not

/** The connections to the other machine that a machine believes in. */
async function connections(on: Machine): Promise<string[]> {
  const all = (await output(["ss", "-Htn", "state", "established"], { on })).trim().split("\n");
  return all.filter((line) => {
    const [local, peer] = line.trim().split(/\s+/).slice(2).map((end) => end.slice(0, end.lastIndexOf(":")));
    return local !== peer;
  });
}

test("both ends notice within ten seconds that the other is silent", async ({ machines, link, rig }) => {
  await using build = rig.start(["build", "//:sleepy"]);
  await rig.acting();
  await link.cut();
  const both = [machines.laptop, machines.cloud];
  for (const machine of both) assert.notEqual((await connections(machine)).length, 0);
  const closed = (on: Machine) =>
    eventually(async () => (await connections(on)).length === 0, `the ${on.name} gives its connections up`, 11_000);
  await Promise.all(both.map(closed));
  await link.heal();
  await eventually(async () => (await connections(machines.laptop)).length > 0, "there is a connection again");
  build.kill("SIGINT");
  assert.equal((await build.finished).code, Exit.INTERRUPTED);
  await rig.idle();
});

test("Ctrl-C on a dead link ends the client soon, and the command when the link is back", async ({ link, rig }) => {
  await using build = rig.start(["build", "//:sleepy"]);
  await rig.acting();
  await link.cut();
  await pause(1);
  const began = performance.now();
  build.kill("SIGINT");
  const { code, stderr } = await build.finished;
  assert.equal(code, Exit.INTERRUPTED, stderr);
  const took = performance.now() - began;
  assert(took < 5_000, `it took ${took} ms`);
  await link.heal();
  await rig.idle();
  await rig.buildsQuickly();
});

test("a proxy that is killed on a dead link leaves nothing running, and the next one goes on", async ({ link, rig }) => {
  const server = await rig.server();
  await using build = rig.start(["build", "//:sleepy"]);
  await rig.acting();
  await link.cut();
  const proxy = await rig.proxy();
  signal(proxy, "SIGKILL");
  await ended(proxy);
  assert.equal((await build.finished).code, Exit.SERVER_DIED);
  await link.heal();
  await rig.buildsQuickly();
  await rig.idle();
  assert.equal((await rig.server()).pid, server.pid);
});

Deno.test("a command whose link stays dead is cancelled after the grace period", async () => {
  await using pair = await makePair({ RBS_GRACE_SECONDS: "2" });
  const { link, rig } = pair;
  await using build = rig.start(["build", "//:sleepy"]);
  await rig.acting();
  await link.cut();
  await rig.idle(20_000);
  await link.heal();
  const { code, stderr } = await build.finished;
  assert.notEqual(code, Exit.OK);
  assert.match(stderr, /^rbs: [A-Z].*\.$/m);
  await rig.buildsQuickly();
});

function randomBytes(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; at += 65_536) crypto.getRandomValues(bytes.subarray(at, at + 65_536));
  return bytes;
}
