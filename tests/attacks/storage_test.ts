/** What the programs of a session may do to the agent by the folders that both use: fill them, and put odd things into them. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { TestWorkspace } from "../../agent/test_agent.ts";
import { eventually } from "../support/eventually.ts";
import { isAlive } from "../mirror/support/processes.ts";
import { output } from "../support/run.ts";
import { residentMemory } from "./floods/measure.ts";
import { inSession, KINDS, quoted, type Session } from "./sessions.ts";

/** How many files are made where there are very many. The soak has a million. */
const FILES = Number(Deno.env.get("RBS_ATTACK_FILES") ?? 100_000);
/** By how much an agent may grow by what is in a session's folders, in bytes. */
const AGENT_MAX = 100 << 20;
/** How long an agent may need for what it cannot do. Milliseconds. */
const PATIENCE_MS = 90_000;

const canMount = Deno.uid() === 0;
const RULES = `genrule(name = "g", outs = ["o"], cmd = "echo $$RANDOM >$@", local = True)\n`;

/** What a promise becomes, or how it failed: but not nothing. */
async function ends<T>(what: string, promise: Promise<T>): Promise<{ value?: T; error?: Error }> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new Error(`${what} hangs`)), PATIENCE_MS);
  try {
    return await Promise.race([promise.then((value) => ({ value }), (error) => ({ error })), late.promise]);
  } finally {
    clearTimeout(timer);
  }
}

for (const kind of KINDS) {
  Deno.test({
    name: `a session ${kind.whose} that fills its disk ends no agent, and goes on when there is room`,
    ignore: !canMount,
    async fn() {
      await using workspace = await TestWorkspace.make();
      await output(["mount", "-t", "tmpfs", "-o", "size=24m", "rbs", workspace.storage]);
      try {
        await inSession(kind, { workspace }, async ({ agent, perl, serves }) => {
          const fill = `open my $f, ">", ${
            quoted(join(workspace.outputBase, "fill"))
          } or die; 1 while syswrite $f, "x" x 65536;`;
          await ends("the command that fills it", perl(fill));
          const [free] = (await output(["stat", "-f", "-c", "%a", workspace.storage])).trim().split("\n");
          // But for what the agent has tidied up since.
          assert(Number(free) < 64, `${free} blocks are free`);
          const full = await ends("a command on a full disk", agent.run(["/bin/true"]));
          assert(full.value?.code === 0 || full.error, "it does nothing else");
          if (full.error) assert.match(full.error.message, /^[^\n]+\.$/, "it is not one sentence");
          assert(await isAlive(agent.process.pid));
          await Deno.remove(join(workspace.storage, "out/fill"));
          await eventually(serves, "it goes on");
        });
      } finally {
        await output(["umount", workspace.storage]);
      }
    },
  });
}

for (const synced of [false, true]) {
  const [kind] = KINDS;
  Deno.test(`${FILES} files in the folders of a ${synced ? "synced" : "shared"} session cost the agent no memory, and the next one no start`, async () => {
    await using workspace = await TestWorkspace.make("ws", RULES, synced ? dirnameOfSynced() : "/var/tmp");
    const many = [join(workspace.outputBase, "execroot/many"), join(workspace.workspace, "many")];
    const grows = async ({ agent, serves }: Session, act: () => Promise<unknown>) => {
      const before = (await residentMemory(agent.process.pid))!;
      await act();
      assert(await serves());
      const grown = (await residentMemory(agent.process.pid))! - before;
      assert(grown < AGENT_MAX, `${grown >> 20} MB more`);
    };
    await inSession(kind, { workspace, synced }, (session) =>
      grows(session, async () => {
        const { code, stderr } = await session.perl(
          `my $each = shift; for my $dir (@ARGV) {
             my $at = ""; for (split "/", substr $dir, 1) { $at .= "/$_"; mkdir $at }
             for (1 .. $each) { open my $f, ">", "$dir/" . "x" x 100 . $_ or die "$dir: $!" }
           }`,
          ...[String(FILES / many.length), ...many],
        );
        assert.equal(code, 0, stderr);
      }));
    // Its successor finds them.
    await inSession(kind, { workspace, synced }, (session) => grows(session, async () => {}));
  });
}

function dirnameOfSynced(): string {
  return canMount ? "/" : Deno.env.get("HOME")!;
}

/**
 * What is put in the place of a file: a program of perl for its path in $path. Files and devices without an end are
 * impostor_test's and beneath_test's: a client of the session's own reads them for as long as they last.
 */
const SWAPS: Record<string, string> = {
  "a fifo": `POSIX::mkfifo($path, 0666)`,
  "a link to a fifo": `POSIX::mkfifo("$path.fifo", 0666) && symlink("$path.fifo", $path)`,
  "a folder": `mkdir $path`,
  "a socket": `IO::Socket::UNIX->new(Local => $path, Listen => 1)`,
};

for (const kind of KINDS) {
  // The agent of root reads the same folders in the same way, whatever has made the namespace.
  const isAnother = kind !== KINDS[0] && kind.options.unprivileged !== true && Deno.uid() === 0;
  for (const [what, swap] of Object.entries(SWAPS).slice(0, isAnother ? 1 : undefined)) {
    Deno.test(`${what} in the place of each file that agent and Bazel server share hangs nobody, in a session ${kind.whose}`, async () => {
      await using workspace = await TestWorkspace.make("ws", RULES);
      const startupOptions = workspace.startupOptions({ user: kind.options.unprivileged ? "nobody" : undefined });
      await inSession(kind, { workspace, startupOptions }, async ({ agent, perl, serves }) => {
        const first = await agent.run(["bazel", "build", "//:g"]);
        assert.equal(first.code, 0, first.stderr);
        const before = (await residentMemory(agent.process.pid))!;
        const swapped = await ends(
          "the swap",
          perl(
            `use POSIX; use IO::Socket::UNIX;
             my ($base, $control) = @ARGV;
             open my $p, "<", "$base/server/server.pid.txt"; my $server = <$p>;
             for my $path (glob("$base/server/*"), "$base/server/server.starttime", "$base/javalog.properties",
                           "$base/command.log", "$base/java.log", "$base/lock", grep { /\\.(pid|sh|in|out|err)$/ } glob("$control/*")) {
               next if -d $path && !-l $path;
               unlink $path; unlink "$path.fifo";
               (${swap}) or die "$path: $!";
             }
             print "swapped\\n";
             kill "KILL", $server;
             # Until it is gone nobody makes its files anew, and the session's own client would read from its fifo for ever.
             select undef, undef, undef, 0.01 while kill 0, $server;`,
            ...[workspace.outputBase, join(workspace.storage, "ctl")],
          ),
        );
        // Its own outputs are among what it swaps, so that its end may be lost; but it did what it wanted.
        assert.equal(swapped.value?.code ?? 0, 0, String(swapped.value?.stderr));
        // With a new server, or with a sentence that says why there is none.
        const built = await ends("a build", agent.run(["bazel", "build", "//:g"]));
        if (built.error) assert.match(built.error.message, /^[^\n]+\.$/, "it is not one sentence");
        assert(await isAlive(agent.process.pid));
        const grown = (await residentMemory(agent.process.pid))! - before;
        assert(grown < AGENT_MAX, `${grown >> 20} MB more`);
        assert((await ends("a command", serves())).value, "it serves");
      });
    });
  }
}
