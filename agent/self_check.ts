import { ownFolders } from "./namespace/confined_root.ts";
import { isRoot, NAMESPACE_KINDS, namespaceCommand, type NamespaceKind } from "./namespace/mount_namespace.ts";
import { startupOption } from "../proto/bazel/startup_options.ts";
import type { AgentArguments } from "./arguments.ts";
import type { SessionInit } from "./namespace/namespace_init.ts";
import { quote, shell } from "./namespace/shell.ts";

/** One thing that was checked. */
export interface Check {
  name: string;
  ok: boolean;
  /** What was found, or why it failed. */
  detail: string;
}

/**
 * linux-sandbox as Bazel uses it: in the output base, with /tmp made writable. $1: the install base.
 * Bazel itself would fall back to a weaker sandbox without a word, or fail each action.
 */
const LINUX_SANDBOX = String.raw`
linux_sandbox=$1/linux-sandbox
[[ -x $linux_sandbox ]] || linux_sandbox=$1/_embedded_binaries/linux-sandbox
"$linux_sandbox" -w /tmp -- /bin/true
`;

/** Whether linux-sandbox works in a session's namespace; undefined if so, else a sentence for the developer. */
export async function linuxSandboxWarning(
  init: SessionInit,
  startupOptions: readonly string[],
  outputBase: string,
): Promise<string | undefined> {
  const installBase = startupOption(startupOptions, "install_base");
  if (installBase === undefined) return undefined;
  // An install base that is not there yet, or elsewhere, cannot be tried.
  const { code, stderr } = await init.call(
    `cd -- ${quote(outputBase)} || exit; set -- ${quote(installBase)}; [[ -e $1 ]] || exit 0\n${LINUX_SANDBOX}`,
  );
  if (code === 0) return undefined;
  const why = stderr.trim().split("\n")[0] || `exit code ${code}`;
  const hint = outputBase.startsWith("/tmp/")
    ? "keep the output base outside of /tmp (bazel --output_user_root)"
    : "allow user namespaces on the agent's machine";
  return `Bazel's linux-sandbox does not work in this session (${why}), so actions run with less isolation: ${hint}.`;
}

/** Runs in a namespace of a kind, with $1 storage, $2 the developer's path for it, $3 an install base or nothing. */
const CHECKS = String.raw`
report() { printf '%s\0%s\0%s\0' "$1" "$2" "$3"; }
check() {
  local name=$1 found; shift
  if found=$("$@" 2>&1); then report "$name" ok "$found"; else report "$name" failed "$found"; fi
}
same_paths() { [[ -e $2/marker ]] && echo "the output base has the developer's name" || { echo "it is only at $1"; return 1; }; }
numbers() {
  local pid=$(sh -c 'read -r pid _ </proc/self/stat; echo $pid $$')
  [[ ${"${pid% *}"} == "${"${pid#* }"}" ]] && echo "/proc counts as the namespace does" || { echo "/proc has other numbers: $pid"; return 1; }
}
own_processes() { [[ $$ -lt 20 ]] && echo "process $$ of its own" || { echo "the host's: the agent ends them one by one"; return 1; }; }
terminal() { script -qefc 'stty rows 7 cols 9; stty size' /dev/null </dev/null | tr -d '\r'; }
java() { command -v java >/dev/null || [[ -x $JAVA_HOME/bin/java ]] && echo "there is a Java"; }
linux_sandbox() {
  cd -- "$2" 2>/dev/null || cd -- "$1" || return
  set -- "$3"
  ${LINUX_SANDBOX.trim()} && echo "works"
}
walls() {
  local file
  for file in /proc/sys/kernel/core_pattern /etc/passwd; do
    if [[ -w $file ]]; then echo "$file of the machine can be written"; return 1; fi
  done
  # /tmp is a mount point in every session.
  if umount /tmp 2>/dev/null; then echo "mounts can be taken off"; return 1; fi
  echo "nothing of the machine's own can be changed"
}
check 'isolation' walls
check 'same paths' same_paths "$1" "$2"
check 'own processes' own_processes
check 'process numbers' numbers
check 'terminal' terminal
if [[ -n $3 ]]; then check 'linux-sandbox' linux_sandbox "$1" "$2" "$3"
else report 'linux-sandbox' skipped 'no install base found: name one in RBS_INSTALL_BASES'; fi
`;

/** Finds an install base without a server: $@ are folders that hold install bases, or are one. */
const FIND_INSTALL_BASE = String.raw`
shopt -s nullglob
for folder in "$@" /usr/share/bazel ~/.cache/bazel/_bazel_"$(id -un)"/install; do
  for candidate in "$folder" "$folder"/*; do
    [[ -x $candidate/linux-sandbox || -x $candidate/_embedded_binaries/linux-sandbox ]] && { printf %s "$candidate"; exit; }
  done
done
`;

/**
 * Checks what sessions on this machine get. Needs no permission but the one for bash: bash makes the temporary folder
 * and removes it.
 *
 * @param allowRootSessions Whether sessions of root have all of root's rights.
 * @returns The kind of namespace that `auto` would take, and the checks; all of them are ok if the machine is.
 */
export async function selfTest(
  kind: NamespaceKind | "auto",
  installBases: readonly string[],
  allowRootSessions = false,
): Promise<{ kind: NamespaceKind | undefined; checks: Check[] }> {
  const root = await isRoot();
  const installBase = (await shell(FIND_INSTALL_BASE, installBases)).stdout;
  // Not in /tmp: an output base there cannot be used by linux-sandbox.
  const temporary = (await shell(
    `d=$(mktemp -d "\${XDG_CACHE_HOME:-$HOME/.cache}/rbs-self-test.XXXXXX" 2>/dev/null || mktemp -d -p /var/tmp) &&
      mkdir "$d/storage" "$d/output base" && touch "$d/storage/marker" && printf %s "$d"`,
  )).stdout;
  if (temporary === "") {
    const check = { name: "storage", ok: false, detail: "no temporary folder can be made in ~/.cache or /var/tmp" };
    return { kind: undefined, checks: [check] };
  }
  const bind = { storage: `${temporary}/storage`, outputBase: `${temporary}/output base` };
  try {
    const kinds = kind === "auto" ? NAMESPACE_KINDS.filter((k) => root || k !== "unshare") : [kind];
    const own = allowRootSessions ? undefined : ownFolders(temporary, ["/tmp", temporary]);
    const checks: Check[] = [];
    for (const candidate of kinds) {
      const inner = ["bash", "-c", CHECKS, "bash", bind.storage, bind.outputBase, installBase];
      const result = await shell(`exec "$@"`, [...namespaceCommand(candidate, root, { ...bind, own }), ...inner]);
      const fields = result.stdout.split("\0");
      if (result.code !== 0 || fields.length < 3) {
        const why = result.code === 127 ? "it is not installed" : result.stderr.trim().split("\n")[0];
        checks.push({ name: "namespace", ok: false, detail: `${candidate}: ${why || `exit code ${result.code}`}` });
        continue;
      }
      const detail = `${candidate}, as ${root ? "root" : "an ordinary user"}`;
      // Another kind stood in for the one that failed.
      checks.forEach((check) => check.ok = candidate !== "none");
      checks.push({ name: "namespace", ok: true, detail });
      for (let i = 0; i + 2 < fields.length; i += 3) {
        const [name, state, found] = fields.slice(i, i + 3);
        checks.push({ name, ok: state !== "failed", detail: found });
      }
      return { kind: candidate, checks };
    }
    return { kind: undefined, checks };
  } finally {
    await shell(`rm -rf -- "$1"`, [temporary]);
  }
}

/** Prints what {@link selfTest} found. @returns 0 if all is well, else 1 */
export async function printSelfTest(
  { namespace, installBases, allowRootSessions }: Pick<
    AgentArguments,
    "namespace" | "installBases" | "allowRootSessions"
  >,
): Promise<number> {
  const { checks } = await selfTest(namespace, installBases, allowRootSessions);
  const width = Math.max(...checks.map(({ name }) => name.length));
  for (const { name, ok, detail } of checks) {
    console.log(`${ok ? "ok    " : "FAILED"}  ${name.padEnd(width)}  ${detail.trim().split("\n").join(" ")}`);
  }
  const ok = checks.every((check) => check.ok);
  console.log(
    ok ? "Sessions on this machine get all they should." : "Sessions on this machine get less than they should.",
  );
  return ok ? 0 : 1;
}
