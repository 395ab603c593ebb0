/** Unix sockets of this machine, and its cloud's metadata service: who in a session can talk to them, and who cannot. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { output, start } from "../support/run.ts";
import { tempDir } from "../support/temp_dir.ts";
import { twoMachines } from "../support/two_machines.ts";
import { BAZEL, Exit, rig, test } from "../mirror/support/rig.ts";
import { inSession, KINDS, quoted, type SessionOptions } from "./sessions.ts";

/** Where AWS, Google Cloud, Azure and others answer whoever asks: with the machine's own credentials. */
const METADATA = "169.254.169.254";

const bwrap = await output(["sh", "-c", "command -v bwrap || true"]);
if (bwrap === "") console.log("sockets_test: no bubblewrap here, so no session has a network of its own");

/** A listener on a Unix socket that greets whoever connects. @param name With a NUL first: an abstract one. */
async function greeter(name: string) {
  const process = start(["perl", "-e", GREETER, name.startsWith("\0") ? "abstract" : "file", name.replace("\0", "")]);
  await process.says(/listens/);
  return process;
}

const GREETER = `
  use IO::Socket::UNIX;
  my ($kind, $name) = @ARGV;
  my $listener = IO::Socket::UNIX->new(Local => ($kind eq "abstract" ? "\\0" : "") . $name, Listen => 5) or die "$!";
  chmod 0777, $name if $kind eq "file";
  $| = 1;
  print "listens\\n";
  while (my $client = $listener->accept) { print $client "outside\\n"; close $client }
`;

/** Connects to a Unix socket, and prints what it is told, or "refused". */
function visit(name: string): string {
  return `
    use IO::Socket::UNIX;
    my $socket = IO::Socket::UNIX->new(Peer => ${quoted(name)}) or do { print "refused"; exit };
    print scalar <$socket>;
  `;
}

/** What a program of the session hears at the two kinds of socket. */
async function heard(kind: typeof KINDS[number], options: SessionOptions): Promise<{ abstract: string; file: string }> {
  // Not below /tmp: that a synced session has for itself.
  await using directory = await tempDir("rbs-socket-", "/var/tmp");
  await Deno.chmod(directory.path, 0o755);
  const names = { abstract: `\0rbs-${crypto.randomUUID()}`, file: directory.join("socket") };
  await using _abstract = await greeter(names.abstract);
  await using _file = await greeter(names.file);
  const result = { abstract: "", file: "" };
  await inSession(kind, options, async ({ perl }) => {
    for (const one of ["abstract", "file"] as const) result[one] = (await perl(visit(names[one]))).stdout.trim();
  });
  return result;
}

for (const kind of KINDS) {
  Deno.test({
    name: `a session ${kind.whose} with a network of its own reaches no abstract socket; a synced one no file's either`,
    ignore: bwrap === "",
    async fn() {
      assert.deepEqual(await heard(kind, { unshareNet: true }), { abstract: "refused", file: "outside" });
      assert.deepEqual(await heard(kind, { unshareNet: true, synced: true }), { abstract: "refused", file: "refused" });
    },
  });

  Deno.test(`a session ${kind.whose} on the machine's network reaches abstract sockets, and files' where it sees them`, async () => {
    assert.deepEqual(await heard(kind, {}), { abstract: "outside", file: "outside" });
    assert.deepEqual(await heard(kind, { synced: true }), { abstract: "outside", file: "refused" });
  });
}

if (BAZEL) {
  test("an action reaches the cloud's metadata service on the machine's network, and not with --unshare-net", async () => {
    // The address is given out in a network namespace of the test's own, and nowhere else.
    await using machines = await twoMachines();
    const { cloud } = machines;
    await output(["ip", "address", "add", `${METADATA}/32`, "dev", "lo"], { on: cloud });
    await using service = start(["perl", "-e", SERVICE, METADATA], { on: cloud });
    await service.says(/listens/);
    const ask =
      `{ exec 3<>/dev/tcp/${METADATA}/80 && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && tail -n 1 <&3; } || echo refused`;
    for (const [args, answer] of [[[], "credentials"], [["--unshare-net"], "refused"]] as const) {
      await using one = await rig({ machines, args });
      const target = `genrule(name = "ask", outs = ["asked"], cmd = """(${
        ask.replaceAll("\\", "\\\\")
      }) >$@ 2>/dev/null""")\n`;
      await Deno.writeTextFile(join(one.workspace.path, "BUILD"), target, { append: true });
      const { code, stderr } = await one.run(["build", "//:ask"]);
      assert.equal(code, Exit.OK, stderr);
      const asked = await output(["cat", join(one.workspace.path, "bazel-bin/asked")], { on: machines.laptop });
      assert.equal(asked.trim(), answer);
    }
  });
}

const SERVICE = `
  use IO::Socket::INET;
  my $listener = IO::Socket::INET->new(LocalAddr => $ARGV[0], LocalPort => 80, Listen => 5, ReuseAddr => 1) or die "$!";
  $| = 1;
  print "listens\\n";
  while (my $client = $listener->accept) {
    while (my $line = <$client>) { last if $line =~ /^\\r?$/ }
    print $client "HTTP/1.0 200 OK\\r\\n\\r\\ncredentials\\n";
    close $client;
  }
`;
