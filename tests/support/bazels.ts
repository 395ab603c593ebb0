/** The Bazel clients that tests can run with on this machine, by generation. */
import { join } from "node:path";
import { npmTool } from "./npm_tool.ts";
import { output } from "./run.ts";
import { ROOT } from "./repository.ts";
import { makeClassArchive, shortLived } from "./short_lived_jvm.ts";

/** A stock Bazel client. */
export interface Bazel {
  /** As `bazel --version` says it: "4.2.3". */
  version: string;
  /** The client's absolute path. */
  path: string;
  /**
   * Lines for the .bazelrc of a workspace in tests/workspaces, so that this Bazel builds it without a network, with a
   * server that costs little to start (see short_lived_jvm.ts).
   */
  bazelrc: readonly string[];
}

/** What was found, and what was not. */
export interface Bazels {
  found: Bazel[];
  /** One sentence each. */
  missing: string[];
}

/**
 * The Bazels that this run is limited to are further generations, beside another run with this machine's own (see
 * tools/run_tests.ts): what does not depend on the generation runs there.
 */
export const IS_FURTHER = Deno.env.get("RBS_TEST_BAZELS")?.startsWith("5") ?? false;

const NPM_PACKAGE = "@bazel/bazel-linux_x64";
const NPM_VERSION = "2.1.0";

const JVM_OPTION = "startup --host_jvm_args=";

/** The same Bazel for benchmarks: with servers as developers have them. */
export function longLived(bazel: Bazel): Bazel {
  return { ...bazel, bazelrc: bazel.bazelrc.filter((line) => !line.startsWith(JVM_OPTION)) };
}

/** The rule sets that a Bazel without a registry takes from tests/workspaces/stubs. */
const STUBS = ["rules_cc", "rules_java", "rules_proto", "rules_shell", "remote_coverage_tools"];

/**
 * Finds them: the one on the PATH, and 2.1.0 from npm (installed once into the user's cache).
 *
 * `RBS_TEST_BAZELS` (comma-separated beginnings of versions, "4,2") limits them. Bazel 7 lives in a root of its own:
 * there the whole test runs (see tools/run_tests.ts) and finds it on the PATH.
 *
 * @param options.npm false leaves out the one from npm.
 */
export async function findBazels({ npm = true } = {}): Promise<Bazels> {
  const found: Bazel[] = [];
  const missing: string[] = [];
  const wanted = Deno.env.get("RBS_TEST_BAZELS")?.split(",");
  const isWanted = (version: string) => !wanted || wanted.some((beginning) => version.startsWith(beginning));

  const installed = await onPath("bazel");
  if (installed) {
    const version = await bazelVersion(installed);
    if (isWanted(version)) {
      const lines = await bazelrc(version);
      await makeClassArchive(installed, lines);
      found.push({ version, path: installed, bazelrc: [...jvm(true), ...lines] });
    }
  } else {
    missing.push("Bazel on the PATH: not installed (deno task setup).");
  }
  if (npm && isWanted(NPM_VERSION)) {
    try {
      const path = await npmTool(NPM_PACKAGE, NPM_VERSION, `bazel-${NPM_VERSION}-linux-x86_64`);
      found.push({ version: NPM_VERSION, path, bazelrc: [...jvm(false), ...await bazelrc(NPM_VERSION)] });
    } catch (error) {
      missing.push(
        `Bazel ${NPM_VERSION}: not to be had from npm (${
          error instanceof Error ? error.message.split("\n")[0] : error
        }).`,
      );
    }
  }
  return { found, missing };
}

/** The version of a client, by its client-only `--version`. Debian's 4.2.3 knows none, so there the package is asked. */
export async function bazelVersion(bazel: string): Promise<string> {
  const number = /\d+\.\d+\.\d+/;
  const said = number.exec(await output([bazel, "--version"], { cwd: "/" }));
  if (said) return said[0];
  return number.exec(await output(["dpkg-query", "-W", "-f", "${Version}", "bazel-bootstrap"]))?.[0] ?? "unknown";
}

/** The absolute path of a program on the PATH. */
export async function onPath(name: string): Promise<string | undefined> {
  for (const folder of (Deno.env.get("PATH") ?? "").split(":")) {
    const path = join(folder, name);
    const info = await Deno.stat(path).catch(() => undefined);
    if (info?.isFile && (info.mode! & 0o111)) return path;
  }
  return undefined;
}

function jvm(installed: boolean): string[] {
  return shortLived(installed).map((option) => JVM_OPTION + option);
}

async function bazelrc(version: string): Promise<string[]> {
  const stubs = join(ROOT, "tests/workspaces/stubs");
  const stub = (name: string) => `build --override_repository=${name}=${stubs}/${name}`;
  const quiet = "build --nosandbox_debug"; // Debian's system bazelrc turns it on.
  if (Number(version.split(".")[0]) < 5) return [...STUBS.map(stub), quiet];
  // Debian's Bazel brings rule sets along; any other asks its registry of modules.
  const debian = "/usr/share/bazel";
  if (!(await Deno.stat(`${debian}/rules/cc`).catch(() => undefined))) return [];
  const brought = {
    rules_cc: "rules/cc",
    rules_java: "rules/java",
    rules_proto: "rules/proto",
    rules_python: "rules/python",
    rules_license: "rules/license",
    platforms: "tools/platforms",
    bazel_skylib: "tools/skylib",
    bazel_features: "tools/features",
  };
  return [
    "common --noenable_bzlmod",
    ...Object.entries(brought).map(([name, path]) => `common --override_repository=${name}=${debian}/${path}`),
    ...["rules_shell", "remote_coverage_tools"].map((name) => `common --override_repository=${name}=${stubs}/${name}`),
    quiet,
  ];
}
