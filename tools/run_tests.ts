/**
 * `deno task test [unit|mirror|compare|attacks|two-machines…]`: set-up, compile, then the suites. Ends with a line for
 * each suite, and with exit code 1 when a test failed. `deno task test quick`: the unit tests that start neither
 * Bazel servers nor databases.
 *
 * Bazel 7 lives in a root of its own on machines that have it (`RBS_BAZEL7` is the script that runs a command in there).
 * The mirror test runs a second time inside, where that Bazel is the one on the PATH. And it runs on two machines, that is,
 * in two network namespaces, where laptop and agent share nothing but a link.
 *
 * A scenario runs once for each difference that it can show, not for each Bazel on each disk:
 *
 *     where                      Bazel     disk             what
 *     mirror, compare, attacks   4.2.3     shared, synced   all
 *     the same                   2.1.0     shared           what its client has a part in: all commands but some that cost
 *                                                           a server (CURRENT in commands_test.ts), signals, fallback,
 *                                                           files that options name, an honest `run` (synced)
 *     mirror, in Bazel 7's root  7.7.1     shared           what its client or server has a part in: commands, signals,
 *                                                           fallback, …; not agents, networks, faults of ours (`test` of
 *                                                           rig.ts, IS_FURTHER)
 *     the same                   7.7.1     synced           kinds, other clients, a nested Bazel, what is in the sources
 *     two machines               4.2.3     a link           all
 *     the same                   2.1.0     a link           what a command asks for and leaves (FIRST leaves the rest out)
 *     mirror, on two machines    4.2.3     a link           commands, jbazel, fallback, signals, files that options name
 */
import { join } from "node:path";
import { compile, ROOT } from "./compile.ts";
import { PROGRAMS } from "./permissions.ts";
import { IP, setup } from "./setup.ts";
import { byBazel } from "./quick_tests.ts";
import { findBazels } from "../tests/support/bazels.ts";
import { CLIENTS, npmTool } from "../tests/support/npm_tool.ts";

interface Suite {
  name: string;
  /** Folders and files, relative to the repository; those that are not there are left out. */
  paths: readonly string[];
  env?: Record<string, string>;
  /** The beginning of a command line, by which deno runs elsewhere. */
  through?: readonly string[];
  /** What is deno there. @default this one */
  deno?: string;
  /** Tests that another suite has. */
  without?: readonly string[];
  /** It measures, and so runs when no other does. */
  alone?: boolean;
  /** It sleeps for most of its time, and so runs beside whatever else does. */
  sleeps?: boolean;
}

interface Result {
  name: string;
  passed: number;
  failed: number;
  seconds: number;
  /** What the suite printed of its failures: what they threw, and their names. */
  failures: readonly string[];
}

const UNIT: Suite = {
  name: "unit",
  paths: ["proto", "proxy", "orchestrator", "agent", "tools", "tests/support", "tests/identity", "tests/chaos"],
};
const MIRROR: Suite = { name: "mirror", paths: ["tests/mirror"] };
const FLOODS = "tests/attacks/floods_test.ts";
const ATTACKS: Suite[] = [
  { name: "attacks", paths: ["tests/attacks"], without: [FLOODS] },
  { name: "floods", paths: [FLOODS], alone: true, env: { RBS_ATTACK_SECONDS: "16" } },
];
const COMPARE: Suite = { name: "compare", paths: ["tests/compare"] };
const LINKS = "tests/sync/links_test.ts";
const TWO_MACHINES: Suite[] = [
  { name: "two machines", paths: ["tests/sync"], without: [LINKS] },
  { name: "links that break", paths: [LINKS], sleeps: true },
  {
    name: "mirror, on two machines",
    // The others are about the programs of one machine: their ports, their files, their signals.
    paths: ["commands", "jbazel", "fallback", "signals", "local_files"].map((name) => `tests/mirror/${name}_test.ts`),
    through: [Deno.execPath(), "run", "--frozen", "--allow-all", "tests/support/on_laptop.ts"],
    // With npm's 2.1.0 the suite before this one runs.
    env: { RBS_TEST_BAZELS: "3,4,5,6,7,8,9" },
  },
];
const NAMES = ["unit", "mirror", "compare", "attacks", "two-machines"];
const QUICK = "quick";
const QUICK_PARTS = 3;
/** Lines about failures that are printed once more at the end, for each suite. */
const FAILURE_LINES = 60;
/** Suites that run at a time: they wait more than they compute. */
const LANES = 2;
/** The longest first, and then the shorter the later: at the end no lane is empty for long. Others are in between. */
const LONG = ["mirror, in Bazel 7's root", "mirror", "unit"], SHORT = ["attacks", "compare"];

function suites(names: readonly string[]): Suite[] {
  const bazel7 = Deno.env.get("RBS_BAZEL7");
  const chosen: Suite[] = names.includes(QUICK) ? quickSuites() : [];
  if (names.includes("unit")) {
    const { without, rest } = byBazel(UNIT.paths);
    chosen.push({ ...UNIT, paths: rest }, { name: "unit, without Bazel", paths: without, sleeps: true });
  }
  if (names.includes("mirror")) {
    chosen.push(MIRROR);
    // The root has no Bazel from npm's cache to run: that one ran outside.
    const env = { RBS_TEST_BAZELS: "5,6,7,8,9" };
    const there = { env, through: [bazel7!, "exec"], deno: "deno" };
    const paths = [...MIRROR.paths, "tests/compare/kinds_test.ts"];
    if (bazel7) chosen.push({ name: "mirror, in Bazel 7's root", paths, ...there });
    else {console.log(
        "Not run: the mirror test with Bazel 7 (RBS_BAZEL7 names no script that runs a command beside it).",
      );}
  }
  if (names.includes("compare")) chosen.push(COMPARE);
  if (names.includes("attacks")) chosen.push(...ATTACKS);
  if (names.includes("two-machines")) chosen.push(...TWO_MACHINES);
  return chosen;
}

/** The quick tests in as many processes: most of their time they wait, and each file is one process's alone. */
function quickSuites(): Suite[] {
  const { without: files } = byBazel(UNIT.paths);
  return Array.from({ length: QUICK_PARTS }, (_, part) => ({
    name: `${QUICK} ${part + 1}`,
    paths: files.filter((_, i) => i % QUICK_PARTS === part),
    sleeps: part > 0,
  }));
}

/** Runs suites, {@link LANES} at a time beside those that sleep, and then those that run alone. @returns their results, in the suites' order */
async function runSuites(suites: readonly Suite[]): Promise<Result[]> {
  const results: Result[] = [];
  const inLanes = async (lanes: number, chosen: readonly Suite[]) => {
    const left = chosen.toSorted((a, b) => turn(a) - turn(b)).values();
    await Promise.all(Array.from({ length: lanes }, async () => {
      for (const suite of left) results[suites.indexOf(suite)] = await runSuite(suite, suites.length > 1);
    }));
  };
  const together = suites.filter(({ alone }) => !alone);
  await Promise.all([
    inLanes(LANES, together.filter(({ sleeps }) => !sleeps)),
    inLanes(QUICK_PARTS, together.filter(({ sleeps }) => sleeps)),
  ]);
  await inLanes(1, suites.filter(({ alone }) => alone));
  return results;
}

/** When a suite begins: the smaller, the earlier. */
function turn({ name }: Suite): number {
  const [long, short] = [LONG, SHORT].map((names) => names.indexOf(name));
  return long >= 0 ? long - LONG.length : short + 1;
}

/** @param named Whether each line that is printed begins with the suite's name. */
async function runSuite(
  { name, paths, env, through = [], deno = Deno.execPath(), without = [] }: Suite,
  named: boolean,
): Promise<Result> {
  const existing = paths.filter((path) => exists(join(ROOT, path)));
  if (existing.length === 0) {
    console.log(`Not run: ${name}, for there is none of ${paths.join(", ")}.`);
    return { name, passed: 0, failed: 0, seconds: 0, failures: [] };
  }
  console.log(`\n== ${name} begins ==`);
  const began = performance.now();
  const argv = [...through, deno, "test", "--frozen", "--allow-all", "--quiet", "--permit-no-files"];
  argv.push(...without.map((path) => `--ignore=${path}`), ...existing);
  const child = new Deno.Command(argv[0], {
    args: argv.slice(1),
    cwd: ROOT,
    env: { ...env, NO_COLOR: "1" },
    stdin: "null",
    stdout: "piped",
    stderr: named ? "piped" : "inherit",
  }).spawn();
  let last = "";
  // Deno's own heading, after which there is nothing but what failed.
  let failures: string[] | undefined;
  const label = named ? `${name}: ` : "";
  const print = async (output: ReadableStream<Uint8Array>) => {
    let rest = "";
    for await (const text of output.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + text).split("\n");
      rest = lines.pop()!;
      for (const line of lines) {
        console.log(label + line);
        if (line === " ERRORS ") failures = [];
        if (line.trim() && failures && failures.length < FAILURE_LINES) failures.push(line);
      }
      last = (last + text).slice(-4_000);
    }
    if (rest) console.log(label + rest);
  };
  await Promise.all([print(child.stdout), named ? print(child.stderr) : undefined]);
  const { success } = await child.status;
  console.log(`== ${name} has ended ==`);
  const [, passed, failed] = last.match(/\| (\d+) passed.*\| (\d+) failed/) ?? [];
  // A suite that ended without a summary, or badly after it, has failed at least once.
  const seconds = Math.round((performance.now() - began) / 1000);
  return {
    name,
    passed: Number(passed ?? 0),
    failed: Math.max(Number(failed ?? 0), success ? 0 : 1),
    seconds,
    failures: failures ?? [],
  };
}

function exists(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch {
    return false;
  }
}

if (import.meta.main) {
  const names = Deno.args.length > 0 ? Deno.args : NAMES;
  const unknown = names.find((name) => ![...NAMES, QUICK].includes(name));
  if (unknown) {
    console.error(`test: there is no suite ${unknown}; there are ${[...NAMES, QUICK].join(", ")}.`);
    Deno.exit(2);
  }
  if (!await setup(console.log, [IP])) Deno.exit(1);
  try {
    await compile(PROGRAMS);
  } catch (error) {
    for (const failure of error instanceof AggregateError ? error.errors : [error]) console.error(failure.message);
    Deno.exit(1);
  }
  const chosen = suites(names);
  // What the suites of this machine share is made by one of them: before they run at a time.
  await findBazels();
  // Elsewhere there may be no npm to get them with. What cannot be had the tests say.
  if (chosen.some(({ through }) => through)) {
    await Promise.allSettled(Object.values(CLIENTS).map(([name, version, file]) => npmTool(name, version, file)));
  }
  const results = await runSuites(chosen);
  // Once more, at the end, where it is found.
  for (const { name, failures } of results) for (const line of failures) console.log(`failed: ${name}: ${line}`);
  console.log();
  for (const { name, passed, failed, seconds } of results) {
    console.log(`suite ${name} (${seconds} s): ${passed} passed, ${failed} failed`);
  }
  Deno.exit(results.some(({ failed }) => failed > 0) ? 1 : 0);
}
