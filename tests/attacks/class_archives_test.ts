/** Class-data archives with real Bazel servers: they are made and used, and no program of a session gets at them. */
import assert from "node:assert/strict";
import { basename, dirname, join } from "node:path";
import { ClassArchives } from "../../agent/bazel/class_archives/class_archives.ts";
import { TestAgent, type TestAgentOptions, TestWorkspace } from "../../agent/test_agent.ts";
import { eventually } from "../support/eventually.ts";
import { output } from "../support/run.ts";
import { KINDS } from "./sessions.ts";

/** For an archive that is made in the background, on a busy machine. */
const PATIENCE_MS = 300_000;
const RULES =
  `genrule(name = "g", outs = ["o"], cmd = "cat $(location :attack.sh) >/dev/null; bash attack.sh >$@ 2>&1; true",
    srcs = ["attack.sh"], local = True)\n`;

const OTHER_ARCHIVE = /SharedArchive|Xlog/;

/** A user's storage, and what agents keep in it. */
class Place implements AsyncDisposable {
  readonly storageRoot: string;
  readonly archives: string;

  private constructor(readonly workspace: TestWorkspace, readonly options: TestAgentOptions) {
    this.storageRoot = join(workspace.root, "state");
    this.archives = join(this.storageRoot, "tester/.classes");
  }

  static async make(options: TestAgentOptions = {}): Promise<Place> {
    const place = new Place(await TestWorkspace.make("ws", RULES), options);
    // Tests' servers have an archive of their own.
    const rc = join(place.workspace.workspace, ".bazelrc");
    const lines = (await Deno.readTextFile(rc)).split("\n");
    await Deno.writeTextFile(rc, lines.filter((line) => !OTHER_ARCHIVE.test(line)).join("\n"));
    await Deno.mkdir(join(place.storageRoot, "tester"), { recursive: true });
    await Deno.chmod(place.storageRoot, 0o755);
    return place;
  }

  async agent(options: TestAgentOptions = {}): Promise<TestAgent> {
    const startupOptions = this.workspace.startupOptions().filter((option) => !OTHER_ARCHIVE.test(option));
    const hidden = [this.storageRoot];
    const storage = join(this.storageRoot, "tester/session");
    const mine = { startupOptions, storage, hidden, classArchives: this.archives };
    return await TestAgent.start(this.workspace, { ...mine, ...this.options, ...options });
  }

  /** Starts an agent with its server, runs a command, and looks. */
  async with<T>(look: (agent: TestAgent) => Promise<T>, options: TestAgentOptions = {}): Promise<T> {
    await using agent = await this.agent(options);
    using supervisor = agent.supervise();
    await supervisor.ready();
    const { exitCode, stderr } = await agent.command(["info", "release"]);
    assert.equal(exitCode, 0, stderr);
    const result = await look(agent);
    agent.process.kill("SIGTERM");
    await agent.process.status;
    return result;
  }

  /** The archives that are kept. */
  kept(): string[] {
    try {
      return [...Deno.readDirSync(join(this.archives, "kept"))].map(({ name }) => name)
        .filter((name) => name.endsWith(".jsa")).sort();
    } catch {
      return [];
    }
  }

  /** What is in their folder. */
  names(): string {
    return Array.from(Deno.readDirSync(this.archives), ({ name }) => name).sort().join();
  }

  /** Waits for an agent to make one, and to tidy up after itself. */
  async made(agent: TestAgent): Promise<string> {
    await eventually(() => /archive was made in/.test(agent.log), "an archive was made", PATIENCE_MS).catch((e) => {
      throw new Error(`${e.message}\n${agent.log}`);
    });
    await eventually(() => this.names() === "kept,lock", "nothing is left of its making");
    const kept = this.kept();
    assert.equal(kept.length, 1);
    return join(this.archives, "kept", kept[0]);
  }

  /** The servers that run to make one, as the machine counts. */
  makers(): number[] {
    return Array.from(Deno.readDirSync("/proc"), ({ name }) => Number(name)).filter((pid) => {
      try {
        const words = Deno.readTextFileSync(`/proc/${pid}/cmdline`).split("\0");
        return words[0].startsWith("bazel(") && words.some((word) => word.startsWith("-XX:ArchiveClassesAtExit=")) &&
          Deno.readTextFileSync(`/proc/${pid}/mountinfo`).includes(this.workspace.root);
      } catch {
        return false;
      }
    });
  }

  /** Waits until a server runs to make one. */
  async making(agent: TestAgent): Promise<void> {
    await eventually(() => this.makers().length > 0, "an archive is made", PATIENCE_MS).catch((e) => {
      throw new Error(`${e.message}\n${agent.log}`);
    });
  }

  /** Whether the server maps an archive that is kept. */
  async uses(agent: TestAgent): Promise<boolean> {
    const maps = await agent.sh(`cat /proc/$(<'${this.workspace.outputBase}/server/server.pid.txt')/maps`);
    assert.match(maps, /libjvm/);
    return maps.includes(`${this.archives}/kept/`);
  }

  /** What the server has said. */
  async jvmOut(): Promise<string> {
    const text = await Deno.readTextFile(join(this.storageRoot, "tester/session/out/server/jvm.out"));
    // JVMs of several namespaces, whose processes have the same numbers, share a folder in /tmp.
    return text.split("\n").filter((line) => !line.includes("hsperfdata")).join("\n");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.workspace[Symbol.asyncDispose]();
  }
}

for (const { whose, options } of KINDS) {
  Deno.test(`in a session ${whose} a server maps the archive that an idle agent has made, and nobody changes it`, async () => {
    await using place = await Place.make(options);
    const archive = await place.with(async (agent) => {
      assert.equal(await place.uses(agent), false);
      return await place.made(agent);
    });
    const before = await output(["sha256sum", archive]);
    const said = await place.jvmOut();
    const kept = join(place.archives, "kept");
    const attacks = [
      `echo evil >>'${archive}'`,
      `chmod u+w '${archive}' && echo evil >>'${archive}'`,
      `rm -f '${archive}'`,
      `mv '${archive}' '${archive}.old'`,
      `touch '${archive}'`,
      `cp /etc/passwd '${kept}/new'`,
      `mount -o remount,rw '${kept}'`,
      `umount '${kept}'`,
      `unshare --user --map-root-user --mount mount -o remount,rw,bind '${kept}'`,
      `mv '${place.archives}' '${place.archives}.old'`,
      `mkdir '${place.archives}/making'`,
    ];
    await Deno.writeTextFile(
      join(place.workspace.workspace, "attack.sh"),
      attacks.map((attack) => `${attack} && echo "done: "${JSON.stringify(attack)}\n`).join("") + "true\n",
    );
    await place.with(async (agent) => {
      assert.equal(await place.uses(agent), true, agent.log);
      assert.equal(await place.jvmOut(), said, "the JVM says no more than before");
      assert.match(await agent.sh(`sha256sum '${archive}'`), /^[0-9a-f]{64}/, "it can be read");
      const by = await agent.sh(
        attacks.map((attack) => `(${attack}) 2>/dev/null && echo "done: ${attack}"`).join("\n"),
      );
      assert.equal(by, "");
      const { exitCode, stderr } = await agent.command(["build", "//:g"]);
      assert.equal(exitCode, 0, stderr);
      const bin = join(place.storageRoot, "tester/session/out/execroot/test/bazel-out/k8-fastbuild/bin/o");
      const { stdout } = await agent.run(["bazel", "info", "server_pid"]);
      assert.match(stdout, /\d/, "a client in the session keeps the server");
      assert.equal(await place.uses(agent), true);
      const text = await Deno.readTextFile(bin);
      assert.match(text, /\S/, "the action has tried");
      assert.doesNotMatch(text, /done: /);
    });
    assert.equal(await output(["sha256sum", archive]), before);
    assert.deepEqual(place.kept().length, 1);
  });
}

for (const { whose, options } of KINDS) {
  Deno.test(`in a synced session ${whose} nothing can be put in the place of its user's archives`, async () => {
    // The folders of the system are the machine's own, and read-only.
    const directory = Deno.uid() === 0 ? "/" : Deno.env.get("HOME")!;
    await using workspace = await TestWorkspace.make("ws", "", directory);
    const classArchives = join(workspace.root, "state/tester/.classes");
    const name = `${"a".repeat(32)}.jsa`;
    await Deno.mkdir(join(classArchives, "kept"), { recursive: true });
    await Deno.writeTextFile(join(classArchives, "kept", name), "good");
    const storage = join(workspace.root, "state/tester/session");
    const more = { storage, classArchives, syncedWithout: [join(workspace.root, "state")] };
    await using agent = await TestAgent.start(workspace, { ...more, ...options });
    using supervisor = agent.supervise();
    await supervisor.ready();
    const kept = await agent.sh(
      `while read -r _ _ _ from at _; do [[ $from != */.classes/kept ]] || echo "$at"; done </proc/self/mountinfo`,
    );
    assert.equal(await agent.sh(`cat '${kept}/${name}'`), "good");
    const above = [kept, ...parents(kept)];
    const attacks = above.map((path) => `mv '${path}' '/other' && mkdir -p '${kept}' && echo evil >'${kept}/${name}'`);
    await agent.sh(attacks.map((attack) => `(${attack}) 2>/dev/null`).join("\n") + "\ntrue");
    assert.equal(await agent.sh(`cat '${kept}/${name}'`), "good");
  });
}

/** The folders above a path, but for "/". */
function parents(path: string): string[] {
  const parent = dirname(path);
  return parent === "/" ? [] : [parent, ...parents(parent)];
}

/** Ways to damage the file $1. */
const DAMAGES = [
  `truncate -s 100000 "$1"`,
  `dd if=/dev/urandom of="$1" bs=1000 seek=1000 count=1000 conv=notrunc status=none`,
];
const OTHER_JDK = "/usr/lib/jvm/temurin-25-jdk-amd64/bin/java";
const hasOtherJdk = await Deno.stat(OTHER_JDK).then(() => true, () => false);

Deno.test("an archive that is damaged, or of another JDK, is not used and not spoken of; a damaged one is made anew", async (t) => {
  await using place = await Place.make();
  const archive = await place.with((agent) => place.made(agent));
  const said = await place.jvmOut();
  const copy = join(place.workspace.root, "copy");
  await output(["cp", "-a", place.archives, copy]);
  for (const damage of DAMAGES) {
    // The agent knows the time of a change in whole seconds.
    await output([
      "bash",
      "-c",
      `sleep 1.1; cp "$2"/kept/* "$3"; chmod u+w "$1"; ${damage}`,
      "bash",
      archive,
      copy,
      join(place.archives, "kept"),
    ]);
    await place.with(async (agent) => {
      assert.equal(await place.uses(agent), false);
      assert.match(agent.log, /is not used \(it is damaged\)/);
      assert.equal(await place.jvmOut(), said);
      if (damage === DAMAGES.at(-1)) assert.equal(await place.made(agent), archive);
    });
  }
  await place.with(async (agent) => assert.equal(await place.uses(agent), true));
  await t.step({
    name: "of another JDK",
    ignore: !hasOtherJdk,
    async fn() {
      const other = join(place.workspace.root, "other.jsa");
      await output([OTHER_JDK, `-XX:ArchiveClassesAtExit=${other}`, "-version"]);
      new ClassArchives({ directory: place.archives, max: 1 }).keep(basename(archive, ".jsa"), other);
      await place.with(async (agent) => {
        assert.equal(await place.uses(agent), false);
        assert.equal(await place.jvmOut(), said);
      });
    },
  });
});

Deno.test("an agent that is killed while it makes an archive leaves no process, and its next one no file", async () => {
  await using place = await Place.make();
  {
    await using agent = await place.agent();
    using supervisor = agent.supervise();
    await supervisor.ready();
    await agent.command(["info"]);
    await place.making(agent);
  }
  await eventually(() => place.makers().length === 0, "no process is left");
  assert.equal(place.names(), "kept,lock,making");
  await place.with((agent) => place.made(agent));
});

Deno.test("a command that comes while an archive is made ends that at once, and it is made later", async () => {
  await using place = await Place.make();
  await place.with(async (agent) => {
    await place.making(agent);
    const { exitCode } = await agent.command(["info", "release"]);
    assert.equal(exitCode, 0);
    await eventually(() => place.makers().length === 0, "it is ended", 5_000);
    await eventually(() => place.names() === "kept,lock", "nothing is left");
    assert.deepEqual(place.kept(), []);
    await place.made(agent);
  });
});

Deno.test({
  name: "on a full disk no archive is made, nothing is left, and nobody is told",
  ignore: Deno.uid() !== 0,
  async fn() {
    await using place = await Place.make();
    await Deno.mkdir(place.archives);
    await output(["mount", "-t", "tmpfs", "-o", "size=24m", "rbs", place.archives]);
    try {
      await place.with(async (agent) => {
        await eventually(() => /no class-data archive was made/.test(agent.log), "it was tried", PATIENCE_MS);
        await eventually(() => place.names() === "kept,lock", "nothing is left");
        assert.deepEqual(place.kept(), []);
        const { exitCode, stderr } = await agent.command(["info", "release"]);
        assert.deepEqual([exitCode, stderr], [0, ""]);
        assert.doesNotMatch(await place.jvmOut(), /archive/i);
      });
    } finally {
      await output(["umount", place.archives]);
    }
  },
});
