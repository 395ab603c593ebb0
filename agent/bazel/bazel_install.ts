import { RbsError } from "../../proto/base/errors.ts";
import { startupOption } from "../../proto/bazel/startup_options.ts";
import type { SessionInit } from "../namespace/namespace_init.ts";
import { quoteAll } from "../namespace/shell.ts";

/** A session's Bazel and Java. Absolute paths in the namespace. */
export interface BazelInstall {
  /** An install base with the requested install_md5. */
  installBase: string;
  /** The `java` program that runs it. */
  java: string;
}

/**
 * Finds the install base with md5 $1 in the directories $3…, and a Java at $2 or JAVA_HOME. Prints NUL-ended fields:
 * the matching install base or nothing, its Java or nothing, and what was there instead.
 *
 * A script in the namespace, so that it sees what the server will see.
 */
const RESOLVE = String.raw`
shopt -s nullglob
wanted=$1
# The install base of Bazel before 3.x has its files one folder deeper.
files() { if [[ -e $1/_embedded_binaries ]]; then REPLY=$1/_embedded_binaries; else REPLY=$1; fi; }
key() {
  files "$1"
  if [[ -r $REPLY/install_base_key ]]; then REPLY=$(<"$REPLY/install_base_key")
  else REPLY=$(basename -- "$1"); fi
}
label() {
  files "$1"
  if [[ -r $REPLY/build-label.txt ]]; then REPLY=$(<"$REPLY/build-label.txt"); else REPLY=no_version; fi
  # Debian's packages are built without a label.
  [[ $REPLY != no_version ]] || REPLY='without a version label'
}
base= others=
for candidate in "${"${@:3}"}"; do
  for folder in "$candidate" "$candidate"/*; do
    files "$folder"
    [[ -e $REPLY/A-server.jar || -e $REPLY/build-label.txt ]] || continue
    key "$folder"; key=$REPLY
    if [[ -z $wanted || $key == "$wanted" ]]; then base=$folder; break 2; fi
    label "$folder"
    others+=", Bazel $REPLY (install_md5 $key) at $folder"
  done
done
java=
if [[ -n $base ]]; then
  files "$base"
  for candidate in "$REPLY/embedded_tools/jdk" "$2" "$JAVA_HOME"; do
    if [[ -n $candidate && -f $candidate/bin/java && -x $candidate/bin/java ]]; then java=$candidate/bin/java; break; fi
  done
fi
printf '%s\0' "$base" "$java" "${"${others#, }"}"
`;

/** What was found of a client's Bazel. */
interface Found extends Partial<BazelInstall> {
  /** Other versions found, separated by ", ". */
  others: string;
  stderr: string;
}

async function find(init: SessionInit, startupOptions: readonly string[], folders: readonly string[]): Promise<Found> {
  const md5 = startupOption(startupOptions, "install_md5") ?? "";
  const systemJava = startupOption(startupOptions, "default_system_javabase") ?? "";
  const { stdout, stderr } = await init.call(`set -- ${quoteAll([md5, systemJava, ...folders])}\n${RESOLVE}`);
  const [installBase, java, others = ""] = stdout.split("\0");
  return { installBase: installBase || undefined, java: java || undefined, others, stderr };
}

/** Whether one of `folders` has the Bazel that a client's startup options require. */
export async function hasInstall(
  init: SessionInit,
  startupOptions: readonly string[],
  folders: readonly string[],
): Promise<boolean> {
  return (await find(init, startupOptions, folders)).installBase !== undefined;
}

/**
 * Finds the Bazel that a client's startup options require: the same install base, or another with the same install_md5
 * in `installBases` (directories that contain install bases, or are one). Rejects with an RbsError of one sentence.
 */
export async function resolveInstall(
  init: SessionInit,
  startupOptions: readonly string[],
  installBases: readonly string[],
): Promise<BazelInstall> {
  const wanted = startupOption(startupOptions, "install_base");
  if (wanted === undefined) {
    throw new RbsError("The Bazel client's startup options name no --install_base: use the stock Bazel client.", {
      culprit: "caller",
    });
  }
  const { installBase, java, others, stderr } = await find(init, startupOptions, [wanted, ...installBases]);
  const md5 = startupOption(startupOptions, "install_md5") ?? "";
  if (!installBase) {
    const where = [wanted, ...installBases].join(", ");
    throw new RbsError(
      others
        ? `The Bazel client is of the version with install_md5 ${md5}, but the agent has ${others}; ` +
          `install the same version for both, or name its install base in RBS_INSTALL_BASES.`
        : `No Bazel with install_md5 ${md5} is at ${where}${stderr ? ` (${stderr.trim().split("\n")[0]})` : ""}; ` +
          `install the client's version there, or name its install base in RBS_INSTALL_BASES.`,
      { culprit: "caller" },
    );
  }
  if (!java) {
    const systemJava = startupOption(startupOptions, "default_system_javabase") || "--default_system_javabase";
    throw new RbsError(
      `No Java runs Bazel's server: neither ${installBase}/embedded_tools/jdk nor ${systemJava} nor JAVA_HOME has ` +
        `bin/java on the build server's machine; install a JDK there that this Bazel supports.`,
      { culprit: "caller" },
    );
  }
  return { installBase, java };
}
