/**
 * `deno task demo`: shows RBS at work on this machine, in a few lines, and cleans up after itself.
 *
 * A copy of tests/workspaces/cpp is built and tested by the stock bazel through RBS; the binary that came of it runs from
 * the local bazel-bin; and the times are compared with those of the same bazel without RBS.
 */
import { type Bazel, findBazels } from "../tests/support/bazels.ts";
import { type Cluster, startCluster } from "../tests/support/cluster.ts";
import { PROGRAMS as DIST } from "../tests/support/repository.ts";
import { run } from "../tests/support/run.ts";
import { type TestWorkspace, testWorkspace } from "../tests/support/workspace.ts";
import { compile } from "./compile.ts";
import { PROGRAMS } from "./permissions.ts";
import { setup } from "./setup.ts";

const WARM_ROUNDS = 7;

const colours = Deno.stdout.isTerminal() && !Deno.noColor;
const bold = (text: string) => colours ? `\x1b[1m${text}\x1b[0m` : text;
const dim = (text: string) => colours ? `\x1b[2m${text}\x1b[0m` : text;
const say = (line = "") => console.log(line);

/** Runs `bazel ARG…`, shown as one would type it, with the lines of its output that matter. Returns milliseconds. */
async function show(workspace: TestWorkspace, args: string[]): Promise<number> {
  say(bold(`$ bazel ${args.join(" ")}`));
  const { code, stdout, stderr, took } = await workspace.run(args, { timeout: 10 * 60_000 });
  const matter = /^(ERROR|FAILED|rbs:|INFO: (Build|Found|Elapsed)|\/\/.*(PASSED|FAILED)|Executed|WARNING: .*rbs)/;
  const lines = code === 0 ? stderr.split("\n").filter((line) => matter.test(line)) : stderr.split("\n");
  for (const line of new Set([...stdout.split("\n"), ...lines])) if (line) say(dim(`  ${line}`));
  if (code !== 0) throw new Error(`bazel ${args.join(" ")} ended with exit code ${code}.`);
  return took;
}

/** Milliseconds that a command takes, which must succeed. */
async function time(workspace: TestWorkspace, args: string[]): Promise<number> {
  const { code, took, stderr } = await workspace.run(args, { timeout: 10 * 60_000 });
  if (code !== 0) throw new Error(`bazel ${args.join(" ")} ended with exit code ${code}:\n${stderr}`);
  return took;
}

function median(numbers: number[]): number {
  return numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)];
}

/** The same commands on both sides, alternating, so that what else happens on the machine hits both. */
async function warm(direct: TestWorkspace, rbs: TestWorkspace, args: string[]): Promise<[number, number]> {
  const times: [number[], number[]] = [[], []];
  for (let round = 0; round < WARM_ROUNDS; round++) {
    times[0].push(await time(direct, args));
    times[1].push(await time(rbs, args));
  }
  return [median(times[0]), median(times[1])];
}

async function demo(bazel: Bazel, cluster: Cluster, stack: AsyncDisposableStack) {
  const rbs = stack.use(
    await testWorkspace(bazel, { env: cluster.env, bazelrc: [`startup ${cluster.serverJavabase}`] }),
  );
  const direct = stack.use(await testWorkspace(bazel));

  say();
  say(`A small C++ workspace, whose .bazelrc has one line more: ${dim(`startup ${cluster.serverJavabase}`)}`);
  say(bold(`$ cd ${rbs.path}`));
  const coldRbs = await show(rbs, ["build", "//..."]);
  await show(rbs, ["test", "//..."]);
  say(bold("$ bazel-bin/hello RBS"));
  const hello = await run(["bazel-bin/hello", "RBS"], { cwd: rbs.path });
  for (const line of (hello.stdout + hello.stderr).trim().split("\n")) say(dim(`  ${line}`));
  if (hello.code !== 0 || !hello.stdout.includes("Hello, RBS!")) throw new Error("bazel-bin/hello does not greet.");

  say();
  say("The same without RBS, for comparison …");
  const coldDirect = await time(direct, ["build", "//..."]);
  await time(direct, ["test", "//..."]);
  const rows: [string, number, number][] = [
    ["first build, no server yet", coldDirect, coldRbs],
    ["build, nothing to do", ...await warm(direct, rbs, ["build", "//..."])],
    ["info", ...await warm(direct, rbs, ["info", "release"])],
  ];
  say();
  say(bold(`${"".padEnd(28)}${"direct".padStart(10)}${"RBS".padStart(10)}`));
  for (const [what, ...times] of rows) {
    say(
      what.padEnd(28) +
        times.map((ms) => (ms < 1000 ? `${ms.toFixed(0)} ms` : `${(ms / 1000).toFixed(1)} s`).padStart(10)).join(""),
    );
  }
}

/** What the reader may do after the demo: commands of a shell, in the folder of a workspace. */
export const NEXT_STEPS = [`${DIST.orchestrator} install`, `${DIST.jbazel} setup --workspace`, "bazel build //..."];

async function main(): Promise<number> {
  const stack = new AsyncDisposableStack();
  let interrupted = false;
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    Deno.addSignalListener(signal, async () => {
      if (interrupted) return;
      interrupted = true;
      say("\nInterrupted; stopping everything.");
      await stack.disposeAsync();
      Deno.exit(130);
    });
  }
  try {
    if (!await setup(say)) return 1;
    const made = await compile(PROGRAMS);
    const forms = new Set(made.map(({ form }) => form === "launcher" ? "one-file launchers" : "compiled programs"));
    say(`Made dist/javabase, dist/orchestrator, dist/agent and dist/jbazel (${[...forms].join(" and ")}).`);
    const { found, missing } = await findBazels({ npm: false });
    if (found.length === 0) throw new Error(missing.join(" "));
    const cluster = stack.use(await startCluster());
    say(`Bazel ${found[0].version}. The orchestrator answers at ${cluster.address}.`);
    await demo(found[0], cluster, stack);
    await stack.disposeAsync();
    say();
    say("Everything is stopped again. To use RBS on a workspace of yours:");
    for (const line of NEXT_STEPS) say(`  ${line}`);
    return 0;
  } catch (error) {
    if (interrupted) return await new Promise(() => {}); // The signal's listener ends the process.
    for (const failure of error instanceof AggregateError ? error.errors : [error]) {
      console.error(`demo: ${failure instanceof Error ? failure.message : failure}`);
    }
    return 1;
  } finally {
    if (!interrupted) await stack.disposeAsync();
  }
}

if (import.meta.main) Deno.exit(await main());
