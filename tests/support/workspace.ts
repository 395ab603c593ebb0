import { dirname, join } from "node:path";
import type { Bazel } from "./bazels.ts";
import { ROOT } from "./repository.ts";
import { type Finished, run, type Running, type RunOptions, start } from "./run.ts";
import { removeTree, tempDir } from "./temp_dir.ts";
import type { Machine } from "./two_machines.ts";

/** A copy of tests/workspaces/cpp for one test, with an output user root of its own. Its servers end with the scope. */
export interface TestWorkspace extends AsyncDisposable {
  /** Absolute. */
  path: string;
  bazel: Bazel;
  outputUserRoot: string;
  /** Variables that every command gets. */
  env: Record<string, string | undefined>;
  /** The command line of `bazel ARG…` in this workspace. */
  argv(args: readonly string[], startupOptions?: readonly string[]): string[];
  /** Runs `bazel ARG…` in the workspace, to its end. */
  run(args: readonly string[], options?: RunOptions): Promise<Finished>;
  /** Starts `bazel ARG…` in the workspace. */
  start(args: readonly string[], options?: RunOptions): Running;
}

/** How a workspace is made. */
export interface WorkspaceOptions {
  /** Name of the workspace's folder; any characters but "/". @default "workspace" */
  name?: string;
  /** Startup options of each command: `--server_javabase=…` makes it go through RBS. @default none */
  startupOptions?: readonly string[];
  /** Variables that every command gets, beside a HOME of its own. */
  env?: Record<string, string | undefined>;
  /** More lines for its .bazelrc. */
  bazelrc?: readonly string[];
  /** Copied instead of tests/workspaces/cpp. Absolute. */
  from?: string;
  /** The machine that has it. @default this one */
  on?: Machine;
}

/** Makes a workspace for this Bazel, with the .bazelrc that it needs to build without a network. */
export async function testWorkspace(bazel: Bazel, options: WorkspaceOptions = {}): Promise<TestWorkspace> {
  const { name = "workspace", startupOptions = [], env = {}, bazelrc = [], on } = options;
  const directory = await tempDir(undefined, on?.directory);
  const path = directory.join(name);
  const outputUserRoot = directory.join("output_user_root");
  await copyTree(options.from ?? join(ROOT, "tests/workspaces/cpp"), path);
  await Deno.writeTextFile(join(path, ".bazelrc"), [...bazel.bazelrc, ...bazelrc, ""].join("\n"));
  // A rc file in the tester's own home must not decide a test.
  await Deno.mkdir(directory.join("home"));
  const bazelisk = Deno.env.get("BAZELISK_HOME") ?? join(Deno.env.get("HOME") ?? "/tmp", ".cache/bazelisk");
  const environment = { HOME: directory.join("home"), BAZELISK_HOME: bazelisk, ...env };

  const argv = (args: readonly string[], more: readonly string[] = []) => [
    bazel.path,
    `--output_user_root=${outputUserRoot}`,
    ...startupOptions,
    ...more,
    ...args,
  ];
  const merged = (options: RunOptions = {}) => ({ cwd: path, on, ...options, env: { ...environment, ...options.env } });
  const workspace: TestWorkspace = {
    path,
    bazel,
    outputUserRoot,
    env: environment,
    argv,
    run: (args, options) => run(argv(args), merged(options)),
    start: (args, options) => start(argv(args), merged(options)),
    async [Symbol.asyncDispose]() {
      await workspace.run(["shutdown"], { timeout: 30_000 }).catch(() => {});
      await removeTree(dirname(path));
    },
  };
  return workspace;
}

/** Copies a folder with its files' modes. */
export async function copyTree(from: string, to: string) {
  await Deno.mkdir(to, { recursive: true });
  for await (const entry of Deno.readDir(from)) {
    const [source, target] = [join(from, entry.name), join(to, entry.name)];
    if (entry.isDirectory) await copyTree(source, target);
    else if (entry.isFile) await Deno.copyFile(source, target);
  }
}
