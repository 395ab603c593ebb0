/**
 * Confines sessions of an agent that runs as root.
 *
 * Root without capabilities is still root: access to root's files, to kernel settings (/proc/sys) and to devices
 * depends on the user id alone, and linux-sandbox needs a writable /proc. So a session of root runs under other ids: in
 * a user namespace in which 0 maps to an id that no user of the machine has. To the machine the session is a stranger,
 * with the rights that everybody has. In its own directories, which are mounted with shifted ids ("idmapped" mounts,
 * Linux 5.12), it is root, and what it writes belongs to root on the disk.
 *
 * Root makes all mounts beforehand: the kernel locks them in a less privileged user namespace, so they can be neither
 * removed nor changed.
 */
import { dirname } from "node:path";
import { isAtOrIn } from "../../proto/base/absolute_path.ts";
import { systemFolderOf } from "../../proto/base/system_folders.ts";

/** First id of the session on the machine: above those that useradd, systemd and containers allocate. */
const FIRST_ID = 0x7F00_0000;
/** Number of ids of the session: those of all ordinary users. */
const IDS = 65_536;

/**
 * Placeholder in a command for the user namespace, which is passed as a file descriptor. The descriptor stays open in
 * the session, and reveals no more than /proc/self/ns/user.
 */
const NAMESPACE = "the session's user namespace";

/** Numbers of system calls that Perl has no functions for, and that differ between architectures. */
const CALLS = Deno.build.arch === "x86_64"
  ? { close: 3, unshare: 272, setns: 308, prctl: 157, mount: 165 }
  : { close: 57, unshare: 97, setns: 268, prctl: 167, mount: 40 };

/** AUDIT_ARCH_X86_64 and AUDIT_ARCH_AARCH64. */
const ARCHITECTURE = Deno.build.arch === "x86_64" ? 0xc000_003e : 0xc000_00b7;

/**
 * System calls that can give a file the set-user-id or set-group-id bit, or capabilities. `mode` and `flags` are the
 * indices of these arguments. With `errno` the call is refused as a whole, since a filter cannot read memory behind
 * pointers.
 */
const GIVING_RIGHTS: readonly { call: number; mode?: number; flags?: number; errno?: number }[] = [
  ...Deno.build.arch === "x86_64"
    ? [
      { call: 90, mode: 1 }, // chmod
      { call: 91, mode: 1 }, // fchmod
      { call: 268, mode: 2 }, // fchmodat
      { call: 2, mode: 2, flags: 1 }, // open
      { call: 257, mode: 3, flags: 2 }, // openat
      { call: 85, mode: 1 }, // creat
      { call: 133, mode: 1 }, // mknod
      { call: 259, mode: 2 }, // mknodat
      ...[188, 189, 190].map((call) => ({ call, errno: 95 })), // setxattr, lsetxattr, fsetxattr: ENOTSUP
    ]
    : [
      { call: 52, mode: 1 },
      { call: 53, mode: 2 },
      { call: 56, mode: 3, flags: 2 },
      { call: 33, mode: 2 },
      ...[5, 6, 7].map((call) => ({ call, errno: 95 })),
    ],
  { call: 452, mode: 2 }, // fchmodat2
  { call: 437, errno: 38 }, // openat2: ENOSYS, as before Linux 5.6
  { call: 463, errno: 38 }, // setxattrat
  { call: 425, errno: 1 }, // io_uring_setup: EPERM, as where it is disabled
];

/** Makes the user namespace, unless it exists. It does not depend on the session. */
export const USER_NAMESPACE = String.raw`
$^F = 255;
our $namespace;
sub make_namespace {
  pipe(my $ready, my $up) and pipe(my $wait, my $done) or die "no pipe: $!\n";
  my $child = fork // die "no process: $!\n";
  if (!$child) {
    close $_ for $ready, $done;
    syswrite $up, "." if syscall(${CALLS.unshare}, 0x10000000) == 0;
    close $up;
    sysread $wait, my $word, 1;
    exit;
  }
  close $_ for $up, $wait;
  sysread $ready, my $word, 1 or die "user namespaces are not allowed\n";
  for my $map ("uid_map", "gid_map") {
    open my $file, ">", "/proc/$child/$map" or die "$map: $!\n";
    syswrite $file, "0 ${FIRST_ID} ${IDS}\n" or die "$map: $!\n";
  }
  open $namespace, "<", "/proc/$child/ns/user" or die "its user namespace: $!\n";
  close $_ for $done, $ready;
  waitpid $child, 0;
}
$namespace or make_namespace();
`;

/**
 * Makes the user namespace, and mounts each path before "--" with shifted ids, including the mounts below it where
 * their file systems support that. Then executes the rest.
 *
 * In Perl, since util-linux has programs for these system calls only since 2.39; their numbers are the same on all
 * machines. No symlink is followed: the paths are real ones, and a path that has become a symlink since is an attack.
 */
const SHIFT = String.raw`
# Before bwrap, or in its place.
${USER_NAMESPACE}
my ($openat2, $open_tree, $move_mount, $mount_setattr) = (437, 428, 429, 442);
my $nothing = "";
open my $table, "<", "/proc/self/mountinfo" or die "mountinfo: $!\n";
my @points = map { my $point = (split / /)[4]; $point =~ s/\\([0-7]{3})/chr oct $1/ge; $point } <$table>;
close $table;
sub is_in { my ($path, $folder) = @_; return $path eq $folder || index($path, $folder eq "/" ? "/" : "$folder/") == 0 }
sub locate { my ($path) = @_; my $how = pack "Q3", 012000000, 0, 4; return syscall $openat2, -100, $path, $how, 24 }
sub copy {
  my ($path) = @_;
  my $at = locate($path);
  return if $at < 0;
  my $copy = syscall $open_tree, $at, $nothing, 0x1001 | 02000000;
  return if $copy < 0;
  my $attributes = pack "Q4", 0x00100006, 0, 0, fileno $namespace;
  return ($copy, syscall($mount_setattr, $copy, $nothing, 0x1000, $attributes, 32) == 0);
}
my %shifted;
while (@ARGV and (my $path = shift @ARGV) ne "--") {
  my $must = $path =~ s/^!//;
  my ($within) = sort { length $b <=> length $a } grep { is_in($path, $_) } @points, keys %shifted;
  next if $shifted{$within // ""};
  # What is mounted in it is taken before it is covered.
  my @mounts;
  for my $point ($path, sort { length $a <=> length $b } grep { $_ ne $path && is_in($_, $path) } keys %{{ map { $_ => 1 } @points }}) {
    my ($copy, $ok) = copy($point);
    if (!$ok and $point eq $path) {
      my $why = "$path: its file system cannot be mounted with other user ids ($!)\n";
      die $why if $must;
      print STDERR $why;
      last;
    }
    push @mounts, [$point, $copy, $ok] if defined $copy;
  }
  for (@mounts) {
    my ($point, $copy, $ok) = @$_;
    my $at = locate($point);
    $at >= 0 and syscall($move_mount, $copy, $nothing, $at, $nothing, 0x44) == 0 or die "$point: it cannot be mounted: $!\n";
    $shifted{$point} = 1 if $ok;
  }
}
`;

/** Executes what follows the paths: a maker that ends with {@link ENTER}. */
const MAKER = String.raw`
$_ eq "${NAMESPACE}" and $_ = fileno $namespace for @ARGV;
exec @ARGV;
die "$ARGV[0]: $!\n";
`;

/**
 * Makes the mounts that follow the paths, three words each and then "--". This process enters the user namespace
 * itself, so a session starts as fast as without one. What is to be shown below a covered directory is opened before.
 */
const MOUNTS = String.raw`
sub mounted { my ($from, $to, $type, $flags, $data) = @_; syscall(${CALLS.mount}, $from, $to, $type, $flags, $data) == 0 or die "$to: $!\n" }
sub folder { my ($path) = @_; return if -d $path; folder($path =~ s{/[^/]*$}{}r); mkdir $path, 0755 or die "$path: $!\n" }
my @mounts;
while (@ARGV and $ARGV[0] ne "--") { push @mounts, [splice @ARGV, 0, 3] }
shift @ARGV;
for (grep { $_->[0] eq "show" } @mounts) {
  my ($how, $from, $to) = @$_;
  my $at = locate($from);
  $at >= 0 and ($_->[3] = syscall($open_tree, $at, $nothing, 0x9001 | 02000000)) >= 0 or die "$from: $!\n";
}
for (@mounts) {
  my ($how, $from, $to, $copy) = @$_;
  if ($how eq "bind") { mounted($from, $to, $nothing, 0x5000, $nothing) }
  elsif ($how eq "empty") { my ($type, $data) = ("tmpfs", "mode=755"); mounted($type, $to, $type, 6, $data) }
  elsif ($how eq "lock") { mounted($nothing, $to, $nothing, 0x1027, $nothing) }
  elsif ($how eq "unreadable") { mounted($from, $to, $nothing, 0x1000, $nothing); mounted($nothing, $to, $nothing, 0x102f, $nothing) }
  elsif ($how eq "show") {
    folder($to);
    my $at = locate($to);
    $at >= 0 and syscall($move_mount, $copy, $nothing, $at, $nothing, 0x44) == 0 or die "$to: it cannot be mounted: $!\n";
  }
}
my $fd = fileno $namespace;
`;

/**
 * CAP_CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP and SETFCAP: what root needs for its own
 * files, and linux-sandbox to be root in its own user namespace. They are valid only in the session's user namespace.
 */
const CAPABILITIES = [0, 1, 3, 4, 5, 6, 7, 8, 31];

/**
 * The seccomp filter that refuses {@link GIVING_RIGHTS}, as values for Perl's pack "SCCL". A file of root in the
 * session's directories is a file of root on the disk, and other users can execute it: with the set-user-id bit or
 * capabilities, such a program would make them root.
 */
function filter(): string {
  const LOAD = 0x20, EQUAL = 0x15, AT_LEAST = 0x35, ANY_BIT = 0x45, RETURN = 0x06;
  const ALLOW = [RETURN, 0, 0, 0x7fff_0000];
  const refuse = (errno: number) => [RETURN, 0, 0, 0x0005_0000 + errno];
  const argument = (i: number) => [LOAD, 0, 0, 16 + 8 * i];
  const mode = (i: number) => [argument(i), [ANY_BIT, 0, 1, 0o6000], refuse(1), ALLOW];
  const program = [[LOAD, 0, 0, 4], [EQUAL, 1, 0, ARCHITECTURE], refuse(38), [LOAD, 0, 0, 0]];
  // System calls of the x32 ABI.
  program.push([AT_LEAST, 0, 1, 0x4000_0000], refuse(38));
  for (const { call, mode: at, flags, errno } of GIVING_RIGHTS) {
    const block = at === undefined ? [refuse(errno!)] : mode(at);
    // Without O_CREAT or O_TMPFILE there is no mode.
    if (flags !== undefined) block.unshift(argument(flags), [ANY_BIT, 0, 3, 0x40_0040]);
    program.push([EQUAL, 0, block.length, call], ...block);
  }
  return [...program, ALLOW].flat().join(", ");
}

/**
 * Enters the user namespace that is open as $1, locks all mounts by a new mount namespace, drops all but
 * {@link CAPABILITIES}, and executes the rest. Asks again to be killed with its parent, which a process loses when its
 * ids change.
 */
const INTO = String.raw`
my ($setns, $unshare, $prctl) = (${CALLS.setns}, ${CALLS.unshare}, ${CALLS.prctl});
syscall($setns, $fd + 0, 0x10000000) == 0 or die "the session's user namespace: $!\n";
# By its number, since Perl counts who else has it open.
syscall ${CALLS.close}, $fd + 0;
$) = "0 0"; $( = 0; $< = $> = 0;
$> == 0 && $< == 0 && $) eq "0 0" && $( eq "0 0" or die "the session's user: $!\n";
syscall($unshare, 0x00020000) == 0 or die "the session's mounts: $!\n";
my %kept = map { $_ => 1 } ${CAPABILITIES.join(", ")};
for (my $cap = 0; $cap < 64; $cap++) { $kept{$cap} or syscall($prctl, 24, $cap, 0, 0, 0) == 0 or last }
syscall($prctl, 1, 9, 0, 0, 0) == 0 or die "the session's end: $!\n";
my @words = (${filter()});
my $rules = pack "(SCCL)*", @words;
my $filter = pack "S x![P] P", @words / 4, $rules;
syscall($prctl, 22, 2, $filter, 0, 0) == 0 or die "the session's system calls: $!\n";
exec @ARGV;
die "$ARGV[0]: $!\n";
`;

const ENTER = `my $fd = shift @ARGV;${INTO}`;

/** Makes the namespaces of root's sessions; the command follows. */
export const ROOTS_UNSHARE = [
  ...["unshare", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc"],
  // Later mounts on this machine are visible inside, as for a Bazel server beside the developer. They appear below our
  // covers.
  ...["--propagation", "slave"],
];

/**
 * The programs around a namespace's maker that set the session's rights.
 *
 * @param own See {@link ownFolders}; undefined if the session is not confined.
 */
export function rights(own: readonly string[] | undefined): { begin: readonly string[]; enter: readonly string[] } {
  return own === undefined
    ? { begin: [], enter: [] }
    : { begin: shiftedIds(own), enter: ["perl", "-e", ENTER, NAMESPACE] };
}

/**
 * The program and arguments that start a confined namespace, once its mount and pid namespaces exist and before
 * anything is mounted. The maker follows. The first directory is mandatory.
 */
function shiftedIds([storage, ...others]: readonly string[]): string[] {
  return ["perl", "-e", SHIFT + MAKER, `!${storage}`, ...others, "--"];
}

/** A mount of a confined session: how, from, to. `lock` makes an `empty` mount read-only. */
export type ConfinedMount = readonly [how: "bind" | "empty" | "lock" | "unreadable" | "show", from: string, to: string];

/**
 * The program and arguments that make a whole confined namespace, once its mount and pid namespaces exist. The
 * session's first program follows.
 */
export function confinedMounts([storage, ...others]: readonly string[], mounts: readonly ConfinedMount[]): string[] {
  return ["perl", "-e", SHIFT + MOUNTS + INTO, `!${storage}`, ...others, "--", ...mounts.flat(), "--"];
}

/**
 * The directories in which a confined session of root has root's rights: real paths, its storage first. A path in a
 * system directory is never included, except in /var/tmp: there the session reads what everybody may. If a parent of a
 * path is accessible only to root, the outermost such parent is returned instead.
 *
 * @param storage The session's storage directory.
 * @param others Paths that may exist, and that no request names.
 * @param named Paths from a request. A path with a symlink that leads out of all `others` is left out: a program of an
 * earlier namespace may have made the symlink to get root's rights at its target. Such a program cannot make symlinks
 * directly in "/".
 */
export function ownFolders(storage: string, others: readonly string[], named: readonly string[] = []): string[] {
  const known = others.flatMap((path) => realPathOf(path) ?? []);
  const asked = named.flatMap((path) => {
    const real = realPathOf(path);
    if (real === undefined) return [];
    const isExpected = real === path || real === fromTop(path) || known.some((folder) => isAtOrIn(real, folder));
    return isExpected ? [real] : [];
  });
  const own = [...known, ...asked].flatMap((real) => {
    try {
      return real === "/" || isSystems(real) ? [] : [outermostClosed(real)];
    } catch {
      return [];
    }
  });
  return [...new Set([Deno.realPathSync(storage), ...own])];
}

function realPathOf(path: string): string | undefined {
  try {
    return Deno.realPathSync(path);
  } catch {
    return undefined;
  }
}

/** The path with only a symlink in "/" followed. */
function fromTop(path: string): string | undefined {
  const [, top, ...below] = path.split("/");
  const real = realPathOf(`/${top}`);
  return real && [real, ...below].join("/");
}

function isSystems(path: string): boolean {
  return systemFolderOf(path) !== undefined && !isAtOrIn(path, "/var/tmp");
}

/** The outermost parent of a path that not everybody may search; the path itself if there is none. */
function outermostClosed(path: string): string {
  const folder = dirname(path);
  if (folder === "/") return path;
  const above = outermostClosed(folder);
  return above === folder && ((Deno.statSync(folder).mode ?? 0) & 0o001) !== 0 ? path : above;
}
