import { RbsError } from "../proto/errors.ts";
import { startupOption } from "../proto/startup_options.ts";
import type { SessionInit } from "./session_init.ts";
import { quoteAll } from "./shell.ts";

/** Where a session's Bazel and its Java are. Absolute paths in the namespace. */
export interface BazelInstall {
  /** An install base with the wanted install_md5. */
  installBase: string;
  /** The program `java` that runs it. */
  java: string;
}

/**
 * Looks for an install base, by $1 path, $2 md5 and $4… folders, and for a Java, at $3 and JAVA_HOME. Prints NUL-ended
 * fields: the install base that fits or nothing, its Java or nothing, and what was there instead.
 *
 * A script in the namespace does it because the agent itself may read nothing but its storage.
 */
const RESOLVE = String.raw`
shopt -s nullglob
wanted=$2
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
for candidate in "$1" "${"${@:4}"}"; do
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
  for candidate in "$REPLY/embedded_tools/jdk" "$3" "$JAVA_HOME"; do
    if [[ -n $candidate && -f $candidate/bin/java && -x $candidate/bin/java ]]; then java=$candidate/bin/java; break; fi
  done
fi
printf '%s\0' "$base" "$java" "${"${others#, }"}"
`;

/**
 * Finds the Bazel that a client wants by its startup options: the same install base, or another one with the same
 * install_md5 in `installBases` (folders that hold install bases, or are one). Rejects with an RbsError of one sentence.
 */
export async function resolveInstall(
  init: SessionInit,
  startupOptions: readonly string[],
  installBases: readonly string[],
): Promise<BazelInstall> {
  const installBase = startupOption(startupOptions, "install_base");
  if (installBase === undefined) {
    throw new RbsError("The Bazel client's startup options name no --install_base: use the stock Bazel client.", {
      culprit: "caller",
    });
  }
  const md5 = startupOption(startupOptions, "install_md5") ?? "";
  const systemJava = startupOption(startupOptions, "default_system_javabase") ?? "";
  const { stdout, stderr } = await init.call(
    `set -- ${quoteAll([installBase, md5, systemJava, ...installBases])}\n${RESOLVE}`,
  );
  const [found, java, others] = stdout.split("\0");
  if (!found) {
    const where = [installBase, ...installBases].join(", ");
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
    throw new RbsError(
      `No Java runs Bazel's server: neither ${found}/embedded_tools/jdk nor ${
        systemJava || "--default_system_javabase"
      } ` +
        `nor JAVA_HOME has bin/java; install a JDK that this Bazel supports.`,
      { culprit: "caller" },
    );
  }
  return { installBase: found, java };
}
