import assert from "node:assert/strict";
import { dirname, join } from "node:path";
import { shell } from "./namespace/shell.ts";
import { syncedRoot } from "./namespace/storage_folder.ts";
import { TestAgent, type TestAgentOptions, TestWorkspace } from "./test_agent.ts";
import { type TempDir, tempDir } from "../tests/support/temp_dir.ts";

const isRoot = Deno.uid() === 0;
const BY_ROOT = { ignore: !isRoot };
const HOME = Deno.env.get("HOME")!;
/** Where the developer has his files: not in a system folder, and where an ordinary user can read them. */
const DEVELOPERS = isRoot ? "/" : HOME;
const CANARY = "c4n4ry-" + crypto.randomUUID();

/** A repository rule and a build action that look for what they must not see. */
function nosyFiles(paths: readonly string[]): Record<string, string> {
  const look = (out: string) =>
    paths.map((path) => `{ cat '${path}'; ls -a '${path}'; } >>${out} 2>/dev/null || true; `).join("");
  const action = (name: string, more: string) =>
    `genrule(name = "${name}", outs = ["${name}.txt"], srcs = ["@looked//:seen.txt"], ` +
    `cmd = """cat $(SRCS) >$@; ${look("$@")} echo looked >>$@""", ${more})\n`;
  return {
    "WORKSPACE": `workspace(name = "test")\nload("//:look.bzl", "look")\nlook(name = "looked")\n`,
    "look.bzl": `def _look(ctx):
    ctx.execute(["bash", "-c", """${look("seen.txt")} echo looked >>seen.txt"""])
    ctx.file("BUILD", "exports_files(['seen.txt'])")

look = repository_rule(implementation = _look)
`,
    "BUILD": action("local", "local = 1") + action("sandboxed", ""),
  };
}

/** A developer's machine and a session's storage, on this machine but apart. */
class TwoPlaces implements AsyncDisposable {
  /** Has the developer's files; the session must not see them, but its own at the same paths. */
  readonly developer: TestWorkspace;
  /** What the agent's machine has, with secrets of others beside the storage. */
  readonly state: string;
  readonly storage: string;
  readonly secrets: string[];

  readonly #directory: TempDir;

  private constructor(developer: TestWorkspace, directory: TempDir) {
    this.developer = developer;
    this.#directory = directory;
    const state = this.state = directory.path;
    this.storage = join(state, "storage", "ann", "0".repeat(32));
    this.secrets = [
      join(developer.workspace, "secret"),
      join(developer.home, "secret"),
      join(developer.outputBase, "secret"),
      join(HOME, `.rbs-test-${CANARY}`),
      `/var/tmp/.rbs-test-${CANARY}`,
      `/tmp/.rbs-test-${CANARY}`,
      join(state, "keys/user.pem"),
      join(state, "storage/bob/secret"),
      join(dirname(this.storage), "other/root/secret"),
    ];
  }

  /** @param stateIn A folder for the orchestrator's state directory. */
  static async make(stateIn: string): Promise<TwoPlaces> {
    const developer = await TestWorkspace.make("ws", "", DEVELOPERS);
    const it = new TwoPlaces(developer, await tempDir("rbs-agent-test-", stateIn));
    await Deno.mkdir(it.storage, { recursive: true });
    for (const secret of it.secrets) {
      await Deno.mkdir(dirname(secret), { recursive: true });
      await Deno.writeTextFile(secret, CANARY);
    }
    return it;
  }

  /** The session's own workspace, outside of the session. */
  get received(): string {
    return join(syncedRoot(this.storage), this.developer.workspace);
  }

  /** Puts files where the proxy's would arrive. */
  async receive(files: Record<string, string>): Promise<void> {
    await Deno.mkdir(this.received, { recursive: true });
    for (const [name, text] of Object.entries(files)) await Deno.writeTextFile(join(this.received, name), text);
    await Deno.copyFile(join(this.developer.workspace, ".bazelrc"), join(this.received, ".bazelrc"));
  }

  async start(options: TestAgentOptions = {}): Promise<TestAgent> {
    const startupOptions = this.developer.startupOptions({ user: options.unprivileged ? "nobody" : undefined });
    const syncedWithout = [this.state, join(this.state, "storage")];
    return await TestAgent.start(this.developer, { startupOptions, storage: this.storage, syncedWithout, ...options });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const secret of this.secrets) await Deno.remove(secret).catch(() => {});
    await this.developer[Symbol.asyncDispose]();
    await this.#directory[Symbol.asyncDispose]();
  }
}

/** What each kind of namespace promises of a synced session. */
async function hides(options: TestAgentOptions, stateIn = "/var/tmp"): Promise<void> {
  await using places = await TwoPlaces.make(stateIn);
  const { developer, storage, secrets } = places;
  await places.receive(nosyFiles([...secrets, ...secrets.map(dirname)]));
  if (options.unprivileged) await shell(`chown -R 65534:65534 -- "$1"; chmod 755 -- "$1"`, [places.state]);
  await using agent = await places.start(options);
  using supervisor = agent.supervise();
  const ready = await supervisor.ready();
  assert.deepEqual({ ...ready, $typeName: undefined }, {
    ...{ $typeName: undefined, warnings: [], samePaths: true, missingInstallBase: "" },
  });

  const build = await agent.run(["bazel", "build", "//:local", "//:sandboxed"]);
  assert.equal(build.code, 0, build.stderr);
  assert.match(build.stderr, /1 linux-sandbox/);
  assert.match(build.stderr, /1 local/);
  const info = await agent.run(["bazel", "info", "output_base", "workspace"]);
  assert.equal(info.stdout, `output_base: ${developer.outputBase}\nworkspace: ${developer.workspace}\n`);
  for (const name of ["local", "sandboxed"]) {
    const seen = await Deno.readTextFile(join(storage, `out/execroot/test/bazel-out/k8-fastbuild/bin/${name}.txt`));
    assert.match(seen, /looked\n[^]*looked\n$/, "both the repository rule and the action have looked");
    assert(!seen.includes(CANARY), seen);
    assert.match(seen, /look\.bzl/, "the workspace is the session's own");
  }
  // A link that the server made in its own workspace: the developer's has none.
  assert((await Deno.lstat(join(places.received, "bazel-bin"))).isSymlink);
  await assert.rejects(Deno.lstat(join(developer.workspace, "bazel-bin")));
  await assert.rejects(Deno.lstat(join(developer.outputBase, "execroot")));

  // The agent writes outside of the namespace: what arrives under a new name is there at once.
  await Deno.mkdir(join(syncedRoot(storage), "data/lib"), { recursive: true });
  await Deno.writeTextFile(join(syncedRoot(storage), "data/lib/f"), "sent\n");
  if (options.unprivileged) await shell(`chown -R 65534:65534 -- "$1/data"`, [syncedRoot(storage)]);
  assert.equal(await agent.sh("cat /data/lib/f; echo mine >/data/lib/f && cat /data/lib/f"), "sent\nmine");
  assert.equal(await agent.sh("touch /usr/x /etc/x /var/x 2>/dev/null || echo refused"), "refused");
  assert.equal(await agent.sh("cd /var/tmp && touch /tmp/x /var/tmp/x && echo own"), "own");

  agent.process.kill("SIGTERM");
  assert.equal((await agent.process.status).code, 0);
}

Deno.test(
  "a synced session of root sees nothing of the developer's, by bubblewrap",
  BY_ROOT,
  () => hides({ flags: ["--namespace=bwrap"] }),
);
Deno.test(
  "a synced session of root sees nothing of the developer's, by unshare",
  BY_ROOT,
  () => hides({ flags: ["--namespace=unshare"] }),
);
Deno.test(
  "a synced session of an ordinary user sees nothing of the developer's",
  BY_ROOT,
  () => hides({ unprivileged: true }),
);
Deno.test("a synced session does not see a state directory in a system folder", BY_ROOT, () => hides({}, "/var/lib"));

Deno.test(
  "a Bazel that the agent's machine lacks is asked for, and serves as soon as it was sent",
  BY_ROOT,
  async () => {
    await using places = await TwoPlaces.make("/var/tmp");
    const { developer, storage } = places;
    await places.receive({ "WORKSPACE": "", "BUILD": `genrule(name = "g", outs = ["o"], cmd = "echo hi >$@")\n` });
    const installBase = join(developer.home, ".cache/bazel/_bazel_ann/install/4.2.3");
    await Deno.mkdir(installBase, { recursive: true });
    await Deno.writeTextFile(join(installBase, "A-server.jar"), "the developer's own is not looked at");
    await using agent = await places.start({ startupOptions: developer.startupOptions({ installBase }) });
    using supervisor = agent.supervise();
    const { missingInstallBase, warnings } = await supervisor.ready();
    assert.equal(missingInstallBase, installBase);
    assert.deepEqual(warnings, []);

    const early = await agent.run(["bazel", "build", "//:g"]).catch((e) => e.message);
    assert.match(early, /No Bazel with install_md5 .* is at .*install\/4\.2\.3/);
    // As it arrives: with files of today, which only a client minds.
    const sent = join(syncedRoot(storage), installBase);
    await shell(`mkdir -p -- "$1" && cp -rL /usr/share/bazel/. "$1"`, [sent]);
    const build = await agent.run(["bazel", `--install_base=${installBase}`, "build", "//:g"]);
    assert.equal(build.code, 0, build.stderr);
  },
);

Deno.test("a Bazel that the agent's machine has at another place is not asked for", BY_ROOT, async () => {
  await using places = await TwoPlaces.make("/var/tmp");
  const bases = join(places.developer.root, "bases");
  await Deno.mkdir(bases);
  await Deno.symlink("/usr/share/bazel", join(bases, "4.2.3"));
  await using agent = await places.start({
    startupOptions: places.developer.startupOptions({ installBase: join(places.developer.home, "install/4.2.3") }),
    flags: [`--install-bases=${bases}`],
  });
  using supervisor = agent.supervise();
  assert.equal((await supervisor.ready()).missingInstallBase, "");
  assert.equal(await agent.sh(`ls ${bases}; touch ${bases}/x 2>/dev/null || echo refused`), "4.2.3\nrefused");
});

Deno.test("a synced session that cannot be is refused in one sentence", async (t) => {
  const refusal = async (options: TestAgentOptions, workspace?: TestWorkspace) => {
    await using places = await TwoPlaces.make("/var/tmp");
    await using agent = workspace
      ? await TestAgent.start(workspace, { syncedWithout: [], ...options })
      : await places.start(options);
    using supervisor = agent.supervise();
    const { case: kind, value } = await supervisor.find((m) => m.case === "failed" || m.case === "ready");
    assert(kind === "failed", JSON.stringify(value));
    assert.doesNotMatch(value.reason, /\n/);
    assert.equal(value.transient, false);
    return value.reason;
  };
  await t.step("without a namespace", async () => {
    assert.match(await refusal({ flags: ["--namespace=none"] }), /needs a mount namespace.*install bubblewrap/);
  });
  await t.step("a workspace in a system folder", async () => {
    await using workspace = await TestWorkspace.make();
    assert.match(await refusal({}, workspace), /workspace \/var\/tmp\/.* where \/var is the agent machine's own: move/);
  });
  await t.step("an output base in a system folder", async () => {
    const reason = await refusal({ defaultOutputBase: "/usr/ob", startupOptions: [] });
    assert.match(reason, /output base \/usr\/ob .*--output_base/);
  });
});
