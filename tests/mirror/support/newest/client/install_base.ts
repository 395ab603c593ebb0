/** The client's own files, which it unpacks once, and the lock by which nobody collects them while it works. */
import { dirname } from "node:path";
import type { Archive, Startup } from "./startup_options.ts";

/**
 * Makes the install base if it is not there, all at once by a rename, and marks it as used: since 8.1 its time says when
 * that was last (Bazel 9.3, `src/main/cpp/blaze.cc`, ExtractData; `InstallBaseGarbageCollector.java`).
 */
export async function ensureInstallBase({ installBase, quiet }: Startup, { directory }: Archive): Promise<void> {
  if (!isThere(installBase)) {
    if (!quiet) console.error("Extracting Bazel installation...");
    Deno.mkdirSync(dirname(installBase), { recursive: true });
    const temporary = `${installBase}.tmp.${Deno.pid}`;
    // Hard links where they can be had: a JVM is large, and so is what stands for it.
    const script = 'cp -al -- "$0" "$1" 2>/dev/null || { rm -rf -- "$1"; cp -a -- "$0" "$1"; }';
    await new Deno.Command("sh", { args: ["-c", script, directory, temporary] }).output();
    try {
      Deno.renameSync(temporary, installBase);
    } catch {
      await Deno.remove(temporary, { recursive: true }); // Another client was first.
    }
  }
  Deno.utimeSync(installBase, new Date(), new Date());
}

/** Holds `<install base>.lock` shared, as each client since 8.1 does while it lives. */
export async function lockInstallBase({ installBase }: Startup): Promise<void> {
  const lock = Deno.openSync(`${installBase}.lock`, { read: true, write: true, create: true });
  await lock.lock(false);
}

function isThere(path: string): boolean {
  try {
    return Deno.statSync(path).isDirectory;
  } catch {
    return false;
  }
}
