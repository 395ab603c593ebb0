/**
 * The first commands of a workspace that was built before and has no server: `info`, which starts one, and the first build
 * after it. By plain Bazel, and through RBS in the ways in which an orchestrator can be set up.
 */
import { join } from "node:path";
import type { Bazel } from "../support/bazels.ts";
import { type Cluster, startCluster } from "../support/cluster.ts";
import { type TestWorkspace, testWorkspace } from "../support/workspace.ts";
import { untilWarm } from "./control_bench.ts";
import { interleaved, median, ms, type Result } from "./report.ts";

const ROUNDS = 7, WARM_UPS = 1;
/** Between a server's end and the next one's start: for what ends after its client, and to read the last one's pages. */
const SETTLE_MS = 1_000;
/** For an archive that is made in the background. */
const ARCHIVE_MS = 3 * 60_000;

const COMMANDS = [["info"], ["build", "//..."]] as const;

interface Side {
  what: string;
  /** Of the orchestrator. */
  args: readonly string[];
  /** Of plain Bazel's sum. */
  target?: number;
}

const SIDES: readonly Side[] = [
  { what: "a warm agent and an archive", args: ["--warm=1", "--class-archives=4"], target: 0.75 },
  { what: "no warm agent, but an archive", args: ["--class-archives=4"], target: 0.9 },
  { what: "neither", args: ["--class-archives=0"] },
];

/** Milliseconds of each of {@link COMMANDS}. */
async function first(workspace: TestWorkspace): Promise<number[]> {
  const taken: number[] = [];
  for (const args of COMMANDS) {
    const { code, took, stderr } = await workspace.run(args);
    if (code !== 0) throw new Error(`bazel ${args.join(" ")} ended with ${code}:\n${stderr}`);
    taken.push(took);
  }
  return taken;
}

/** Builds once, and waits for the archive that is made then. */
async function prepare(workspace: TestWorkspace, side: Side, cluster: Cluster): Promise<void> {
  await first(workspace);
  if (side.args.includes("--class-archives=0")) return;
  const until = performance.now() + ARCHIVE_MS;
  const isMade = () =>
    [...Deno.readDirSync(join(cluster.state, "storage"))].some(({ name }) => {
      try {
        const kept = join(cluster.state, "storage", name, ".classes/kept");
        return [...Deno.readDirSync(kept)].some(({ name }) => name.endsWith(".json"));
      } catch {
        return false;
      }
    });
  while (!isMade()) {
    if (performance.now() > until) throw new Error("no class-data archive was made");
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}

/** See the file's head. */
export async function benchStart(bazel: Bazel, say: (s: string) => void): Promise<Result[]> {
  await using stack = new AsyncDisposableStack();
  const direct = stack.use(await testWorkspace(bazel));
  await first(direct);
  const clusters: (Cluster | undefined)[] = [undefined];
  const workspaces = [direct];
  for (const side of SIDES) {
    say(`preparing: ${side.what}`);
    const cluster = stack.use(await startCluster({ args: side.args }));
    const workspace = await testWorkspace(bazel, { startupOptions: [cluster.serverJavabase], env: cluster.env });
    await prepare(stack.use(workspace), side, cluster);
    clusters.push(cluster);
    workspaces.push(workspace);
  }
  const each = workspaces.map(() => COMMANDS.map(() => [] as number[]));
  const sides = workspaces.map((workspace, i) => async () => {
    await workspace.run(["shutdown"]);
    const cluster = clusters[i];
    if (cluster && SIDES[i - 1].args.includes("--warm=1")) await untilWarm(cluster, 1);
    await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
    const taken = await first(workspace);
    // Its server would only take memory from the next one.
    await workspace.run(["shutdown"]);
    taken.forEach((value, command) => each[i][command].push(value));
    return taken.reduce((a, b) => a + b);
  });
  const sums = await interleaved(ROUNDS, WARM_UPS, sides, (round) => say(`first commands, round ${round}`));
  const parts = (i: number) => each[i].map((values) => ms(median(values.slice(WARM_UPS)))).join(" + ");
  const plain = median(sums[0]);
  return SIDES.map(({ what, target }, i) => {
    const sum = median(sums[i + 1]), ratio = sum / plain;
    return {
      what: `first info and first build: ${what}`,
      measured: `direct ${ms(plain)} (${parts(0)}), RBS ${ms(sum)} (${parts(i + 1)}), ratio ${ratio.toFixed(2)}`,
      target: target === undefined ? "for comparison" : `ratio ≤ ${target}`,
      reached: target === undefined || ratio <= target,
    };
  });
}
