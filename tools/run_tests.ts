/**
 * `deno task test [unit|mirror…]`: set-up, compile, then the suites. Ends with a line for each suite, and with exit code
 * 1 when a test failed.
 *
 * Bazel 7 lives in a root of its own on machines that have it (`RBS_BAZEL7` is the script that runs a command in there).
 * The mirror test runs a second time inside, where that Bazel is the one on the PATH.
 */
import { join } from "node:path";
import { compile, ROOT } from "./compile.ts";
import { PROGRAMS } from "./permissions.ts";
import { setup } from "./setup.ts";

interface Suite {
  name: string;
  /** Folders and files, relative to the repository; those that are not there are left out. */
  paths: readonly string[];
  env?: Record<string, string>;
  /** Runs deno in another root. */
  through?: readonly string[];
}

interface Result {
  name: string;
  passed: number;
  failed: number;
}

const UNIT: Suite = { name: "unit", paths: ["proto", "proxy", "orchestrator", "agent", "tools", "tests/support"] };
const MIRROR: Suite = { name: "mirror", paths: ["tests/mirror"] };

function suites(names: readonly string[]): Suite[] {
  const bazel7 = Deno.env.get("RBS_BAZEL7");
  const chosen: Suite[] = [];
  if (names.includes("unit")) chosen.push(UNIT);
  if (names.includes("mirror")) {
    chosen.push(MIRROR);
    // The root has no Bazel from npm's cache to run: that one ran outside.
    const env = { RBS_TEST_BAZELS: "5,6,7,8,9" };
    if (bazel7) chosen.push({ ...MIRROR, name: "mirror, in Bazel 7's root", env, through: [bazel7, "exec"] });
    else {console.log(
        "Not run: the mirror test with Bazel 7 (RBS_BAZEL7 names no script that runs a command beside it).",
      );}
  }
  return chosen;
}

async function runSuite({ name, paths, env, through = [] }: Suite): Promise<Result> {
  const existing = paths.filter((path) => exists(join(ROOT, path)));
  if (existing.length === 0) {
    console.log(`Not run: ${name}, for there is none of ${paths.join(", ")}.`);
    return { name, passed: 0, failed: 0 };
  }
  console.log(`\n== ${name} ==`);
  // In another root, deno is another file.
  const deno = through.length > 0 ? "deno" : Deno.execPath();
  const argv = [...through, deno, "test", "--frozen", "--allow-all", "--quiet", "--permit-no-files", ...existing];
  const child = new Deno.Command(argv[0], {
    args: argv.slice(1),
    cwd: ROOT,
    env: { ...env, NO_COLOR: "1" },
    stdin: "null",
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  let last = "";
  for await (const text of child.stdout.pipeThrough(new TextDecoderStream())) {
    await Deno.stdout.write(new TextEncoder().encode(text));
    last = (last + text).slice(-4_000);
  }
  const { success } = await child.status;
  const [, passed, failed] = last.match(/\| (\d+) passed.*\| (\d+) failed/) ?? [];
  // A suite that ended without a summary, or badly after it, has failed at least once.
  return { name, passed: Number(passed ?? 0), failed: Math.max(Number(failed ?? 0), success ? 0 : 1) };
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
  const names = Deno.args.length > 0 ? Deno.args : ["unit", "mirror"];
  const unknown = names.find((name) => !["unit", "mirror"].includes(name));
  if (unknown) {
    console.error(`test: there is no suite ${unknown}; there are unit and mirror.`);
    Deno.exit(2);
  }
  if (!await setup(console.log)) Deno.exit(1);
  try {
    await compile(PROGRAMS);
  } catch (error) {
    for (const failure of error instanceof AggregateError ? error.errors : [error]) console.error(failure.message);
    Deno.exit(1);
  }
  const results: Result[] = [];
  for (const suite of suites(names)) results.push(await runSuite(suite));
  console.log();
  for (const { name, passed, failed } of results) console.log(`suite ${name}: ${passed} passed, ${failed} failed`);
  Deno.exit(results.some(({ failed }) => failed > 0) ? 1 : 0);
}
