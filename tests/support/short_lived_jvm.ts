/**
 * Options for the JVMs of tests' Bazel servers, which live for some commands: they start and build at half the processor
 * time with one compiler, one collector's thread, and an archive of Bazel's classes, made once for each machine (a
 * "class-data archive": what is in it need not be read from jars and verified again). A JVM looks itself whether an
 * archive is of its kind and of the same jar, and does without if not.
 */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { testCache } from "./npm_tool.ts";
import { ROOT } from "./repository.ts";
import { run } from "./run.ts";
import { tempDir } from "./temp_dir.ts";
import { copyTree } from "./workspace.ts";

const PLAIN = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"];

/** With `--batch` a JVM says in the user's terminal, with the time, what of an archive does not fit. */
const QUIET = "-Xlog:cds*=off";

/** Where Debian's Bazel is. Of any other, each output user root has a jar of its own, to which no archive fits. */
const JAR = "/usr/share/bazel/A-server.jar", JVMS = "/usr/lib/jvm";

/** What a server does whose classes go into the archive: some of all that tests ask for. */
const COMMANDS = [
  ...["info", "build //...", "query --output=proto //data:all", "query --output=label_kind deps(//data:names)"],
  ...["cquery //data:all", "aquery //data:names", "test //...", "run //scripts:exit", "build //no:such", "clean"],
];

/** While a client shuts its server down: then it ends it by force, perhaps while it writes. Milliseconds. */
const FORCE_MS = 50_000;

/** The options. @param installed Of the Bazel that Debian has installed. */
export function shortLived(installed: boolean): string[] {
  const archive = installed ? archivePath() : undefined;
  return archive && size(archive) > 0 ? [...PLAIN, `-XX:SharedArchiveFile=${archive}`, QUIET] : PLAIN;
}

/** Makes the archive of the Bazel that Debian has installed, unless it is there, or was once not to be had. */
export async function makeClassArchive(bazel: string, bazelrc: readonly string[]): Promise<void> {
  const path = archivePath();
  if (!path || size(path) >= 0) return;
  await using temp = await tempDir();
  const made = temp.join("classes.jsa");
  const startup = [...PLAIN, `-XX:ArchiveClassesAtExit=${made}`].map((option) => `startup --host_jvm_args=${option}`);
  await copyTree(join(ROOT, "tests/workspaces/cpp"), temp.join("ws"));
  await Deno.writeTextFile(temp.join("ws/.bazelrc"), [...startup, ...bazelrc, ""].join("\n"));
  const ask = (command: string) =>
    run([bazel, `--output_user_root=${temp.join("root")}`, ...command.split(" ")], {
      ...{ cwd: temp.join("ws"), env: { HOME: temp.path } },
    });
  for (const command of COMMANDS) await ask(command);
  const { took } = await ask("shutdown");
  await Deno.mkdir(join(path, ".."), { recursive: true });
  // By its name it appears as a whole: others may be waiting for it, or making it as well.
  const fresh = `${path}.${crypto.randomUUID()}`;
  if (took < FORCE_MS && size(made) > 0) await Deno.copyFile(made, fresh);
  else await Deno.writeTextFile(fresh, "");
  await Deno.chmod(fresh, 0o644);
  await Deno.rename(fresh, path);
}

/** Of this machine's Bazel and JDKs as they are now. */
function archivePath(): string | undefined {
  if (size(JAR) < 0) return undefined;
  const jvms = [...Deno.readDirSync(JVMS)].map(({ name }) => join(JVMS, name, "release")).filter((path) =>
    size(path) > 0
  );
  const files = [JAR, ...jvms.sort()].map((path) => [path, size(path), Deno.statSync(path).mtime]);
  const key = createHash("sha256").update(JSON.stringify([COMMANDS, PLAIN, files])).digest("hex").slice(0, 16);
  // A session whose agent shares no disk with us has the machine's /var, and no home folder of it.
  return join(Deno.uid() === 0 ? "/var/cache/rbs-test" : testCache(), `classes-${key}.jsa`);
}

/** The size of a file; -1: there is none. */
function size(path: string): number {
  try {
    return Deno.statSync(path).size;
  } catch {
    return -1;
  }
}
