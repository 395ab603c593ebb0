import { randomBytes } from "node:crypto";
import { join } from "node:path";

/** A folder of its own for a test, which goes with the scope: `await using directory = await tempDir()`. */
export interface TempDir extends AsyncDisposable {
  /** Absolute, without symlinks in it. */
  path: string;
  /** The absolute path of something in it. */
  join(...names: string[]): string;
}

/** The same for where nothing can be waited for: `using directory = tempDirSync()`. */
export interface SyncTempDir extends Omit<TempDir, keyof AsyncDisposable>, Disposable {}

/**
 * Makes a temporary folder. What is in it may be write-protected, as Bazel's outputs are. All names of a prefix have the same
 * length: texts with paths in them can be compared, also where their lengths are told (Deno's own leaves zeros out).
 *
 * @param dir Where. @default the system's place for temporary folders
 */
export async function tempDir(prefix?: string, dir?: string): Promise<TempDir> {
  const path = newPath(await Deno.realPath(dir ?? systemPlace()), prefix);
  await Deno.mkdir(path, { mode: 0o700 });
  return { path, join: (...names) => join(path, ...names), [Symbol.asyncDispose]: () => removeTree(path) };
}

/** As {@link tempDir}, at once. */
export function tempDirSync(prefix?: string, dir?: string): SyncTempDir {
  const path = newPath(Deno.realPathSync(dir ?? systemPlace()), prefix);
  Deno.mkdirSync(path, { mode: 0o700 });
  return { path, join: (...names) => join(path, ...names), [Symbol.dispose]: () => removeTreeSync(path) };
}

function systemPlace(): string {
  return Deno.env.get("TMPDIR") ?? "/tmp";
}

function newPath(place: string, prefix = "rbs-test-"): string {
  return join(place, prefix + randomBytes(8).toString("hex"));
}

/** Removes a folder with all that is in it, write-protected folders included. Nothing happens when it is gone. */
export async function removeTree(path: string) {
  try {
    await Deno.remove(path, { recursive: true });
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return;
    await new Deno.Command("chmod", { args: ["-R", "u+rwX", "--", path], stderr: "null" }).output();
    await new Deno.Command("rm", { args: ["-rf", "--", path] }).output();
  }
}

function removeTreeSync(path: string) {
  try {
    Deno.removeSync(path, { recursive: true });
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return;
    new Deno.Command("chmod", { args: ["-R", "u+rwX", "--", path], stderr: "null" }).outputSync();
    new Deno.Command("rm", { args: ["-rf", "--", path] }).outputSync();
  }
}
