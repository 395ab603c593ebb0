/**
 * The mirror test of commands: whatever the stock client does through RBS, it does as without: exit codes, both outputs,
 * and what is on the disk afterwards.
 */
import assert from "node:assert/strict";
import { gunzipSync } from "node:zlib";
import { dirname, join } from "node:path";
import { repoHash } from "../../proto/bazel/workspace.ts";
import { type Bazel, findBazels } from "../support/bazels.ts";
import { PROGRAMS } from "../support/repository.ts";
import { signal } from "./support/processes.ts";
import { type Comparison, Mirror, type Scenario, type Side } from "./compare.ts";
import { normalizeInfo, normalizeTimes, sentences } from "./normalize.ts";

const Exit = { OK: 0, BUILD_FAILED: 1, USAGE: 2, TESTS_FAILED: 3, NO_TESTS: 4 };

/** Test summaries hold times. */
const TESTED: Comparison = { stdout: normalizeTimes };

/** What the workspace has beside tests/workspaces/cpp. */
const FILES = {
  "sandboxed/BUILD": `
# The first process of its pid namespace: linux-sandbox, when that is really used.
genrule(
    name = "first_process",
    outs = ["first_process.txt"],
    cmd = "cat /proc/1/comm > $@",
    tags = ["manual"],
)
`,
  // For one scenario only: there nothing of it was built before, whatever the scenarios before it were.
  "once/BUILD": `
genrule(
    name = "once",
    outs = ["once.txt"],
    cmd = "echo once > $@",
    tags = ["manual"],
)
`,
  "unbuildable/BUILD": `
load("@rules_shell//shell:sh_binary.bzl", "sh_binary")

sh_binary(
    name = "unbuildable",
    srcs = ["unbuildable.sh"],
    data = [":failing"],
    tags = ["manual"],
)

genrule(
    name = "failing",
    outs = ["failing.txt"],
    cmd = "echo 'this action fails on purpose' >&2; exit 3",
    tags = ["manual"],
)
`,
  "unbuildable/unbuildable.sh": "echo this must not run\n",
};

const scenarios: { name: string; act: Scenario; current: boolean }[] = [];

/** Adds a scenario. Those of one Bazel run in the order in which they stand here. */
function mirrored(name: string, act: Scenario, { current = false } = {}) {
  scenarios.push({ name, act, current });
}

/**
 * For scenarios that cost a server and that a client's generation has no part in, beside one of the same kind that each
 * Bazel runs: the oldest one (see {@link isOldest}) leaves them out.
 */
const CURRENT = { current: true };

/** Whether it is the one whose client alone is of interest here, for the protocol that it speaks. */
function isOldest({ version }: Bazel): boolean {
  return version.startsWith("2.");
}

mirrored("a first command starts the server, and says so", async (side) => {
  await side.run(["info", "release"], { code: Exit.OK });
});

mirrored("a build makes the same outputs, at the same local paths", async (side) => {
  await side.run(["build", "//..."], { code: Exit.OK });
  await links(side);
  await outputs(side);
});

mirrored("a build with nothing to do says so", async (side) => {
  await side.run(["build", "//..."], { code: Exit.OK });
  await side.run(["build", "//:hello"], { code: Exit.OK });
});

mirrored("the binary that was built runs from the terminal by its local path", async (side) => {
  await side.exec(["bazel-bin/hello", "Linus"], { code: 0 });
  await side.exec(["bazel-bin/scripts/echo", "an argument"], { code: 0, stdin: "some input\n" });
});

mirrored("a build from a folder of the workspace takes relative labels", async (side) => {
  await side.run(["build", ":all"], { cwd: join(side.path, "greeting"), code: Exit.OK });
});

mirrored("tests pass, are cached, and leave their logs and XML where the stock client leaves them", async (side) => {
  await side.run(["test", "//..."], { ...TESTED, code: Exit.OK });
  await side.run(["test", "//..."], { ...TESTED, code: Exit.OK });
  for (const file of ["greeting/greeting_test/test.log", "greeting/greeting_test/test.xml"]) {
    side.note(file, normalizeTimes(await Deno.readTextFile(join(side.path, "bazel-testlogs", file))));
  }
});

mirrored("the output of tests is shown as they want it", async (side) => {
  const again = ["test", "--nocache_test_results", "//greeting:greeting_test"];
  await side.run([...again, "--test_output=all"], { ...TESTED, code: Exit.OK });
  await side.run([...again, "--test_output=streamed"], { ...TESTED, code: Exit.OK });
});

mirrored("a failing test ends with exit code 3, and shows its log", async (side) => {
  const test = ["test", "--test_output=errors", "//special:failing_test"];
  await side.run(test, { ...TESTED, code: Exit.TESTS_FAILED });
  const log = join(side.path, "bazel-testlogs/special/failing_test/test.log");
  side.note("test.log", await Deno.readTextFile(log));
});

mirrored("a test command without tests ends with exit code 4", async (side) => {
  await side.run(["test", "//data:names"], { ...TESTED, code: Exit.NO_TESTS });
});

mirrored("run gives a C++ program its arguments and runfiles", async (side) => {
  await side.run(["run", "//:hello", "--", "Linus", "an argument; with $signs and 'quotes'"], { code: 0 });
});

mirrored("run gives a script its arguments, standard input, environment and exit code", async (side) => {
  const env = { RBS_TEST_VALUE: "a value\nof two lines" };
  const stdin = "one line\nand one that does not end";
  await side.run(["run", "//scripts:echo", "--", "", "two words", "*"], { env, stdin, code: 0 });
  await side.run(["run", "echo"], { cwd: join(side.path, "scripts"), stdin, code: 0 });
  await side.run(["run", "//scripts:exit", "--", "42"], { code: 42 });
});

mirrored("run --script_path writes a script that runs later", async (side) => {
  await side.run(["run", "--script_path=run_later.sh", "//scripts:echo"], { code: Exit.OK });
  side.note("the script", await Deno.readTextFile(join(side.path, "run_later.sh")));
  await side.exec(["./run_later.sh", "later"], { code: 0, stdin: "input\n" });
  await Deno.remove(join(side.path, "run_later.sh"));
});

mirrored("run of what cannot be built runs nothing", async (side) => {
  await side.run(["run", "//unbuildable"], { code: Exit.BUILD_FAILED });
});

mirrored("query prints labels, rules, graphs and protocol buffers, byte for byte", async (side) => {
  await side.run(["query", "//..."], { code: Exit.OK });
  await side.run(["query", "--output=label_kind", "kind(rule, deps(//:hello))"], { code: Exit.OK });
  await side.run(["query", "--order_output=full", "--output=graph", "deps(//:hello, 2)"], {
    code: Exit.OK,
  });
  await side.run(["query", "--order_output=full", "--output=proto", "//greeting:all"], { code: Exit.OK });
  await side.run(["query", "somepath(//:hello,"]);
});

mirrored("cquery and aquery print what they print", async (side) => {
  await side.run(["cquery", "//data:all"], { code: Exit.OK });
  await side.run(["aquery", "//data:names"], { code: Exit.OK });
  await side.run(["aquery", "--output=proto", "//data:names"], { code: Exit.OK });
});

mirrored("50 MB of standard output arrive intact", async (side) => {
  const { stdoutBytes } = await side.run(["query", "--order_output=full", "--output=build", "//big:all"], {
    code: Exit.OK,
  });
  assert(stdoutBytes.length > 50_000_000, `${stdoutBytes.length} bytes`);
});

mirrored("an action that prints 20,000 lines is heard out", async (side) => {
  await side.run(["build", "//special:noisy"], { code: Exit.OK });
});

mirrored("info shows the same values", async (side) => {
  await side.run(["info"], { stdout: normalizeInfo, code: Exit.OK });
  await side.run(["info", "bazel-bin"], { code: Exit.OK });
  await side.run(["info", "output_base"], { code: Exit.OK });
  await side.run(["info", "no_such_key"], { code: Exit.USAGE });
});

mirrored("version and help print the same", async (side) => {
  await side.run(["version"]); // Debian's 4.2.3 does not know its own.
  await side.run(["help"], { code: Exit.OK });
  await side.run(["help", "build", "--long"], { code: Exit.OK });
});

mirrored("mistakes on the command line end with exit code 2", async (side) => {
  await side.run(["build", "--no_such_flag", "//..."], { code: Exit.USAGE });
  await side.run(["biuld", "//..."], { code: Exit.USAGE });
  await side.run(["--no_such_startup_option", "build"], { code: Exit.USAGE });
});

mirrored("targets and packages that do not exist are reported", async (side) => {
  await side.run(["build", "//greeting:no_such_target"], { code: Exit.BUILD_FAILED });
  await side.run(["build", "//no_such_package"], { code: Exit.BUILD_FAILED });
  await side.run(["build", "--keep_going", "//data:names", "//no_such_package"], { code: Exit.BUILD_FAILED });
});

mirrored("an error in a BUILD file is reported with its place", async (side) => {
  await side.write("broken/BUILD", "genrule(name = 'broken'\n");
  await side.run(["build", "//broken"], { code: Exit.BUILD_FAILED });
  await Deno.remove(join(side.path, "broken"), { recursive: true });
});

mirrored("a failing action ends the build with exit code 1, and shows what it printed", async (side) => {
  await side.run(["build", "//special:failing"], { code: Exit.BUILD_FAILED });
  await side.run(["build", "--verbose_failures", "//special:failing"], { code: Exit.BUILD_FAILED });
});

mirrored("a compile error is shown in the compiler's words, and its correction builds", async (side) => {
  const source = join(side.path, "greeting/greeting.cc");
  const text = await Deno.readTextFile(source);
  await Deno.writeTextFile(source, text.replace("return", "retrun"));
  await side.run(["build", "//:hello"], { code: Exit.BUILD_FAILED });
  await Deno.writeTextFile(source, text);
  await side.run(["build", "//:hello"], { code: Exit.OK });
});

mirrored("a change of a source file is seen, and a change back as well", async (side) => {
  const source = join(side.path, "data/names_in.txt");
  const text = await Deno.readTextFile(source);
  await Deno.writeTextFile(source, `${text}Edsger\n`);
  await side.run(["run", "//:hello"], { code: 0 });
  await Deno.writeTextFile(source, text);
  await side.run(["run", "//:hello"], { code: 0 });
});

mirrored("linux-sandbox is really used", async (side) => {
  await side.run(["build", "--spawn_strategy=linux-sandbox", "//sandboxed:first_process"], { code: Exit.OK });
  const first = await Deno.readTextFile(join(side.path, "bazel-bin/sandboxed/first_process.txt"));
  assert.equal(first.trim(), "linux-sandbox");
});

mirrored("files that flags name land on this machine", async (side) => {
  const build = ["build", "--profile=out.profile.gz", "--build_event_json_file=events.json", "--explain=why.txt"];
  await side.run([...build, "--verbose_explanations", "--action_env=ANOTHER=1", "//data:names"], { code: Exit.OK });
  const read = (file: string) => Deno.readFileSync(join(side.path, file));
  const { traceEvents } = JSON.parse(gunzipSync(read("out.profile.gz")).toString());
  side.note("the profile holds events", traceEvents.length > 10);
  const events = new TextDecoder().decode(read("events.json")).trimEnd().split("\n");
  side.note("build events", events.map((line) => Object.keys(JSON.parse(line).id)[0]).sort());
  // An agent elsewhere finds out by build events of its own what to send home.
  const why = new TextDecoder().decode(read("why.txt")).replaceAll(/ --(no)?build_event_binary_file\S*/g, "");
  side.note("why.txt", why.split("\n").sort());
  for (const file of ["out.profile.gz", "events.json", "why.txt"]) await Deno.remove(join(side.path, file));
});

mirrored("the output base holds the logs of the last command", async (side) => {
  await side.run(["build", "//data:names"], { code: Exit.OK });
  const log = await Deno.readTextFile(join(side.outputBase, "command.log"));
  side.note("command.log", log.includes("Build completed successfully"));
  for (const file of ["command.profile.gz", "java.log"]) {
    // They stay with a server elsewhere: they change with each command, and hardly anybody reads them.
    if (side.synced) side.note(file, true);
    else side.note(file, await Deno.stat(join(side.outputBase, file)).then(({ size }) => size > 0, () => false));
  }
});

mirrored("jbazel builds, runs and tests as the stock client does", async (side) => {
  await side.jbazel(["build", "//..."], { code: Exit.OK });
  await side.jbazel(["build", ":all"], { cwd: join(side.path, "greeting"), code: Exit.OK });
  await side.jbazel(["test", "//..."], { ...TESTED, code: Exit.OK });
  await side.jbazel(["run", "//scripts:echo", "--", "two words"], { stdin: "input\n", code: 0 });
  await side.jbazel(["run", "//:hello", "--", "jbazel"], { code: 0 });
  await side.jbazel(["build", "//special:failing"], { code: Exit.BUILD_FAILED });
  await side.jbazel(["build", "--no_such_flag"], { code: Exit.USAGE });
  await side.jbazel(["query", "--output=build", "//big:big_0"], { code: Exit.OK });
});

mirrored("jbazel and the stock client share one warm server", async (side) => {
  const pids = new Set<string>();
  const ask: Comparison = { stdout: () => "#", code: Exit.OK };
  for (const bazel of [side.run, side.jbazel, side.run]) pids.add((await bazel(["info", "server_pid"], ask)).stdout);
  assert.equal(pids.size, 1, [...pids].join());
});

mirrored("after shutdown the outputs stay usable, and the next command starts a server", async (side) => {
  await side.run(["shutdown"], { code: Exit.OK });
  await side.run(["shutdown"], { code: Exit.OK });
  await links(side);
  await side.exec(["bazel-bin/hello", "after shutdown"], { code: 0 });
  const log = "bazel-testlogs/greeting/greeting_test/test.log";
  side.note("test.log", normalizeTimes(await Deno.readTextFile(join(side.path, log))));
  await side.run(["build", "//..."], { code: Exit.OK });
});

mirrored("other startup options restart the server, and say so", async (side) => {
  await side.run(["--host_jvm_args=-Drbs.test=1", "build", "//data:names"], { code: Exit.OK });
  await links(side);
});

mirrored("clean takes outputs and convenience symlinks away, and a build brings them back", async (side) => {
  await side.run(["clean"], { code: Exit.OK });
  await links(side);
  await side.run(["build", "//:hello"], { code: Exit.OK });
  await links(side);
  await outputs(side);
  await side.exec(["bazel-bin/hello", "again"], { code: 0 });
}, CURRENT);

mirrored("clean --expunge leaves no outputs and ends the server, and a build brings all back", async (side) => {
  await expunges(side, side.run);
  await links(side);
  await side.run(["build", "//data:names"], { code: Exit.OK });
  await links(side);
  await side.exec(["cat", "bazel-bin/data/names.txt"], { code: 0 });
});

mirrored("clean --expunge_async does the same in the background", async (side) => {
  // Where it moves the outputs, in order to delete them from there, has a number in it and is the server's own affair.
  const moved = (line: string) => line.replace(/Output (base|tree) moved to \S+ for/, "Output moved for");
  await side.run(["clean", "--expunge_async"], { stderr: (lines) => lines.map(moved), code: Exit.OK });
  await links(side);
  await side.run(["run", "//scripts:exit"], { code: Exit.OK });
  await links(side);
}, CURRENT);

mirrored("--batch runs on this machine", async (side) => {
  // Only the stock client's own earlier server has left a sandbox here.
  const stderr = (lines: string[]) =>
    withoutBatchNotice(side)(lines).filter((line) => !/stale sandbox base/.test(line));
  await side.run(["--batch", "build", "//once"], { stderr, code: Exit.OK });
  await side.exec(["cat", "bazel-bin/once/once.txt"], { code: 0 });
  // Whether there is still something to do depends on who has built it: through RBS it was not this machine.
  await side.run(["build", "//data:names"], { stderr: () => [], code: Exit.OK });
  await links(side);
});

mirrored("a command outside of a workspace runs on this machine", async (side) => {
  // The rc file of the workspace is not read there, but the one of the home directory is.
  const rc = await Deno.readTextFile(join(side.path, ".bazelrc"));
  const homeRc = join(side.env.HOME!, ".bazelrc");
  await Deno.writeTextFile(homeRc, rc.split("\n").filter((line) => line.startsWith("startup ")).join("\n"));
  await side.run(["info"], { cwd: side.env.HOME!, stderr: withoutBatchNotice(side), code: Exit.USAGE });
  await Deno.remove(homeRc);
});

/** A command in a workspace whose folder has an unusual name. */
function named(what: string, name: string, options?: typeof CURRENT) {
  mirrored(`a workspace path with ${what} does what it does with the stock client`, async (side) => {
    const path = join(side.path, "..", name);
    const files = {
      WORKSPACE: "",
      BUILD: `genrule(name = "one", outs = ["one.txt"], cmd = "echo one > $@")\n`,
      ".bazelrc": await Deno.readTextFile(join(side.path, ".bazelrc")),
    };
    await Deno.mkdir(path);
    for (const [file, text] of Object.entries(files)) await Deno.writeTextFile(join(path, file), text);
    const { code } = await side.run(["build", "//:one"], { cwd: path });
    if (code === 0) await side.exec(["cat", "bazel-bin/one.txt"], { cwd: path, code: 0 });
    const pidFile = join(side.outputBase, "..", repoHash(path), "server/server.pid.txt");
    const pid = Number(await Deno.readTextFile(pidFile).catch(() => "0"));
    const shutdown = await side.run(["shutdown"], { cwd: path });
    // A server that dislikes its workspace's name takes no shutdown either.
    if (shutdown.code !== Exit.OK && pid > 0) signal(pid, "SIGTERM");
    await Deno.remove(path, { recursive: true });
  }, options);
}
named("spaces and quotes", `a "workspace" that's named oddly`, CURRENT);
named("quotes, shell characters, a newline and 200 characters in all", `a"b'c$d\`e;f\n`.padEnd(200, "x"));
named("characters beyond ASCII", "größe-日本", CURRENT);

const { found, missing } = await findBazels();
for (const sentence of missing) console.log(`Not run: ${sentence}`);
const mirrors: Mirror[] = [];

for (const bazel of found) {
  const chosen = scenarios.filter(({ current }) => !current || !isOldest(bazel));
  const mirror = new Mirror(bazel, chosen.map(({ act }) => act), FILES);
  mirrors.push(mirror);
  chosen.forEach(({ name }, index) =>
    test(bazel, name, () => {
      // The other Bazels go on meanwhile: each waits more than it works.
      for (const other of mirrors) other.start();
      return mirror.compare(index);
    })
  );
  testSwitching(bazel, mirror);
}

Deno.test.afterAll(async () => {
  await Promise.all(mirrors.map((mirror) => mirror[Symbol.asyncDispose]()));
});

function test(bazel: Bazel, name: string, fn: () => Promise<void>) {
  // The mirror outlives each of its tests.
  Deno.test({ name: `Bazel ${bazel.version}: ${name}`, fn, sanitizeOps: false, sanitizeResources: false });
}

/** What happens when RBS is switched off and on again in one output base. */
function testSwitching(bazel: Bazel, mirror: Mirror) {
  test(bazel, "RBS can be switched off and on again, and loses nothing", async () => {
    const side = await mirror.rbs();
    // Where they share a disk, the output base holds links to the session's storage.
    const isLinked = async () => (await Deno.lstat(join(side.outputBase, "execroot"))).isSymlink;
    const builds = async () => {
      const { stderr } = await side.run(["build", "//:hello"], { code: Exit.OK });
      await side.exec(["bazel-bin/hello", "RBS"], { code: 0 });
      assert.deepEqual(sentences(stderr), []);
      return stderr;
    };
    const setup = (...args: string[]) => side.exec([PROGRAMS.jbazel, "setup", "--workspace", ...args], { code: 0 });

    await builds();
    assert.equal(await isLinked(), !side.synced);
    await setup("--remove");
    await builds();
    assert(!await isLinked(), "without RBS the output base holds its own outputs");
    await setup();
    assert.match(await builds(), /, 1 total action\n/, "what was built before is still known");
    assert.equal(await isLinked(), !side.synced);
  });

  if (isOldest(bazel)) return;
  test(bazel, "jbazel clean --expunge leaves nothing in the session's storage, and no links into it", async () => {
    const side = await mirror.rbs();
    await side.run(["build", "//data:names"], { code: Exit.OK });
    await expunges(side, side.jbazel);
    await side.run(["build", "//data:names"], { code: Exit.OK });
  });
}

/** Runs `clean --expunge`, after which a session's storage must be empty, and no link may lead there. */
async function expunges(side: Side, bazel: Side["run"]) {
  const storage = side.rbs && !side.synced
    ? dirname(await Deno.readLink(join(side.outputBase, "execroot")))
    : undefined;
  await bazel(["clean", "--expunge"], { code: Exit.OK });
  if (!storage) return;
  assert.deepEqual(await names(storage), []);
  for (const name of await names(side.outputBase)) {
    const target = await Deno.readLink(join(side.outputBase, name)).catch(() => "");
    assert(!target.startsWith(storage), `${name} -> ${target}`);
  }
}

/** What is in a folder. */
async function names(folder: string): Promise<string[]> {
  const found: string[] = [];
  for await (const { name } of Deno.readDir(folder)) found.push(name);
  return found.sort();
}

/** Where the convenience symlinks lead. */
async function links(side: Side) {
  const found: Record<string, string> = {};
  for await (const entry of Deno.readDir(side.path)) {
    if (entry.isSymlink) found[entry.name] = await Deno.readLink(join(side.path, entry.name));
  }
  side.note("convenience symlinks", found);
}

/** Every output below bazel-bin with its hash, runfiles trees among them. */
async function outputs(side: Side) {
  const script = `cd bazel-bin/ && find . \\( -type f -o -type l \\) | LC_ALL=C sort | xargs -d '\\n' sha256sum`;
  const { stdout } = await side.exec(["sh", "-c", script], { code: 0 });
  assert.match(stdout, /hello\.runfiles\//);
}

/** Checks that a command which cannot go through RBS says so, and leaves that line out. */
function withoutBatchNotice(side: Side): (lines: string[]) => string[] {
  return (lines) => {
    const notices = lines.filter((line) => line.startsWith("rbs: "));
    if (side.rbs) {
      assert.equal(notices.length, 1, lines.join("\n"));
      assert.match(notices[0], /--batch.*local JDK.*not RBS/);
    }
    return lines.filter((line) => !line.startsWith("rbs: "));
  };
}
