/** Warm commands, a large output, Ctrl-C and memory: through RBS against the same without it. */
import { join } from "node:path";
import { output, type RunOptions } from "../support/run.ts";
import { tempDir } from "../support/temp_dir.ts";
import type { TestWorkspace } from "../support/workspace.ts";
import { interleaved, median, ms, type Result } from "./report.ts";
import { eventually } from "../support/eventually.ts";

type Sides = { direct: TestWorkspace; rbs: TestWorkspace };

/** One command's milliseconds; it must succeed. */
async function timed(workspace: TestWorkspace, args: readonly string[], options?: RunOptions): Promise<number> {
  const { code, took, stderr } = await workspace.run(args, options);
  if (code !== 0) throw new Error(`bazel ${args.join(" ")} ended with ${code}:\n${stderr}`);
  return took;
}

/** Warm `info` and a warm build with nothing to do. */
export async function benchWarm({ direct, rbs }: Sides, say: (s: string) => void): Promise<Result[]> {
  const results: Result[] = [];
  for (const [what, args] of [["warm bazel info", ["info"]], ["warm no-op build", ["build", "//..."]]] as const) {
    const [a, b] = await interleaved(
      80,
      10,
      [() => timed(direct, args), () => timed(rbs, args)],
      (r) => say(`${what}, round ${r}`),
    );
    const added = median(b) - median(a), ratio = median(b) / median(a);
    const paired = median(b.map((value, i) => value - a[i]));
    results.push({
      what,
      measured: `direct ${ms(median(a))}, RBS ${ms(median(b))}, added ${ms(added)} (paired ${ms(paired)}), ratio ${
        ratio.toFixed(2)
      }`,
      target: "paired ≤ 3 ms, ratio ≤ 1.03",
      reached: paired <= 3 && ratio <= 1.03,
    });
  }
  return results;
}

/** 100 MB on standard output. */
export async function benchLargeOutput({ direct, rbs }: Sides, say: (s: string) => void): Promise<Result[]> {
  const bytes = 100 * 1024 * 1024;
  const args = ["cquery", "//:hello", "--output=starlark", `--starlark:expr="x"*${bytes}`];
  const side = (workspace: TestWorkspace) => async () => {
    // To a file, as `bazel cquery > FILE`: a pipe's reader would be measured too.
    await using directory = await tempDir("rbs-bench-");
    const file = directory.join("out");
    const argv = workspace.argv(args);
    const began = performance.now();
    await output(["/bin/sh", "-c", 'out=$1; shift; exec "$@" > "$out"', "sh", file, ...argv], {
      cwd: workspace.path,
      env: workspace.env,
    });
    const took = performance.now() - began;
    if ((await Deno.stat(file)).size !== bytes + 1) throw new Error("the output is not whole");
    return took;
  };
  const [a, b] = await interleaved(9, 4, [side(direct), side(rbs)], (r) => say(`100 MB of stdout, round ${r}`));
  const ratio = median(b) / median(a);
  return [{
    what: "stdout of 100 MB",
    measured: `direct ${ms(median(a))}, RBS ${ms(median(b))}, ratio ${ratio.toFixed(2)}`,
    target: "ratio ≤ 1.25",
    reached: ratio <= 1.25,
  }];
}

/**
 * Ctrl-C while an action runs: from the signal to the client's end. The real server's Cancel lies within, so that this
 * is an upper bound of the way there.
 */
export async function benchCancel({ direct, rbs }: Sides, say: (s: string) => void): Promise<Result[]> {
  const side = (workspace: TestWorkspace) => async () => {
    await using directory = await tempDir("rbs-bench-");
    const started = directory.join("started");
    const command = workspace.start(["build", `--action_env=RBS_TEST_STARTED=${started}`, "//special:slow"]);
    await using _ended = command;
    await eventually(() => Deno.stat(started).then((s) => s.size > 0, () => false), "the action runs");
    const began = performance.now();
    command.kill("SIGINT");
    const { code, stderr } = await command.finished;
    if (code !== 8) throw new Error(`an interrupted build ended with ${code}:\n${stderr}`);
    return performance.now() - began;
  };
  const [a, b] = await interleaved(7, 1, [side(direct), side(rbs)], (r) => say(`Ctrl-C, round ${r}`));
  return [{
    what: "Ctrl-C to the command's end (Cancel lies within)",
    measured: `direct ${ms(median(a))}, RBS ${ms(median(b))}`,
    target: "≤ 200 ms",
    reached: median(b) <= 200,
  }];
}

/** Resident memory of a proxy that has served a command and waits. */
export async function benchMemory(rbs: TestWorkspace): Promise<Result[]> {
  await timed(rbs, ["shutdown"]);
  await timed(rbs, ["info", "release"]);
  const resident = async () => {
    const outputBase = join(
      rbs.outputUserRoot,
      (await Array.fromAsync(Deno.readDir(rbs.outputUserRoot))).find((e) => /^[0-9a-f]{32}$/.test(e.name))!.name,
    );
    const pid = (await Deno.readTextFile(join(outputBase, "server/server.pid.txt"))).trim();
    return Number(/VmRSS:\s+(\d+)/.exec(await Deno.readTextFile(`/proc/${pid}/status`))![1]) / 1024;
  };
  const after = await resident();
  for (let i = 0; i < 20; i++) await timed(rbs, ["build", "//..."]);
  const used = await resident();
  return [{
    what: "resident memory of an idle proxy",
    measured: `${after.toFixed(0)} MB after one command, ${used.toFixed(0)} MB after twenty builds`,
    target: "≤ 80 MB",
    reached: after <= 80 && used <= 80,
  }];
}
