/** What the programs of a session may do to processes that are not the session's: nothing, and to outlive it: not that either. */
import assert from "node:assert/strict";
import { eventually } from "../support/eventually.ts";
import { isAlive, processesNaming } from "../mirror/support/processes.ts";
import { inSession, KINDS } from "./sessions.ts";

/** Is in the arguments of what a test starts, and nowhere else. */
function newMarker(): string {
  return `6${Math.random().toString().slice(2, 12)}`;
}

/** A daemon as old Unix makes them: forked twice, leads a session of its own, and heeds no signal. $ARGV[0]: its marker. */
const DAEMON = `
  use POSIX;
  fork and exit 0;
  POSIX::setsid();
  fork and exit 0;
  $SIG{$_} = "IGNORE" for grep { !/^(KILL|STOP|NUM|RTM|CHLD|CLD|ZERO|__)/ } keys %SIG;
  open STDIN, "<", "/dev/null"; open STDOUT, ">", "/dev/null"; open STDERR, ">", "/dev/null";
  chdir "/";
  sleep 1 for 1 .. 600;
`;

/** The agent's end, by how it comes about. */
const ENDS: Record<string, Deno.Signal> = { "that is ended": "SIGTERM", "that is killed": "SIGKILL" };

for (const kind of KINDS) {
  for (const [how, signal] of Object.entries(ENDS)) {
    Deno.test(`a daemon does not outlive a session ${kind.whose} ${how}`, async () => {
      await inSession(kind, {}, async ({ agent, perl }) => {
        const marker = newMarker();
        assert.equal((await perl(DAEMON, marker)).code, 0);
        const daemons = () => processesNaming(marker);
        await eventually(async () => (await daemons()).length === 1, "the daemon runs");
        const [{ pid }] = await daemons();
        agent.process.kill(signal);
        await agent.process.status;
        await eventually(async () => !await isAlive(pid), "it is gone");
        assert.deepEqual(await daemons(), []);
      });
    });
  }

  Deno.test(`no program of a session ${kind.whose} sees, traces, reads or signals the agent, or anything else outside`, async () => {
    await inSession(kind, {}, async ({ agent, perl, serves }) => {
      const outside = [agent.process.pid, Deno.pid, Deno.ppid];
      // All numbers that it can see, and those that it must not.
      const { stdout, stderr } = await perl(
        `
        use POSIX;
        my %seen = map { $_ => 1 } grep { /^\\d+$/ } map { s{^/proc/}{}r } glob("/proc/[0-9]*");
        print "count ", scalar(keys %seen), "\\n";
        for my $pid (keys %seen) {
          print "exe $pid ", readlink("/proc/$pid/exe"), "\\n";
          print "fd $pid ", readlink, "\\n" for glob("/proc/$pid/fd/*");
        }
        my ($ptrace, $attach) = ((POSIX::uname())[4] eq "aarch64" ? 117 : 101, 16);
        for my $pid (@ARGV) {
          next if $seen{$pid};
          print "directory $pid\\n" if -e "/proc/$pid";
          for my $file (qw(environ mem maps fd/0 root/etc/passwd cwd exe)) {
            print "opened $pid $file\\n" if open my $f, "<", "/proc/$pid/$file";
          }
          print "signalled $pid\\n" if kill 0, $pid;
          print "traced $pid\\n" if syscall($ptrace, $attach, $pid + 0, 0, 0) == 0;
        }
        print "parent ", getppid(), "\\n";
        `,
        ...outside.map(String),
      );
      assert.match(stdout, /^count \d+$/m, stderr);
      assert.match(stdout, /^exe \d+ .*perl/m, "it sees its own");
      assert.doesNotMatch(stdout, /^(directory|opened|signalled|traced) /m);
      assert.doesNotMatch(stdout, /^exe \d+ .*deno/m);
      // What was left open for it would be the agent's: its sockets, its log, its database.
      const open = [...stdout.matchAll(/^fd \d+ (.*)$/gm)].map(([, target]) => target);
      assert.deepEqual(
        open.filter((target) =>
          !/^(pipe:|anon_inode:\[(eventfd|signalfd)\]|\/dev\/(null|pts|tty)|\/.*\/ctl\/|\/proc\/)/.test(target) &&
          target !== ""
        ),
        [],
      );
      assert(await serves());
    });
  });
}

const LIMIT = 120;

for (const kind of KINDS) {
  Deno.test(`a fork bomb in a session ${kind.whose} with a limit of processes ends at the limit, and the session goes on`, async () => {
    await inSession(kind, { limits: { pids: LIMIT } }, async ({ agent, warnings, serves, supervisor }) => {
      if (!kind.grouped) {
        // Nobody is promised what cannot be kept: then the developer is told, and nothing is tried here.
        assert.match(warnings.join(), /number of its processes is not limited/);
        return;
      }
      assert.deepEqual(warnings, []);
      const marker = newMarker();
      // It would stop by itself at ten times the limit, so that a test that fails costs no machine.
      using bomb = agent.execute({
        args: [
          "/usr/bin/perl",
          "-e",
          `$| = 1; my $n = 0;
           for (1 .. ${10 * LIMIT}) { my $pid = fork; last unless defined $pid; if (!$pid) { sleep 600; exit } $n++ }
           print "forked $n\\n"; sleep 600;`,
          marker,
        ],
      });
      await bomb.says("forked");
      const forked = Number(/forked (\d+)/.exec(bomb.stdout)![1]);
      assert(forked > 10 && forked < LIMIT, String(forked));
      // The agent is not in the group, and goes on: it takes the signal, and the bomb is gone.
      await bomb.signal("KILL");
      await bomb.result;
      await eventually(async () => (await processesNaming(marker)).length === 0, "the bomb is gone");
      assert(await serves());
      supervisor.call.send({ message: { case: "stop", value: { graceMs: 0 } } });
      assert.equal((await agent.process.status).code, 0);
    });
  });
}
