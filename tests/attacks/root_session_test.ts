/** A program of a session tries to get at what the namespace hides, and at the machine: above all where agents are root. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { SESSION_KINDS, TestAgent, TestWorkspace } from "../../agent/test_agent.ts";

const IS_ROOT = Deno.uid() === 0;

const SYSTEM = ["/etc", "/usr/bin", "/usr/lib", "/boot", "/etc/cron.d", "/var/spool", "/opt"];

/**
 * Each line of output: an attack, and "held" or what it got. $1: the state directory. $2: a name for files. $3: shared or
 * synced. Nothing of it
 * does harm where it succeeds.
 */
const ATTACKS = String.raw`
state=$1 name=$2
looks() { cat "$state/keys/authority.pem" 2>/dev/null; }
tell() { if [[ -n $2 ]]; then echo "$1: $2"; else echo "$1: held"; fi; }
tell 'reading the key' "$(looks)"
tell 'umount' "$(umount "$state" 2>/dev/null; umount -l "$state/storage" 2>/dev/null; umount -l "$state" 2>/dev/null; looks)"
tell 'umount in a user namespace' "$(unshare --user --map-root-user --mount bash -c 'umount "$1"; umount -l "$1"; cat "$1/keys/authority.pem"' _ "$state" 2>/dev/null)"
tell 'a bind without submounts' "$(unshare --user --map-root-user --mount bash -c 'mkdir -p /tmp/"$2"; mount --bind "${"${1%/*}"}" /tmp/"$2" && cat /tmp/"$2/${"${1##*/}"}"/keys/authority.pem; rmdir /tmp/"$2"' _ "$state" "$name" 2>/dev/null)"
# In a synced session these are folders of its own.
[[ $3 == synced ]] || tell 'moving the state away' "$(mv "$state" "$state.$name" 2>/dev/null && echo moved)"
[[ $3 == synced ]] || tell 'moving what is above it away' "$(mv "${"${state%/*}"}" "${"${state%/*}"}.$name" 2>/dev/null && echo moved && mv "${"${state%/*}"}.$name" "${"${state%/*}"}")"
tell 'remounting /etc' "$(mount -o remount,rw /etc 2>/dev/null; mount -o remount,bind,rw /etc 2>/dev/null; touch "/etc/$name" 2>/dev/null && echo written)"
tell 'writing in system folders' "$(for folder in ${
  SYSTEM.join(" ")
}; do touch "$folder/$name" 2>/dev/null && echo "$folder"; done)"
tell 'a setting of the kernel' "$(for file in /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /sys/kernel/uevent_helper; do { cat "$file" >/tmp/"$name" && cat /tmp/"$name" >"$file"; } 2>/dev/null && echo "$file"; done; rm -f /tmp/"$name")"
tell 'a setting of the kernel, by a proc of its own' "$(unshare --user --map-root-user --mount --pid --fork bash -c 'mount -t proc proc /proc && { cat /proc/sys/kernel/core_pattern >/tmp/"$1" && cat /tmp/"$1" >/proc/sys/kernel/core_pattern; } && echo written; rm -f /tmp/"$1"' _ "$name" 2>/dev/null)"
tell 'a device made' "$(mknod "/tmp/$name" b 254 0 2>/dev/null && echo made; rm -f "/tmp/$name")"
tell 'a device opened' "$(for device in /dev/vd? /dev/sd? /dev/nvme?n? /dev/mem; do [[ -r $device ]] && echo "$device"; done)"
tell 'processes of the machine' "$(for process in /proc/[0-9]*; do tr '\0' ' ' <"$process/cmdline"; done 2>/dev/null | grep -a "[m]ain.ts\|[a]gent.js")"
tell 'the root of the machine by a process' "$(for process in /proc/[0-9]*; do cat "$process/root$state/keys/authority.pem"; done 2>/dev/null)"
tell 'descriptors of the machine' "$(for fd in /proc/self/fd/* /proc/1/fd/*; do cat "$fd/../../../../../../..$state/keys/authority.pem"; done 2>/dev/null)"
tell 'control groups' "$(for folder in /sys/fs/cgroup /sys/fs/cgroup/*/; do mkdir "$folder/$name" 2>/dev/null && rmdir "$folder/$name" && echo "$folder"; done)"
tell 'capabilities of the machine' "$(chroot / true 2>/dev/null; nsenter --target 1 --mount true 2>/dev/null && [[ $(readlink /proc/self/ns/user) == "$HOST_USER_NS" ]] && [[ $(sed -n 's/^CapEff:\s*//p' /proc/self/status) != 0000000000000000 ]] && echo some)"
# Who is root in here is root to the disk. An ordinary user's own bits give away what is that user's.
rights() {
  local program=/tmp/"$name.$1"
  cp /bin/true "$program"
  "$@" "$program" 2>/dev/null
  [[ ! -u $program && ! -g $program && -z $(perl -e 'my ($n, $p, $a, $v) = (@ARGV, "security.capability", "\0" x 64); syscall($n + 0, $p, $a, $v, 64) > 0 and print 1' "$getxattr" "$program") ]] || echo "$1"
  rm -f "$program"
}
if [[ $(uname -m) == x86_64 ]]; then setxattr=188 getxattr=191; else setxattr=5 getxattr=8; fi
capable() { perl -e 'my ($n, $p, $a) = (@ARGV, "security.capability"); my $v = pack "L5", 0x02000001, 1 << 7, 0, 0, 0; syscall $n + 0, $p, $a, $v, length $v, 0' "$setxattr" "$1"; }
created() { rm -f "$1"; perl -MFcntl -e 'umask 0; sysopen my $file, $ARGV[0], O_CREAT | O_WRONLY, 04755' "$1"; }
made() { rm -f "$1"; perl -e 'umask 0; syscall '"$mknodat"', -100, $ARGV[0], 0104755, 0' "$1"; }
if [[ $(uname -m) == x86_64 ]]; then mknodat=259; else mknodat=33; fi
[[ $EUID != 0 ]] || tell 'a program that makes whoever executes it root' "$(rights chmod 4755; rights chmod 2755; rights capable; rights created; rights made)"
echo 'all: tried'
`;

for (const [whose, options] of SESSION_KINDS) {
  for (const mode of ["shared", "synced"] as const) {
    Deno.test(`a program of a ${mode} session ${whose} gets neither at the keys nor at the machine`, async () => {
      // A synced session has nothing of the developer's in a system folder.
      await using workspace = await TestWorkspace.make("ws", "", mode === "synced" && IS_ROOT ? "/" : undefined);
      const state = join(workspace.root, "up/state");
      await Deno.mkdir(join(state, "keys"), { recursive: true });
      await Deno.writeTextFile(join(state, "keys/authority.pem"), "the key");
      const name = `rbs-attack-${crypto.randomUUID()}`;
      const hidden = [state, join(state, "storage")];
      await using agent = await TestAgent.start(workspace, {
        storage: join(state, "storage/ann/ws"),
        ...mode === "synced" ? { syncedWithout: hidden } : { hidden },
        ...options,
      });
      using supervisor = agent.supervise();
      await supervisor.ready();
      const host = Deno.readLinkSync("/proc/self/ns/user");
      const { stdout } = await agent.run(["/bin/bash", "-c", ATTACKS, "bash", state, name, mode], {
        env: { HOST_USER_NS: host },
      });
      for (const folder of SYSTEM) await Deno.remove(join(folder, name)).catch(() => {});
      const said = stdout.trim().split("\n");
      assert.equal(said.at(-1), "all: tried", stdout);
      assert.deepEqual(said.filter((line) => !/: (held|tried)$/.test(line)), []);
      assert(said.length > 15);
    });
  }
}
