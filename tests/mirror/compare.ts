/**
 * The mirror: the same scenarios in the same workspace, first by the stock client with a server of its own, then through
 * RBS, both from a cold start and at the same paths; so that what was seen can be compared with hardly any licence.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { dirname, join } from "node:path";
import { repoHash } from "../../proto/bazel/workspace.ts";
import { type Bazel, onPath } from "../support/bazels.ts";
import { type Cluster, startCluster } from "../support/cluster.ts";
import { PROGRAMS } from "../support/repository.ts";
import { type Finished, output, run, type RunOptions } from "../support/run.ts";
import { removeTree } from "../support/temp_dir.ts";
import { type TestWorkspace, testWorkspace } from "../support/workspace.ts";
import { normalizeStderr } from "./normalize.ts";

/** Longer outputs are compared by their hashes. */
const SHOWN = 200_000;

/** How a command's outputs are compared. */
export interface Comparison extends RunOptions {
  /** Applied to the standard output, which is otherwise compared byte for byte. */
  stdout?: (text: string) => string;
  /** Applied to what {@link normalizeStderr} leaves. */
  stderr?: (lines: string[]) => string[];
  /** The exit code that it must have on either side. */
  code?: number;
}

/** One of the two sides: does what a scenario says, and writes down what it saw. */
export interface Side {
  /** True for the side that goes through RBS. */
  readonly rbs: boolean;
  /** True for the side whose server shares no disk with the client. */
  readonly synced: boolean;
  readonly bazel: Bazel;
  /** The workspace's absolute path. */
  readonly path: string;
  /** The output base's absolute path. */
  readonly outputBase: string;
  /** Variables of all commands. */
  readonly env: Record<string, string | undefined>;
  /** Runs `bazel ARG…` in the workspace. */
  run(args: readonly string[], comparison?: Comparison): Promise<Finished>;
  /** The same by `jbazel`; on the side without RBS it is the stock client. */
  jbazel(args: readonly string[], comparison?: Comparison): Promise<Finished>;
  /** Runs another program in the workspace. */
  exec(argv: readonly string[], comparison?: Comparison): Promise<Finished>;
  /** Writes something down that must be the same on both sides. */
  note(what: string, value: unknown): void;
  /** Writes a file of the workspace. */
  write(file: string, text: string): Promise<void>;
}

/** A scenario whose observations must be the same on both sides. */
export type Scenario = (side: Side) => Promise<void>;

interface Observed {
  what: string;
  [seen: string]: unknown;
}

interface Recording {
  observed: Observed[];
  error?: unknown;
}

/** All scenarios of one Bazel. */
export class Mirror implements AsyncDisposable {
  readonly #bazel: Bazel;
  readonly #scenarios: readonly Scenario[];
  readonly #files: Record<string, string>;
  #setUp?: Promise<{ workspace: TestWorkspace; cluster: Cluster; stock: Recording[] }>;
  /** What was seen through RBS, by scenario: each begins when the one before it has ended. */
  readonly #rbs: Promise<Recording>[] = [];
  #ending = false;

  /**
   * @param scenarios In their order: each finds what those before it have left.
   * @param files More files of the workspace.
   */
  constructor(bazel: Bazel, scenarios: readonly Scenario[], files: Record<string, string>) {
    this.#bazel = bazel;
    this.#scenarios = scenarios;
    this.#files = files;
  }

  /** Runs a scenario (and those before it that have not run yet) through RBS, and compares. */
  async compare(index: number): Promise<void> {
    const [{ stock }, rbs] = await Promise.all([this.#start(), this.#through(index)]);
    const direct = stock[index];
    if (direct.error) throw new Error("It does not even go well without RBS.", { cause: direct.error });
    if (rbs.error) throw rbs.error;
    assert.deepEqual(rbs.observed, direct.observed);
  }

  /** The side through RBS, for what cannot be compared; nothing is written down. */
  async rbs(): Promise<Side> {
    const { workspace, cluster } = await this.#start();
    return sideOf({ ...workspace, synced: cluster.synced }, true, []);
  }

  /** Begins with all that {@link compare} waits for. */
  start(): void {
    this.#through(this.#scenarios.length - 1).catch(() => {});
  }

  /** What the scenario shows through RBS. */
  async #through(index: number): Promise<Recording> {
    const side = await this.rbs();
    while (this.#rbs.length <= index) {
      const scenario = this.#scenarios[this.#rbs.length];
      const before = this.#rbs.at(-1);
      this.#rbs.push((async () => {
        await before;
        return this.#ending ? { observed: [] } : await record(scenario, side);
      })());
    }
    return await this.#rbs[index];
  }

  #start() {
    return this.#setUp ??= this.#prepare();
  }

  async #prepare() {
    const cluster = await startCluster({ env: { RBS_BAZEL: this.#bazel.path } });
    // What is compared with the stock client is all of bazel-out. Where both share a disk it says nothing.
    const workspace = await testWorkspace(this.#bazel, { env: { ...cluster.env, RBS_OUTPUTS: "all" } });
    await putOnPath(workspace);
    const rc = join(workspace.path, ".bazelrc");
    // In the rc file and not on the command line, so that jbazel and a person who just types "bazel" have it as well.
    const lines = (await Deno.readTextFile(rc)).split("\n");
    await Deno.writeTextFile(
      rc,
      [
        `startup --output_user_root=${workspace.outputUserRoot}`,
        ...lines,
        // Most commands take over what is said for build, but query does not.
        ...lines.filter((line) => line.startsWith("build --override_repository="))
          .map((line) => line.replace("build", "query")),
        "",
      ].join("\n"),
    );
    for (const [file, text] of Object.entries(this.#files)) await write(join(workspace.path, file), text);

    const stock: Recording[] = [];
    const side = sideOf({ ...workspace, synced: false }, false, []);
    for (const scenario of this.#scenarios) stock.push(await record(scenario, side));
    await workspace.run(["shutdown"]);
    for await (const { name } of Deno.readDir(workspace.outputUserRoot)) {
      if (/^[0-9a-f]{32}/.test(name)) await removeTree(join(workspace.outputUserRoot, name));
    }
    const links = `for link in bazel-*; do if [ -L "$link" ]; then rm -- "$link"; fi; done`;
    await output(["sh", "-c", links], { cwd: workspace.path });
    await output([PROGRAMS.jbazel, "setup", "--workspace", "--no-try"], { cwd: workspace.path, env: workspace.env });
    return { workspace, cluster, stock };
  }

  async [Symbol.asyncDispose]() {
    this.#ending = true;
    await Promise.all(this.#rbs);
    const setUp = await this.#setUp?.catch(() => undefined);
    await setUp?.workspace[Symbol.asyncDispose]();
    await setUp?.cluster[Symbol.asyncDispose]();
  }
}

/** Makes this Bazel the `bazel` of all commands on either side: jbazel runs the one on the PATH. */
async function putOnPath({ bazel, path, env }: TestWorkspace): Promise<void> {
  if (await onPath("bazel") === bazel.path) return;
  const bin = join(dirname(path), "bin");
  await Deno.mkdir(bin);
  await Deno.symlink(bazel.path, join(bin, "bazel"));
  env.PATH = `${bin}:${Deno.env.get("PATH")}`;
}

/** Runs a scenario; its failure is part of the recording. */
async function record(scenario: Scenario, side: Side): Promise<Recording> {
  const observed: Observed[] = [];
  try {
    await scenario(sideOf(side, side.rbs, observed));
    return { observed };
  } catch (error) {
    return { observed, error };
  }
}

function sideOf(
  of: (TestWorkspace | Side) & Pick<Side, "synced">,
  rbs: boolean,
  observed: Observed[],
): Side {
  const { path, bazel, env, synced } = of;
  const observe = async (what: string, argv: readonly string[], comparison: Comparison = {}) => {
    const { stdout, stderr, code, ...options } = comparison;
    const finished = await run(argv, { cwd: path, ...options, env: { ...env, ...options.env } });
    const lines = normalizeStderr(finished.stderr);
    observed.push({
      what,
      code: finished.code,
      stdout: stdout ? stdout(finished.stdout) : exactly(finished.stdoutBytes),
      stderr: stderr ? stderr(lines) : lines,
    });
    if (code !== undefined && finished.code !== code) {
      throw new assert.AssertionError({
        message: `${what} ended with ${finished.code}, not ${code}:\n${finished.stdout}${finished.stderr}`,
      });
    }
    return finished;
  };
  const short = (args: readonly string[]) => args.join(" ").replaceAll(path, "<workspace>");
  return {
    rbs,
    synced,
    bazel,
    path,
    env,
    outputBase: "outputBase" in of ? of.outputBase : outputBaseOf(of),
    run: (args, comparison) => observe(`bazel ${short(args)}`, [bazel.path, ...args], comparison),
    jbazel: (args, comparison) =>
      observe(`jbazel ${short(args)}`, [rbs ? PROGRAMS.jbazel : bazel.path, ...args], comparison),
    exec: (argv, comparison) => observe(short(argv), argv, comparison),
    note: (what, value) => void observed.push({ what, value }),
    write: (file, text) => write(join(path, file), text),
  };
}

function outputBaseOf(workspace: TestWorkspace): string {
  return join(workspace.outputUserRoot, repoHash(workspace.path));
}

function exactly(bytes: Uint8Array): string {
  const hash = () => createHash("sha256").update(bytes).digest("hex");
  if (bytes.length > SHOWN) return `${bytes.length} bytes with sha256 ${hash()}`;
  const text = new TextDecoder().decode(bytes);
  return text.includes("\ufffd") ? `${text}\n(sha256 ${hash()})` : text;
}

async function write(path: string, text: string) {
  await Deno.mkdir(dirname(path), { recursive: true });
  await Deno.writeTextFile(path, text, { mode: path.endsWith(".sh") ? 0o755 : 0o644 });
}
