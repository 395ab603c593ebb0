import { join, resolve } from "node:path";

/** The state of a javabase. */
export type JavabaseState = "ours" | "missing" | "not executable" | "another program";

/** A text near the start of our launcher; a JDK's `java` does not have it there. */
const LAUNCHER_MARK = "rbs";

/**
 * The javabase that belongs to this jbazel: `javabase` beside the launcher (in `dist/`), or `dist/javabase` of the
 * source tree.
 *
 * @param program The `file:` URL of jbazel's main module, or its path.
 */
export function defaultJavabase(program: string): string {
  const path = program.startsWith("file:") ? decodeURIComponent(new URL(program).pathname) : program;
  let real = path;
  try {
    real = Deno.realPathSync(path);
  } catch { /* a compiled program's module has no file */ }
  return real.endsWith(".ts") ? resolve(real, "../../../dist/javabase") : resolve(real, "../javabase");
}

/** Examines `<javabase>/bin/java` without running it. */
export function inspectJavabase(javabase: string): JavabaseState {
  const program = join(javabase, "bin", "java");
  try {
    const info = Deno.statSync(program);
    if (!info.isFile) return "missing";
    if (((info.mode ?? 0) & 0o111) === 0) return "not executable";
    const head = new Uint8Array(4096);
    using file = Deno.openSync(program);
    const length = file.readSync(head) ?? 0;
    const text = new TextDecoder("latin1").decode(head.subarray(0, length));
    // A launcher is a script that contains our name; compiled programs cannot be distinguished.
    return text.startsWith("#!") && !text.toLowerCase().includes(LAUNCHER_MARK) ? "another program" : "ours";
  } catch {
    return "missing";
  }
}
