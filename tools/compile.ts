/**
 * `deno task compile [program…]`: makes the programs in dist/.
 *
 * With `deno compile` where its base binary (denort) can be had; otherwise as one-file launchers, which need this deno.
 * Each result is run before it takes its place, because `deno compile` with a wrong base binary succeeds and makes a
 * plain Deno. A result replaces the former one in one step, so programs can be compiled while they run.
 */
import { dirname, join } from "node:path";
import { LOCAL_JDK, SESSION_MARK } from "../proto/bazel/local_jdk.ts";
import { keepUsing } from "./keep_using.ts";
import { compiledJavaFile, launcherFile } from "./launcher.ts";
import { makePackages } from "./packages.ts";
import { compiledFlags, type Program, PROGRAMS, PROXY } from "./permissions.ts";

/** The repository. */
export const ROOT = join(import.meta.dirname!, "..");
/** Where the programs are. */
export const DIST = join(ROOT, "dist");

/** `deno compile` downloads 40 MB once; a network that swallows connections must not cost more than this. */
const DOWNLOAD_MS = 60_000;
const CACHE = join(DIST, ".cache");
const PACKAGES = join(DIST, ".packages");

/** What became of a program. */
export interface Compiled {
  program: Program;
  form: "compiled" | "launcher";
  bytes: number;
}

/** Makes the programs. Throws an AggregateError with one Error for each that cannot be made. */
export async function compile(programs: readonly Program[]): Promise<Compiled[]> {
  await Deno.mkdir(CACHE, { recursive: true });
  await Deno.chmod(CACHE, 0o700); // A code cache that others could write to would be their way into our programs.
  const binary = await canCompile();
  if (!binary) await prepareBundler();
  const made = await Promise.allSettled(programs.map(binary ? compileBinary : compileLauncher));
  if (programs.includes(PROXY)) await makeSessionMark();
  const failures = made.filter((result) => result.status === "rejected").map(({ reason }) => reason);
  if (failures.length > 0) throw new AggregateError(failures);
  return made.flatMap((result) => result.status === "fulfilled" ? [result.value] : []);
}

/** Whether `deno compile` makes a program that is ours. Fails at once where there is no network. */
async function canCompile(): Promise<boolean> {
  const directory = await Deno.makeTempDir({ prefix: "rbs-compile-" });
  try {
    await Deno.writeTextFile(join(directory, "probe.ts"), 'console.log("made by deno compile", Deno.args[0]);');
    const probe = join(directory, "probe");
    const signal = AbortSignal.timeout(DOWNLOAD_MS);
    await deno(["compile", "--no-check", "--no-config", "--output", probe, join(directory, "probe.ts")], { signal });
    return (await output(probe, ["--version"])).includes("made by deno compile --version");
  } catch {
    return false;
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

/** The first `deno bundle` of a user fetches esbuild, and those that start meanwhile stumble over it (Deno 2.9.6). */
async function prepareBundler() {
  const directory = await Deno.makeTempDir({ prefix: "rbs-compile-" });
  try {
    const probe = join(directory, "probe.ts");
    await Deno.writeTextFile(probe, "");
    const bundle = () => deno(["bundle", "--no-check", "--no-config", "--output", join(directory, "probe.js"), probe]);
    await bundle().catch(bundle); // Another process's first one may be at it.
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

async function compileBinary(program: Program): Promise<Compiled> {
  const target = join(DIST, program === PROXY ? "javabase/bin/rbs-proxy" : program.output);
  const entry = join(ROOT, program.entry);
  await replace(target, async (fresh) => {
    await deno(["compile", "--no-check", "--frozen", ...compiledFlags(program), "--output", fresh, entry]);
    await prove(program, fresh);
  });
  if (program === PROXY) {
    await replace(join(DIST, program.output), async (fresh) => {
      await Deno.writeTextFile(fresh, compiledJavaFile(target), { mode: 0o755 });
      await prove(program, fresh);
    });
  }
  return { program, form: "compiled", bytes: (await Deno.stat(target)).size };
}

async function compileLauncher(program: Program): Promise<Compiled> {
  const target = join(DIST, program.output);
  const { packages } = program;
  if (packages) {
    await makePackages(ROOT, PACKAGES, packages.names, (cwd) => deno(["install", "--frozen"], { cwd }));
  }
  const external = packages?.names.flatMap((name) => ["--external", name]) ?? [];
  await replace(target, async (fresh) => {
    const scratch = await Deno.makeTempDir({ prefix: "rbs-compile-" });
    try {
      const script = join(scratch, "bundle.js");
      const entry = join(ROOT, program.entry);
      const how = ["bundle", "--no-check", "--platform", "deno", ...external];
      // Stack traces keep the names of functions and classes.
      await deno([...how, "--frozen", "--keep-names", "--output", script, entry]);
      await Deno.writeTextFile(script, keepUsing(await Deno.readTextFile(script)));
      // Small, since Deno reads, hashes and parses all of it at each start: an agent is there a seventh sooner.
      await deno([...how, "--no-config", "--minify", "--output", join(scratch, "small.js"), script]);
      const bundle = await Deno.readTextFile(join(scratch, "small.js"));
      const write = async (cache: string) => {
        const places = { deno: Deno.execPath(), cache };
        const text = launcherFile(program, bundle, places, program === PROXY ? LOCAL_JDK : "");
        await Deno.writeTextFile(fresh, text, { mode: 0o755 });
      };
      // The code cache goes by the path, and would keep an entry for each that was ever proved.
      await write(scratch);
      await prove(program, fresh);
      await write(CACHE);
    } finally {
      await Deno.remove(scratch, { recursive: true });
    }
  });
  await prove(program, target); // Fills the code cache.
  return { program, form: "launcher", bytes: (await Deno.stat(target)).size };
}

/** Makes the file that a session covers. Never again: a new one in its place would not be covered in sessions that run. */
async function makeSessionMark() {
  const text = "A session covers this file, so that bin/java knows where it runs.\n";
  await Deno.writeTextFile(join(DIST, "javabase", SESSION_MARK), text, { createNew: true }).catch((e) => {
    if (!(e instanceof Deno.errors.AlreadyExists)) throw e;
  });
}

/** Lets `make` write a file beside `target`, and puts it in the target's place. */
async function replace(target: string, make: (fresh: string) => Promise<void>) {
  await Deno.mkdir(dirname(target), { recursive: true });
  const fresh = `${target}.${Deno.pid}.new`;
  try {
    await make(fresh);
    await Deno.chmod(fresh, 0o755);
    await Deno.rename(fresh, target);
  } finally {
    await Deno.remove(fresh).catch(() => {});
  }
}

/** Runs a program to see that it is ours. */
async function prove(program: Program, file: string) {
  const { args, prints } = program.proof;
  const text = await output(file, args);
  if (prints.test(text)) return;
  const said = text.trim().split("\n").slice(0, 8).join("\n  ");
  throw new Error(`${program.name} was made, but it is not ours: ${[file, ...args].join(" ")} printed\n  ${said}`);
}

async function deno(args: string[], { signal, cwd = ROOT }: { signal?: AbortSignal; cwd?: string } = {}) {
  const command = new Deno.Command(Deno.execPath(), {
    args: [args[0], "--quiet", ...args.slice(1)],
    cwd,
    env: { NO_COLOR: "1" },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    signal,
  });
  const { success, stderr } = await command.output();
  if (!success) {
    throw new Error(`deno ${args[0]} failed for ${args.at(-1)}:\n${new TextDecoder().decode(stderr).trim()}`);
  }
}

/** Both outputs of a program. */
async function output(file: string, args: readonly string[]): Promise<string> {
  const command = new Deno.Command(file, {
    args: [...args],
    env: { NO_COLOR: "1" },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    signal: AbortSignal.timeout(30_000),
  });
  const { stdout, stderr } = await command.output();
  return new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
}

if (import.meta.main) {
  const unknown = Deno.args.filter((name) => !PROGRAMS.some((program) => program.name === name));
  if (unknown.length > 0) {
    console.error(`compile: there is no program ${unknown[0]}; there are ${PROGRAMS.map((p) => p.name).join(", ")}.`);
    Deno.exit(2);
  }
  const wanted = PROGRAMS.filter((program) => Deno.args.length === 0 || Deno.args.includes(program.name));
  const started = performance.now();
  try {
    const made = await compile(wanted);
    for (const { program, form, bytes } of made) {
      const how = form === "compiled" ? "compiled by deno compile" : "one-file launcher";
      console.log(`dist/${program.output.padEnd(18)} ${how}, ${(bytes / 1e6).toFixed(1)} MB`);
    }
    if (made.some(({ form }) => form === "launcher")) {
      console.log(
        "Launchers, since deno compile cannot get its base binary (denort) here: they run with the deno that made them.",
      );
    }
    console.log(`Each was run to see that it is ours; ${((performance.now() - started) / 1000).toFixed(1)} s.`);
  } catch (error) {
    const failures = error instanceof AggregateError ? error.errors : [error];
    for (const failure of failures) console.error(`compile: ${failure instanceof Error ? failure.message : failure}`);
    Deno.exit(1);
  }
}
