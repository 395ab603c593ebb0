import { join } from "node:path";
import { output } from "./run.ts";

/** Programs that call bazel themselves: package, version, file. */
export const CLIENTS = {
  ibazel: ["@bazel/ibazel", "0.28.0", "bin/linux_amd64/ibazel"],
  bazelisk: ["@bazel/bazelisk", "1.28.1", "bazelisk-linux_amd64"],
  buildozer: ["@bazel/buildozer", "8.2.1", "buildozer-linux_amd64"],
} as const;

/**
 * The absolute path of a file of an npm package, which is installed once into the user's cache, without its scripts.
 *
 * @param version One version exactly.
 * @param file Relative to the package's folder.
 */
export async function npmTool(npmPackage: string, version: string, file: string): Promise<string> {
  if (Deno.build.target !== "x86_64-unknown-linux-gnu") throw new Error("it is for x86-64 Linux only");
  const cache = testCache();
  const directory = join(cache, `${npmPackage.split("/").at(-1)}-${version}`);
  const path = join(directory, "node_modules", npmPackage, file);
  if (await Deno.stat(path).catch(() => undefined)) return path;
  // Into a folder of its own first: two test runs may want it at once, and one may be stopped half-way.
  await Deno.mkdir(cache, { recursive: true });
  const fresh = await Deno.makeTempDir({ dir: cache, prefix: "npm-" });
  try {
    const npm = ["npm", "install", "--silent", "--no-save", "--ignore-scripts", "--no-audit", "--prefix", fresh];
    await output([...npm, `${npmPackage}@${version}`], { timeout: 300_000 });
    await Deno.rename(fresh, directory).catch(async (error) => {
      if (!(await Deno.stat(path).catch(() => undefined))) throw error;
    });
  } finally {
    await Deno.remove(fresh, { recursive: true }).catch(() => {});
  }
  return path;
}

/** Where tests keep what they need once more. Absolute. */
export function testCache(): string {
  return join(Deno.env.get("XDG_CACHE_HOME") || join(Deno.env.get("HOME") ?? "/tmp", ".cache"), "rbs-test");
}
