/**
 * Twins: the same folders twice, the one with stock Bazel, the other through RBS. Whatever is done is done to both, and
 * after each command both must be the same: exit code, standard output, what is in `bazel-bin`, and every source.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { join } from "node:path";
import type { Bazel } from "../support/bazels.ts";
import type { Cluster } from "../support/cluster.ts";
import { type Finished, output, run } from "../support/run.ts";
import { removeTree, tempDir } from "../support/temp_dir.ts";

/** Longer contents are compared by their hashes. */
const SHOWN = 2_000;

/** One of the two. */
interface Side {
  /** Its folder: the workspace is `ws` in it, and what lies beside it is outside of the workspace. Absolute. */
  directory: string;
  rbs: boolean;
  startupOptions: string[];
  env: Record<string, string | undefined>;
}

/** How a command of {@link Twin.bazel} is run. */
export interface BazelOptions {
  /** Before the command; `$D` stands for the side's folder. */
  startup?: readonly string[];
  env?: Record<string, string>;
  /** Standard output is not compared. @default false */
  anyOutput?: boolean;
}

/** See the file's head. Its servers end with the scope. */
export interface Twin extends AsyncDisposable {
  readonly bazel: Bazel;
  /** Runs a script on both sides, in the workspace; `$D` is the side's folder. It must end well. */
  sh(script: string): Promise<void>;
  /**
   * Runs a command on both sides and compares all that can be seen afterwards. `$D` in an argument stands for the side's
   * folder.
   *
   * @returns what the two said
   */
  run(args: readonly string[], options?: BazelOptions): Promise<{ stock: Finished; rbs: Finished }>;
  /**
   * Compares the two folders without a command.
   *
   * @param named Outputs that have to be at home, relative to bazel-bin. @default those that were once
   */
  compare(what: string, named?: readonly string[]): Promise<void>;
  /** Runs a command through RBS only, where stock would do what we do not; nothing can be compared from then on. */
  runAlone(args: readonly string[], env?: Record<string, string>): Promise<Finished>;
  /** What a script says on either side, in the workspace: of RBS, and of stock. */
  outputs(script: string): Promise<[rbs: string, stock: string]>;
  /** A file of the workspace on the side of RBS. */
  read(path: string): Promise<string>;
}

/**
 * Makes twins with an empty workspace.
 *
 * @param outputs What comes home, see RBS_OUTPUTS. Of what was not named, and never was at home, nothing need be there.
 */
export async function makeTwin(
  bazel: Bazel,
  cluster: Cluster,
  { outputs = "toplevel" }: { outputs?: "toplevel" | "all" } = {},
): Promise<Twin> {
  const temp = await tempDir("rbs-twin-");
  const side = async (name: string, rbs: boolean): Promise<Side> => {
    // Of one length, as some messages are cut by it.
    const directory = temp.join(name);
    for (const folder of ["ws", "home"]) await Deno.mkdir(join(directory, folder), { recursive: true });
    await Deno.writeTextFile(join(directory, "ws/.bazelrc"), [...bazel.bazelrc, ""].join("\n"));
    return {
      ...{ directory, rbs },
      startupOptions: [
        `--output_user_root=${temp.join(`${name}-out`)}`,
        // Two servers, and the agent's third, on one machine.
        "--host_jvm_args=-Xmx600m",
        ...rbs ? [cluster.serverJavabase] : [],
      ],
      env: { HOME: join(directory, "home"), D: directory, ...rbs ? { ...cluster.env, RBS_OUTPUTS: outputs } : {} },
    };
  };
  const sides = [await side("a", false), await side("b", true)];
  const cwd = ({ directory }: Side) => join(directory, "ws");
  const command = (side: Side, args: readonly string[], startup: readonly string[] = []) =>
    [bazel.path, ...side.startupOptions, ...startup, ...args].map((arg) => arg.replaceAll("$D", side.directory));

  /** The outputs of the targets that a command names, as their rules declare them: paths relative to bazel-bin. */
  const namedOutputs = async ([name, ...args]: readonly string[], startup?: readonly string[]): Promise<string[]> => {
    const targets = args.filter((arg) => /^(@|\/\/|:)/.test(arg));
    if (!["build", "test", "run"].includes(name) || targets.length === 0) return [];
    const [side] = sides;
    const query = ["query", "--keep_going", "--noshow_progress", `labels(outs, set(${targets.join(" ")}))`];
    const { stdout } = await run(command(side, query, startup), { cwd: cwd(side), env: side.env });
    const labels = stdout.matchAll(/^(?:@{1,2}([^/\n]*))?\/\/([^:\n]*):(.+)$/gm);
    return [...labels].map(([, repository, folder, file]) =>
      [...repository ? ["external", repository] : [], ...folder ? [folder] : [], file].join("/")
    );
  };
  /** Those that commands were given: each may be a server of its own. */
  const startups = new Map<string, readonly string[]>();
  /** Outputs that were at home once, by startup options: those that name another output base begin anew. */
  const homes = new Map<string, Set<string>>();
  const homeOf = (startup: readonly string[] = []) => {
    const key = startup.join(" ");
    const home = homes.get(key) ?? new Set();
    homes.set(key, home);
    return home;
  };
  let home = homeOf();
  const twin: Twin = {
    bazel,
    async sh(script) {
      await Promise.all(sides.map((side) => output(["bash", "-ec", script], { cwd: cwd(side), env: side.env })));
    },
    async run(args, options = {}) {
      const { startup } = options;
      if (startup) startups.set(startup.join(" "), startup);
      const [stock, rbs] = await Promise.all(sides.map((side) =>
        run(command(side, args, options.startup), {
          ...{ cwd: cwd(side), env: { ...side.env, ...options.env }, timeout: 180_000 },
        })
      ));
      home = homeOf(options.startup);
      // From then on it is as if nothing ever was.
      if (args[0] === "clean" && stock.code === 0) home.clear();
      const what = `bazel ${args.join(" ")}`;
      const said = `\nstock:\n${stock.stderr}\nthrough RBS:\n${rbs.stderr}`;
      assert.equal(rbs.code, stock.code, `${what}: another exit code${said}`);
      if (!options.anyOutput) {
        const [a, b] = [stock, rbs].map(({ stdout }, i) => plain(stdout, sides[i]));
        assert.equal(b, a, `${what}: another output${said}`);
      }
      const wanted = outputs === "toplevel" && cluster.synced && stock.code === 0
        ? await namedOutputs(args, options.startup)
        : [];
      await twin.compare(`${what}${said}`, wanted);
      return { stock, rbs };
    },
    async compare(what, named = []) {
      const [a, b] = await Promise.all(sides.map(snapshot));
      if (outputs === "toplevel" && cluster.synced) {
        const isNamed = (path: string) => {
          const below = path.slice(path.indexOf("/") + 1);
          return named.some((name) => below === name || below.startsWith(`${name}/`));
        };
        for (const path of a.keys()) {
          if (isOutput(path) && !b.has(path) && !home.has(path) && !isNamed(path)) a.delete(path);
        }
        for (const path of b.keys()) if (isOutput(path)) home.add(path);
      }
      const different = [...new Set([...a.keys(), ...b.keys()])].filter((path) => a.get(path) !== b.get(path)).sort();
      const shown = different.slice(0, 10).map((path) =>
        `${path}\n  stock: ${a.get(path) ?? "nothing"}\n  RBS:   ${b.get(path) ?? "nothing"}`
      );
      assert.equal(different.length, 0, `${different.length} differences:\n${shown.join("\n")}\nafter ${what}`);
    },
    runAlone(args, more = {}) {
      const side = sides[1];
      const env = Object.entries(more).map(([name, value]) => [name, value.replaceAll("$D", side.directory)]);
      const all = { ...side.env, ...Object.fromEntries(env) };
      return run(command(side, args), { cwd: cwd(side), env: all, timeout: 180_000 });
    },
    async outputs(script) {
      const said = sides.map((side) => output(["bash", "-ec", script], { cwd: cwd(side), env: side.env }));
      const [stock, rbs] = await Promise.all(said);
      return [plain(rbs, sides[1]), plain(stock, sides[0])];
    },
    read: (path) => Deno.readTextFile(join(cwd(sides[1]), path)),
    async [Symbol.asyncDispose]() {
      await Promise.all(
        sides.flatMap((side) =>
          [[], ...startups.values()].map((startup) =>
            run(command(side, ["shutdown"], startup), { cwd: cwd(side), env: side.env, timeout: 60_000 }).catch(
              () => {},
            )
          )
        ),
      );
      await removeTree(temp.path);
    },
  };
  return twin;
}

/** A text without what the sides cannot have in common. */
function plain(text: string, { directory }: Side): string {
  return text.replaceAll(directory, "$D").replaceAll(`${directory.slice(0, -1)}a`, "$D");
}

/**
 * All files of a side: the sources, what is outside of them, and what can be reached by `bazel-*` links but for what
 * Bazel writes for itself.
 */
async function snapshot(side: Side): Promise<Map<string, string>> {
  const seen = new Map<string, string>();
  const look = async (path: string, name: string, follow: boolean): Promise<void> => {
    const info = await (follow ? Deno.stat(path) : Deno.lstat(path)).catch(() => undefined);
    if (!info) return void seen.set(name, "nothing behind it");
    if (info.isSymlink) return void seen.set(name, `-> ${plain(await Deno.readLink(path), side)}`);
    const mode = ((info.mode ?? 0) & 0o777).toString(8);
    if (info.isDirectory) {
      seen.set(name, `folder ${mode}`);
      for await (const entry of Deno.readDir(path)) {
        if (isBazels(`${name}/${entry.name}`)) continue;
        await look(`${path}/${entry.name}`, `${name}/${entry.name}`, follow);
      }
    } else if (info.isFile) {
      const bytes = await Deno.readFile(path);
      const text = plain(new TextDecoder("latin1").decode(bytes), side);
      const content = text.length <= SHOWN
        ? JSON.stringify(text)
        : `${bytes.length} bytes, ${createHash("sha256").update(text).digest("hex")}`;
      seen.set(name, `file ${mode} ${content}`);
    } else seen.set(name, "neither file nor folder");
  };
  await look(side.directory, ".", false);
  for await (const { name, isSymlink } of Deno.readDir(join(side.directory, "ws"))) {
    if (!isSymlink || !name.startsWith("bazel-")) continue;
    seen.set(`link ${name}`, "");
    if (name !== "bazel-bin") continue;
    const path = join(side.directory, "ws", name);
    const [, configuration = ""] = /\/bazel-out\/([^/]+)\//.exec(await Deno.readLink(path)) ?? [];
    await look(path, `bazel-bin of ${configuration}`, true);
  }
  return seen;
}

function isOutput(path: string): boolean {
  return path.startsWith("bazel-bin");
}

/** What is another for each server or session, or says nothing about what was built. */
function isBazels(name: string): boolean {
  // By the last, `vendor` leads to the repositories that it has not copied.
  return /^\.\/ws\/(bazel-[^/]+|output_base)$/.test(name) || /\/bazel-external$/.test(name) ||
    /^\.\/home\//.test(name) ||
    /^bazel-bin .*(\.runfiles_manifest|\.runfiles\/MANIFEST|\.runfiles|\.params)$/.test(name);
}
