/** What the tests of faults and signals work with: a small workspace without a compiler, and a cluster of its own. */
import assert from "node:assert/strict";
import { dirname, join } from "node:path";
import { type Bazel, findBazels, IS_FURTHER } from "../../support/bazels.ts";
import { type Cluster, startCluster } from "../../support/cluster.ts";
import { PROGRAMS } from "../../support/repository.ts";
import type { Finished, Running, RunOptions } from "../../support/run.ts";
import { removeTree, tempDir } from "../../support/temp_dir.ts";
import { surroundings, type TwoMachines } from "../../support/two_machines.ts";
import { type TestWorkspace, testWorkspace } from "../../support/workspace.ts";
import { repoHash } from "../../../proto/bazel/workspace.ts";
import { eventually } from "../../support/eventually.ts";
import { ended, type Process, processesNaming, signal } from "./processes.ts";

const { found } = await findBazels();

/** All Bazels of this machine. */
export const BAZELS: readonly Bazel[] = found;
/** The one that every case runs with. */
export const BAZEL: Bazel = found[0];

/** A case that does not depend on the Bazel. */
export function test(name: string, fn: () => Promise<void>) {
  // What the rigs run that a file's tests share outlives a test.
  Deno.test({ name, fn, ignore: IS_FURTHER, sanitizeOps: false, sanitizeResources: false });
}

/** A case for each of these Bazels. */
export function testEach(name: string, fn: (bazel: Bazel) => Promise<void>, bazels: readonly Bazel[] = BAZELS) {
  for (const bazel of bazels) {
    const definition = { name: `Bazel ${bazel.version}: ${name}`, fn: () => fn(bazel) };
    Deno.test({ ...definition, sanitizeOps: false, sanitizeResources: false });
  }
}

/** Bazel's exit codes. */
export const Exit = { OK: 0, BUILD_FAILED: 1, INTERRUPTED: 8, LOCK_HELD: 9, LOCAL_ENVIRONMENT: 36, SERVER_DIED: 37 };

/** A small workspace, and the processes that serve it. It, and whatever still names it, goes with the scope. */
export interface Rig extends AsyncDisposable {
  workspace: TestWorkspace;
  /** Undefined for a workspace without RBS. */
  cluster: Cluster | undefined;
  /** Absolute. */
  outputBase: string;
  /** Is in the arguments of each process that `//:sleepy`, `//:patient` or `@slow` starts, and nowhere else. */
  marker: string;
  run(args: readonly string[], options?: RunOptions): Promise<Finished>;
  start(args: readonly string[], options?: RunOptions): Running;
  /** Builds the quick target, which must go well, and within `timeout` milliseconds. */
  buildsQuickly(timeout?: number): Promise<Finished>;
  /** The proxy that the output base names. */
  proxy(): Promise<number>;
  /** The agent of this workspace. */
  agent(): Promise<Process>;
  /** The real Bazel server (of the agent, or of the client itself). */
  server(): Promise<Process>;
  /** Waits until the marker's process runs: the command is in mid-action. */
  acting(): Promise<Process>;
  /** From now on agents do not get beyond their first step, if the rig has `holdable` agents. */
  hold(): Promise<void>;
  /** Waits until an agent is held. */
  held(): Promise<Process>;
  /** Lets held agents go on. */
  release(): Promise<void>;
  /** Lets `//:patient` come to its end. */
  go(): Promise<void>;
  /** Waits until no process has the marker any more. */
  idle(timeout?: number): Promise<void>;
  /** All processes that belong to this workspace or its cluster, the cluster's orchestrator itself left out. */
  processes(): Promise<Process[]>;
  /** Waits until none of them is left. */
  nothingLeft(timeout?: number): Promise<void>;
}

/** How a rig is made. */
export interface RigOptions {
  bazel?: Bazel;
  /** Arguments of the orchestrator. */
  args?: readonly string[];
  /** The client's environment. */
  env?: Record<string, string | undefined>;
  /** The orchestrator's, and so the agents'. */
  agentEnv?: Record<string, string>;
  /** More startup options. */
  startupOptions?: readonly string[];
  /** A cluster that others use as well. */
  cluster?: Cluster;
  /** Without RBS: what stock Bazel does. */
  stock?: boolean;
  /** The workspace is on the laptop, and the cluster on the cloud. */
  machines?: TwoMachines;
  /** Variables with which the proxy finds an orchestrator that is nobody's business here. */
  rbs?: Record<string, string>;
  /** Agents start through a script that {@link Rig.hold} can hold. */
  holdable?: boolean;
  /** Of the workspace's folder. */
  name?: string;
  /** Below this test's own folder. */
  outputBase?: string;
}

/** Makes a rig. */
export async function rig(options: RigOptions = {}): Promise<Rig> {
  const { bazel = BAZEL, args, stock = false, rbs, machines } = options;
  const scripts = await tempDir("rbs-agent-", (machines ?? surroundings())?.shared);
  const [held, heldAgent] = [scripts.join("hold"), scripts.join("held-agent")];
  const script = `#!/bin/sh\nwhile [ -e ${held} ]; do sleep 0.05; done\nexec ${PROGRAMS.agent} "$@"\n`;
  await Deno.writeTextFile(heldAgent, script, { mode: 0o755 });
  const agent = options.holdable ? [`--agent=${heldAgent}`] : [];
  const own = stock || rbs || options.cluster
    ? undefined
    : await startCluster({ args: [...agent, ...args ?? []], env: options.agentEnv, machines });
  const cluster = stock || rbs ? undefined : options.cluster ?? own;
  const marker = `6${Math.random().toString().slice(2, 10)}.25`;
  await using template = await tempDir("rbs-template-");
  const workspace = await testWorkspace(bazel, {
    name: options.name,
    from: template.path,
    on: machines?.laptop,
    startupOptions: [
      ...stock ? [] : [`--server_javabase=${PROGRAMS.javabase}`],
      ...options.startupOptions ?? [],
    ],
    env: { ...cluster?.env, ...rbs, ...options.env },
  });
  await writeWorkspace(workspace.path, marker);
  const outputBase = options.outputBase
    ? join(dirname(workspace.path), options.outputBase)
    : join(workspace.outputUserRoot, repoHash(workspace.path));
  const startup = options.outputBase ? [`--output_base=${outputBase}`] : [];
  const names = [dirname(workspace.path), marker, scripts.path, ...own ? [own.state] : []];

  const self: Rig = {
    workspace,
    cluster,
    outputBase,
    marker,
    run: (args, options) => workspace.run([...startup, ...args], options),
    start: (args, options) => workspace.start([...startup, ...args], options),
    async buildsQuickly(timeout = 60_000) {
      const result = await self.run(["build", "//:quick"], { timeout });
      assert.equal(result.code, 0, result.stderr);
      return result;
    },
    async proxy() {
      return Number(await Deno.readTextFile(join(outputBase, "server/server.pid.txt")));
    },
    agent: () =>
      eventually(
        async () =>
          (await processesNaming(`/${repoHash(workspace.path)}`)).find((p) =>
            p.args.some((a) => a === PROGRAMS.agent) && !p.args.some((a) => a === PROGRAMS.orchestrator)
          ),
        "an agent runs",
      ),
    server: () =>
      eventually(
        async () =>
          (await processesNaming(outputBase)).find((p) =>
            p.args[0].startsWith("bazel(") && p.args.includes(`--output_base=${outputBase}`)
          ),
        "a Bazel server runs",
      ),
    acting: () => eventually(async () => (await sleepers(marker))[0], "the action runs"),
    hold: () => Deno.writeTextFile(held, ""),
    held: () =>
      eventually(
        async () => (await processesNaming(heldAgent)).find((p) => p.args[1] === heldAgent),
        "an agent is held",
      ),
    release: () => Deno.remove(held).catch(() => {}),
    async go() {
      for (const { pid } of await sleepers(marker)) signal(pid, "SIGTERM");
    },
    idle: (timeout) =>
      eventually(async () => (await sleepers(marker)).length === 0, "the action is gone", timeout)
        .then(() => {}),
    async processes() {
      const orchestrator = own?.orchestrator.pid;
      return (await processesNaming(...names)).filter((p) => p.pid !== orchestrator);
    },
    async nothingLeft(timeout = 20_000) {
      await eventually(async () => (await self.processes()).length === 0, "no process is left", timeout).catch(
        async (error) => {
          const left = await self.processes();
          throw new Error(
            `${error.message}\n${left.map((p) => `${p.pid} ${p.args.join(" ").slice(0, 300)}`).join("\n")}`,
          );
        },
      );
    },
    async [Symbol.asyncDispose]() {
      await self.release();
      await own?.[Symbol.asyncDispose]();
      // What a failed test left; the signal reaches no process that does not name this test's folders.
      for (const { pid } of await self.processes()) signal(pid, "SIGKILL");
      for (const { pid } of await self.processes()) await ended(pid).catch(() => {});
      await removeTree(dirname(workspace.path));
      await scripts[Symbol.asyncDispose]();
    },
  };
  return self;
}

async function sleepers(marker: string): Promise<Process[]> {
  return (await processesNaming(marker)).filter((p) => p.args[0].endsWith("sleep") && p.args.includes(marker));
}

async function writeWorkspace(path: string, marker: string) {
  const files = {
    WORKSPACE: `load("//:slow.bzl", "slow")\nslow(name = "slow")\n`,
    "slow.bzl": `
def _slow(repository_ctx):
    repository_ctx.execute(["sleep", "${marker}"], timeout = 100000)
    repository_ctx.file("BUILD", "")

slow = repository_rule(implementation = _slow, local = True)
`,
    BUILD: `
genrule(name = "quick", outs = ["quick.txt"], cmd = "echo quick > $@")
genrule(name = "sleepy", outs = ["sleepy.txt"], cmd = "sleep ${marker}; echo slept > $@")
genrule(name = "patient", outs = ["patient.txt"], cmd = "sleep ${marker} || true; echo went > $@")
`,
  };
  for (const [name, text] of Object.entries(files)) await Deno.writeTextFile(join(path, name), text.trimStart());
}
