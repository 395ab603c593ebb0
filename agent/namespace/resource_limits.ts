/**
 * Limits what a session may use of its machine. The kernel enforces them by a control group if possible: cgroup v2, or
 * v1. Otherwise each process of the session is limited by itself, as far as possible.
 */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { log } from "../log.ts";
import { shell } from "./shell.ts";

/** 0 means no limit. */
export interface ResourceLimits {
  memoryBytes: number;
  /** Thousandths of a processor. */
  cpuMillis: number;
  /** Number of processes and threads. */
  pids: number;
}

/** Files in the session's storage, invisible to its programs. The session's control groups, one per line. */
const GROUPS = "cgroups";
/** What could not be limited as requested, one sentence per line. */
const SHORTFALLS = "limits";

/**
 * Puts itself under the limits, then executes the command. $1: a directory with `cgroup` and `mountinfo` as in
 * /proc/self. $2: the group's name. $3: bytes. $4: thousandths of a processor. $5: processes. 0: no limit. $6: the
 * directory for its report. RBS_CGROUP in the environment names a cgroup v2 without processes that this user may divide
 * (systemd: Delegate=yes); by default it is the agent's own.
 */
const CONFINE = String.raw`
proc=$1 name=$2 memory=$3 cpus=$4 pids=$5 told=$6
shift 6
declare -A own mount
while IFS=: read -r id controllers path; do
  if [[ $id == 0 ]]; then own[v2]=$path; else for c in ${"${controllers//,/ }"}; do own[$c]=$path; done; fi
done <"$proc/cgroup"
while read -r _ _ _ root point rest; do
  [[ $root == / ]] || continue
  case ${"${rest##* - }"} in
    "cgroup2 "*) mount[v2]=$point ;;
    "cgroup "*) for c in memory cpu pids; do [[ ,${"${rest##* }"}, != *,$c,* ]] || mount[$c]=$point; done ;;
  esac
done <"$proc/mountinfo"
wanted=()
((memory == 0)) || wanted+=(memory)
((cpus == 0)) || wanted+=(cpu)
((pids == 0)) || wanted+=(pids)
: >"$told/${GROUPS}"
: >"$told/${SHORTFALLS}"
# Locks $1, until the subshell ends, and removes the groups in it that agents have left which were killed: those without
# processes. Who makes one holds the lock until it is in it.
claim() {
  local left
  exec {lock}<"$1" && flock -w 5 "$lock" || return 0
  for left in "$1"/rbs-*; do
    [[ $left == "$1/rbs-$name" || ! $left =~ /rbs-[0-9a-f]{16}$ ]] || rmdir -- "$left"
  done
  return 0
}
v2() (
  local parent=${"${RBS_CGROUP:-${mount[v2]}${own[v2]%/}}"} c group=
  [[ -n $parent && -r $parent/cgroup.controllers ]] || return
  for c in "${"${wanted[@]}"}"; do [[ " $(<"$parent/cgroup.controllers") " == *" $c "* ]] || return; done
  for c in "${"${wanted[@]}"}"; do
    [[ " $(<"$parent/cgroup.subtree_control") " == *" $c "* ]] || echo "+$c" >"$parent/cgroup.subtree_control" || return
  done
  claim "$parent"
  group=$parent/rbs-$name
  [[ -d $group ]] || mkdir -- "$group" || return
  echo "$group" >>"$told/${GROUPS}"
  if ((memory)); then
    echo "$memory" >"$group/memory.max" || return
    [[ ! -e $group/memory.swap.max ]] || echo 0 >"$group/memory.swap.max" || return
  fi
  ((cpus == 0)) || echo "$((cpus * 100)) 100000" >"$group/cpu.max" || return
  ((pids == 0)) || echo "$pids" >"$group/pids.max" || return
  echo $$ >"$group/cgroup.procs"
)
v1() (
  local parent=${"${mount[$1]}${own[$1]%/}"} group=
  [[ -n ${"${mount[$1]}"} && -n ${"${own[$1]}"} ]] || return
  claim "$parent"
  group=$parent/rbs-$name
  [[ -d $group ]] || mkdir -- "$group" || return
  echo "$group" >>"$told/${GROUPS}"
  case $1 in
    memory) echo "$memory" >"$group/memory.limit_in_bytes" || return ;;
    cpu) echo 100000 >"$group/cpu.cfs_period_us" && echo "$((cpus * 100))" >"$group/cpu.cfs_quota_us" || return ;;
    pids) echo "$pids" >"$group/pids.max" || return ;;
  esac
  echo $$ >"$group/cgroup.procs"
)
by_itself() {
  case $1 in
    memory)
      ulimit -d "$((memory / 1024))" && echo "its memory is limited for each process by itself" && return
      echo "its memory is not limited" ;;
    cpu)
      local allowed part list= left=$(((cpus + 999) / 1000))
      read -r _ allowed < <(grep Cpus_allowed_list: /proc/self/status)
      for part in ${"${allowed//,/ }"}; do
        for ((c = ${"${part%-*}"}; c <= ${"${part#*-}"} && left > 0; c++, left--)); do list+=,$c; done
      done
      taskset -pc "${"${list#,}"}" $$ >/dev/null && echo "its processors are limited to whole ones, chosen by number" && return
      echo "its processors are not limited" ;;
    pids) echo "the number of its processes is not limited" ;;
  esac
}
if ! v2 2>/dev/null; then
  for controller in "${"${wanted[@]}"}"; do
    v1 "$controller" 2>/dev/null || by_itself "$controller" >>"$told/${SHORTFALLS}" 2>/dev/null
  done
fi
exec "$@"
`;

/** Whether there is any limit. */
export function isLimited({ memoryBytes, cpuMillis, pids }: ResourceLimits): boolean {
  return memoryBytes > 0 || cpuMillis > 0 || pids > 0;
}

/**
 * The program and arguments that put a command under limits; the command follows.
 *
 * @param storageDirectory The session's; must exist. Another agent of the same session gets the same group.
 * @param proc Replaces /proc/self; for tests.
 */
export function confinedCommand(
  { memoryBytes, cpuMillis, pids }: ResourceLimits,
  { storageDirectory, proc = "/proc/self" }: { storageDirectory: string; proc?: string },
): string[] {
  const name = createHash("md5").update(storageDirectory).digest("hex").slice(0, 16);
  const numbers = [memoryBytes, cpuMillis, pids].map(String);
  return ["bash", "-c", CONFINE, "bash", proc, name, ...numbers, storageDirectory];
}

/**
 * Which limits of the session that was just started are not enforced: a sentence for the developer; undefined if all
 * are.
 */
export function limitsWarning(storageDirectory: string): string | undefined {
  let shortfalls: string[] = [];
  try {
    shortfalls = Deno.readTextFileSync(join(storageDirectory, SHORTFALLS)).split("\n").filter((line) => line !== "");
  } catch {
    // The session was not started under limits.
  }
  if (shortfalls.length === 0) return undefined;
  return `This session is not kept to its limits as it should be, since the agent's machine gives it no control group: ${
    shortfalls.join("; ")
  }. Name a delegated cgroup v2 without processes with RBS_CGROUP.`;
}

/** Removes the control groups of a session whose processes are gone. */
export async function removeGroups(storageDirectory: string): Promise<void> {
  // The last process may end a moment after its parent.
  const script = `while read -r group; do
  for attempt in 1 2 3 4 5; do rmdir -- "$group" 2>/dev/null && break; sleep 0.1; done
  [[ ! -d $group ]] || echo "$group"
done <"$1"`;
  const { stdout } = await shell(script, [join(storageDirectory, GROUPS)]);
  if (stdout !== "") log(`control groups could not be removed: ${stdout.trim()}`);
}
