/** Several servers of one user for one workspace path: side by side as with stock Bazel, beside each other on machines. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { type Bazel, findBazels } from "../support/bazels.ts";
import { type Cluster, startCluster } from "../support/cluster.ts";
import { PROGRAMS } from "../support/repository.ts";
import { type Finished, run, start } from "../support/run.ts";
import { removeTree, tempDir } from "../support/temp_dir.ts";
import { eventually } from "../support/eventually.ts";

const { found } = await findBazels({ npm: false });

/** So long the machine may be busy with other things. Milliseconds. */
const PATIENCE_MS = 180_000;
/** Several servers are on one machine. */
const JVM = ["--host_jvm_args=-Xmx600m"];
/** A second server without a command ends after so many seconds. */
const SECOND_IDLE_SECONDS = 2;

/** A port at which an action waits until it is let go on. */
class Gate implements Disposable {
  readonly #listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });

  get port(): number {
    return this.#listener.addr.port;
  }

  /** The next action that waits. @returns what lets it go on */
  async waits(): Promise<() => Promise<void>> {
    const connection = await this.#listener.accept();
    return async () => {
      await connection.write(new TextEncoder().encode("go\n"));
      connection.close();
    };
  }

  [Symbol.dispose](): void {
    this.#listener.close();
  }
}

/** A workspace whose target //:slow waits at the gate. */
async function makeWorkspace(path: string, bazel: Bazel, gate: Gate, source: string): Promise<void> {
  await Deno.mkdir(path, { recursive: true });
  const file = (name: string, text: string) => Deno.writeTextFile(join(path, name), text);
  await file("WORKSPACE", "");
  await file(".bazelrc", [...bazel.bazelrc, ""].join("\n"));
  await file("source", source);
  await file(
    "BUILD",
    `genrule(name = "slow", srcs = ["source"], outs = ["slow.out"],
  cmd = "exec 3<>/dev/tcp/127.0.0.1/${gate.port}; read -r word <&3; cat $< > $@; echo $$word >> $@")
genrule(name = "quick", srcs = ["source"], outs = ["quick.out"], cmd = "cp $< $@")
`,
  );
}

/** What came of a build with one output base, and of a query and a build with another one while it ran. */
async function sideBySide(
  bazel: Bazel,
  { directory, startup, env }: { directory: string; startup: readonly string[]; env?: Record<string, string> },
) {
  using gate = new Gate();
  const workspace = join(directory, "ws");
  await makeWorkspace(workspace, bazel, gate, "sources\n");
  const base = (name: string) => `--output_base=${join(directory, name)}`;
  const command = (
    name: string,
    ...args: string[]
  ) => [bazel.path, ...startup, base(name), "--max_idle_secs=600", ...args];
  const options = { cwd: workspace, env, timeout: PATIENCE_MS };
  const bazelIn = (name: string, ...args: string[]) => run(command(name, ...args), options);
  await using slow = start(command("terminal", "build", "//:slow"), options);
  const goOn = await Promise.race([gate.waits(), slow.finished.then(({ stderr }) => assert.fail(stderr))]);
  // Not //..., for which stock looks behind the other server's convenience symlinks.
  const query = await bazelIn("ide", "query", "//:all");
  const quick = await bazelIn("ide", "build", "--symlink_prefix=ide-", "//:quick");
  await goOn();
  const built = await slow.finished;
  assert.equal(built.code, 0, built.stderr);
  const read = (path: string) => Deno.readTextFile(join(workspace, path));
  return {
    bazelIn,
    codes: [query, quick, built].map(({ code }) => code),
    said: [query, quick, built].map(({ stderr }) => stderr).join("\n"),
    query: query.stdout.split("\n").sort(),
    outputs: [await read("ide-bin/quick.out"), await read("bazel-bin/slow.out")],
  };
}

/** The sessions, as `jbazel status --json` tells of them. */
async function sessionsOf(cluster: Cluster, cwd: string) {
  const said = await run([PROGRAMS.jbazel, "status", "--json"], { cwd, env: cluster.env });
  assert.equal(said.code, 0, said.stderr);
  return JSON.parse(said.stdout).sessions as {
    server_id: string;
    output_base: string;
    status: string;
    agent: string;
  }[];
}

for (const bazel of found) {
  /** The same without RBS, for both modes. */
  let stock: Promise<Omit<Awaited<ReturnType<typeof sideBySide>>, "bazelIn" | "said">> | undefined;
  const withoutRbs = async () => {
    await using temp = await tempDir("rbs-servers-");
    await using cleanup = new AsyncDisposableStack();
    const side = { directory: temp.join("stock"), startup: JVM };
    cleanup.defer(() => end(bazel, side));
    const { bazelIn: _, said: __, ...seen } = await sideBySide(bazel, side);
    return seen;
  };

  for (const mode of ["shared", "synced"]) {
    Deno.test(`Bazel ${bazel.version}, ${mode}: a query with an output base of its own runs beside a build, and its server ends early`, async () => {
      await using temp = await tempDir("rbs-servers-");
      await using cluster = await startCluster({
        args: [`--workspace=${mode}`, `--second-idle-timeout=${SECOND_IDLE_SECONDS}`, "--max-agents-per-user=1"],
      });
      await using cleanup = new AsyncDisposableStack();
      const rbs = { directory: temp.join("rbs"), startup: [...JVM, cluster.serverJavabase], env: cluster.env };
      cleanup.defer(() => end(bazel, rbs));
      const expected = await (stock ??= withoutRbs());
      const { bazelIn, said, ...got } = await sideBySide(bazel, rbs);
      assert.deepEqual(got, expected, said);

      // The IDE's server is the younger one, with a proxy that goes on asking for nothing.
      const workspace = join(rbs.directory, "ws");
      const sessions = await eventually(async () => {
        const all = await sessionsOf(cluster, workspace);
        return all.length <= 1 && all;
      }, "the younger server's session has ended");
      assert.deepEqual(sessions.map((session) => session.output_base), [join(rbs.directory, "terminal")]);
      assert.match(sessions[0].server_id, /^[0-9a-f]{16}$/);
      const again = await bazelIn("ide", "query", "//:all");
      assert.equal(again.code, 0, again.stderr);
      assert.deepEqual(again.stdout.split("\n").sort(), expected.query);
    });
  }

  Deno.test(`Bazel ${bazel.version}, synced: two laptops with the same paths have a session each`, async () => {
    await using temp = await tempDir("rbs-laptops-");
    await using cluster = await startCluster({ args: ["--workspace=synced"] });
    using gate = new Gate();
    const [workspace, outputRoot] = [temp.join("ws"), temp.join("out")];
    const laptops = ["one", "two"].map((name) => {
      const folder = temp.join(name);
      // Each sees its own folders at the same paths.
      const enter = [
        ...["bwrap", "--dev-bind", "/", "/"],
        ...["--bind", join(folder, "ws"), workspace, "--bind", join(folder, "out"), outputRoot, "--chdir", workspace],
      ];
      const env = { ...cluster.env, RBS_MACHINE_ID: name };
      const command = (...args: string[]) => [
        ...enter,
        ...[
          bazel.path,
          "--host_jvm_args=-Xmx600m",
          `--output_user_root=${outputRoot}`,
          cluster.serverJavabase,
          ...args,
        ],
      ];
      return {
        folder,
        start: (...args: string[]) => start(command(...args), { env, timeout: PATIENCE_MS }),
        run: (...args: string[]) => run(command(...args), { env, timeout: PATIENCE_MS }),
        made: (path: string) => run([...enter, "cat", path]).then(({ stdout }) => stdout),
      };
    });
    for (const path of [workspace, outputRoot]) await Deno.mkdir(path);
    for (const { folder } of laptops) {
      await Deno.mkdir(join(folder, "out"), { recursive: true });
      await makeWorkspace(join(folder, "ws"), bazel, gate, `of ${folder.slice(-3)}\n`);
    }
    const [one, two] = laptops;
    try {
      await using slow = one.start("build", "//:slow");
      const goOn = await Promise.race([gate.waits(), slow.finished.then(({ stderr }) => assert.fail(stderr))]);
      const other: Finished = await two.run("build", "//:quick");
      assert.equal(other.code, 0, other.stderr);
      await goOn();
      const built = await slow.finished;
      assert.equal(built.code, 0, built.stderr);
      assert.equal(await one.made("bazel-bin/slow.out"), "of one\ngo\n");
      assert.equal(await two.made("bazel-bin/quick.out"), "of two\n");
      const sessions = await sessionsOf(cluster, temp.path);
      assert.equal(new Set(sessions.map((session) => session.server_id.slice(0, 8))).size, 2);
      assert.equal(new Set(sessions.map((session) => session.agent)).size, 2);
      const again = await one.run("build", "//:quick");
      assert.equal(again.code, 0, again.stderr);
      assert.equal(await one.made("bazel-bin/quick.out"), "of one\n");
    } finally {
      for (const laptop of laptops) {
        await laptop.run("shutdown");
        await removeTree(laptop.folder);
      }
    }
  });
}

/** Ends what `bazel` has left running in a folder, and removes the folder. */
async function end(
  bazel: Bazel,
  { directory, startup, env }: { directory: string; startup: readonly string[]; env?: Record<string, string> },
): Promise<void> {
  for (const name of ["terminal", "ide"]) {
    const command = [
      bazel.path,
      ...startup,
      `--output_base=${join(directory, name)}`,
      "--max_idle_secs=600",
      "shutdown",
    ];
    await run(command, { cwd: join(directory, "ws"), env, timeout: PATIENCE_MS });
  }
  await removeTree(directory);
}
