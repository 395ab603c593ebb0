import { create } from "@bufbuild/protobuf";
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { OutputsPolicy, OutputsRequestSchema } from "../../proto/contract/gen/rbs/v1/command_pb.ts";
import { encodeFields, scanFields, textValue, varintValue } from "../../proto/base/protobuf_fields.ts";
import { eventually } from "../../tests/support/eventually.ts";
import { encodeName } from "../../proto/tree/names.ts";
import { DigestCache } from "./digest_cache.ts";
import { type CommandEnd, OutputsCollector } from "./outputs_collector.ts";
import { completed, eventFile, file, namedSet, testResult, workspaceInfo } from "./testing/build_events.ts";
import { type Manifest, readManifest } from "./testing/manifest.ts";
import { type SessionFiles, sessionFiles } from "./testing/session_files.ts";

/** A session with a collector, and a Bazel that is played by the test. */
class Session {
  readonly collector: OutputsCollector;

  constructor(readonly files: SessionFiles, { digests }: { digests?: DigestCache } = {}) {
    this.collector = new OutputsCollector({ ...files, digests });
  }

  /** Runs a command: `bazel` does what the server does, given the path here of our file for build events. */
  async run(args: string[], options: {
    policy?: OutputsPolicy;
    known?: Uint8Array;
    named?: string[];
    /** What the developer's machine says that it has, below the output base. */
    home?: { leaves: string[]; trees: string[] };
    end?: CommandEnd;
    generation?: string;
    bazel?(eventsFile: string): void;
  } = {}): Promise<Manifest | undefined> {
    const outputs = create(OutputsRequestSchema, {
      policy: options.policy ?? OutputsPolicy.TOPLEVEL,
      knownManifest: options.known,
      symlinkPrefix: encodeName("bazel-"),
      namedFiles: options.named?.map(encodeName),
      home: options.home && { leaves: options.home.leaves.map(encodeName), trees: options.home.trees.map(encodeName) },
    });
    const prepared = await this.collector.prepare(args, { outputs, workspaceGeneration: options.generation });
    const flag = prepared.args.find((arg) => arg.includes("--build_event_binary_file=/"));
    const path = flag?.slice(flag.lastIndexOf("=") + 1);
    options.bazel?.(path === undefined ? "" : this.files.hostPath(path));
    return readManifest(await prepared.collect(options.end ?? { exitCode: 0 }));
  }

  /** A build of outputs below bazel-bin. */
  build(...names: string[]) {
    const { bin, execRoot } = this.files;
    return (eventsFile: string) =>
      Deno.writeFileSync(
        eventsFile,
        eventFile(
          workspaceInfo(execRoot),
          namedSet("0", names.map((name) => file({ uri: `file://${bin}/${name}` }))),
          completed([["default", ["0"]]]),
        ),
      );
  }

  /** What of earlier commands is told, and what of it is said to be gone. */
  home(manifest: Manifest | undefined): { home: string[]; gone: string[] } {
    const short = (path: string) => path.replace(this.files.bin, "BIN");
    const home = manifest!.home.map(({ path, target }) => short(path) + (target === undefined ? "" : ` -> ${target}`));
    return { home: home.sort(), gone: manifest!.gone.map(short).sort() };
  }

  /** The manifest's paths: OUT for the output base, BIN for bazel-bin in it, WS for the workspace. */
  paths(manifest: Manifest | undefined): string[] | undefined {
    const { bin, outputBase, workspace } = this.files;
    return manifest?.entries.map(({ path }) =>
      path.replace(bin, "BIN").replace(outputBase, "OUT").replace(workspace, "WS")
    ).sort();
  }
}

Deno.test("a build promises its outputs with their digests, and the convenience symlinks", async () => {
  await using files = await sessionFiles();
  const session = new Session(files);
  const manifest = await session.run(["build", "//..."], {
    bazel(eventsFile) {
      files.write({
        [`${files.workspace}/bazel-bin`]: { link: files.bin },
        [`${files.bin}/a`]: "content of a",
        [`${files.bin}/not-asked-for`]: "",
      });
      session.build("a", "missing")(eventsFile);
    },
  });
  assert.deepEqual(session.paths(manifest), ["BIN", "BIN/a", "WS/bazel-bin"]);
  const [folder, a, link] = manifest!.entries;
  assert.equal(folder.kind, "directory");
  assert.equal(a.size, 12);
  assert.deepEqual([...a.digest!], [...createHash("sha256").update("content of a").digest()]);
  assert.equal(link.target, files.bin);
  assert.deepEqual(manifest!.warnings, []);
});

Deno.test("the same again is only said to be the same; a change is not", async () => {
  await using files = await sessionFiles();
  const session = new Session(files);
  files.write({ [`${files.bin}/a`]: "one" });
  const bazel = session.build("a");
  const first = await session.run(["build"], { bazel });
  const again = await session.run(["build"], { bazel, known: first!.id });
  assert.deepEqual(again, { ...first, entries: [], unchanged: true });
  files.write({ [`${files.bin}/a`]: "two" });
  const other = await session.run(["build"], { bazel, known: first!.id });
  assert.equal(other!.unchanged, false);
  assert.deepEqual(session.paths(other), ["BIN/a"]);
});

Deno.test("a build that repeats the last one on the same files needs no build events, and finds what is there now", async () => {
  await using files = await sessionFiles();
  const session = new Session(files);
  files.write({ [`${files.bin}/a`]: "one", [`${files.bin}/b`]: "b" });
  /** Whether it was asked for build events, and what came. */
  const build = async (generation: string | undefined, args = ["build", "//..."], end?: CommandEnd) => {
    let asked = false;
    const manifest = await session.run(args, {
      generation,
      end,
      bazel(eventsFile) {
        asked = eventsFile !== "";
        if (asked) session.build("a", "b")(eventsFile);
      },
    });
    return { asked, paths: session.paths(manifest), manifest };
  };
  const first = await build("g1", ["build", "--startup_time=1635", "--restart_reason=no_daemon", "//..."]);
  assert.deepEqual([first.asked, first.paths], [true, ["BIN/a", "BIN/b"]]);
  const same = await build("g1", ["build", "--startup_time=16", "//..."]);
  assert.deepEqual([same.asked, same.manifest], [false, first.manifest]);
  // Somebody else's hand: it is seen all the same.
  files.write({ [`${files.bin}/a`]: "two" });
  Deno.removeSync(files.hostPath(`${files.bin}/b`));
  const changed = await build("g1");
  assert.deepEqual([changed.asked, changed.paths], [false, ["BIN/a"]]);
  assert.notDeepEqual(changed.manifest!.entries, first.manifest!.entries.slice(0, 1));

  const asked = async (...run: Parameters<typeof build>) => (await build(...run)).asked;
  assert.equal(await asked("g2"), true, "other files");
  assert.equal(await asked("g2", ["build", "//...", "-c", "opt"]), true, "other arguments");
  assert.equal(await asked("g2"), true, "not the last command");
  assert.equal(await asked("g2"), false);
  assert.equal(await asked("g2", ["info"]), false, "a command that builds nothing");
  assert.equal(await asked("g2"), true, "which may have been a clean");
  assert.equal(await asked("g2", ["build", "//..."], { exitCode: 1 }), false);
  assert.equal(await asked("g2"), true, "the last one failed");
  assert.equal(await asked("g2", ["test", "//..."]), true);
  assert.equal(await asked("g2", ["test", "//..."]), true, "tests may have run again");
  assert.equal(await asked(undefined), true);
  assert.equal(await asked(undefined), true, "nothing is known of the files");
});

Deno.test("of a build that repeats the last one nothing is listed again, and whatever happened to its outputs is seen", async () => {
  await using files = await sessionFiles();
  const session = new Session(files);
  const here = (path: string) => files.hostPath(path);
  const { bin, workspace } = files;
  files.write({
    [`${bin}/a`]: "one",
    [`${bin}/tool`]: "tool",
    [`${bin}/tool.runfiles/ws/data`]: "data",
    [`${bin}/tool.runfiles/ws/link`]: { link: `${bin}/a` },
    [`${workspace}/bazel-bin`]: { link: bin },
  });
  let known: Uint8Array | undefined;
  let lists = 0;
  const { readDirSync } = Deno;
  const { now } = Date;
  let later = 0;
  const build = async () => {
    lists = 0;
    Deno.readDirSync = (path) => (lists++, readDirSync(path));
    Date.now = () => now() + later;
    try {
      const manifest = await session.run(["build", "//..."], {
        generation: "g",
        known,
        bazel: (eventsFile) => {
          if (eventsFile !== "") session.build("a", "tool")(eventsFile);
        },
      });
      known = manifest!.id;
      return manifest!;
    } finally {
      Deno.readDirSync = readDirSync;
      Date.now = now;
    }
  };
  const settle = async () => {
    // Times of changes are known in whole seconds only.
    later += 2_000;
    await build();
    assert.equal((await build()).unchanged, true);
    assert.equal(lists, 0);
  };
  const first = await build();
  assert.deepEqual(session.paths(first), [
    "BIN",
    "BIN/a",
    "BIN/tool",
    "BIN/tool.runfiles",
    "BIN/tool.runfiles/ws",
    "BIN/tool.runfiles/ws/data",
    "BIN/tool.runfiles/ws/link",
    "WS/bazel-bin",
  ]);
  const changes: Record<string, () => void> = {
    "a file's content": () => Deno.writeTextFileSync(here(`${bin}/a`), "two"),
    "a mode": () => Deno.chmodSync(here(`${bin}/a`), 0o700),
    "a new file in a tree": () => Deno.writeTextFileSync(here(`${bin}/tool.runfiles/ws/more`), ""),
    "a file that went": () => Deno.removeSync(here(`${bin}/tool.runfiles/ws/more`)),
    "another link": () => {
      Deno.removeSync(here(`${bin}/tool.runfiles/ws/link`));
      Deno.symlinkSync(`${bin}/tool`, here(`${bin}/tool.runfiles/ws/link`));
    },
    "a convenience symlink that went": () => Deno.removeSync(here(`${workspace}/bazel-bin`)),
    "a folder instead of a file": () => {
      Deno.removeSync(here(`${bin}/a`));
      Deno.mkdirSync(here(`${bin}/a`));
    },
  };
  for (const [what, change] of Object.entries(changes)) {
    await settle();
    change();
    assert.equal((await build()).unchanged, false, what);
  }
  await settle();
  // A caller that lost what it had gets all of it.
  known = undefined;
  assert.equal((await build()).unchanged, false);
});

Deno.test("a failed build promises what there is", async () => {
  await using files = await sessionFiles();
  const session = new Session(files);
  files.write({ [`${files.bin}/a`]: "" });
  const manifest = await session.run(["build"], { bazel: session.build("a", "bad"), end: { exitCode: 1 } });
  assert.deepEqual(session.paths(manifest), ["BIN/a"]);
});

Deno.test("policies: all brings every output, minimal only what is executed", async () => {
  await using files = await sessionFiles();
  const session = new Session(files);
  files.write({
    [`${files.workspace}/bazel-out`]: { link: `${files.execRoot}/bazel-out` },
    [`${files.bin}/a`]: "",
    [`${files.bin}/b`]: "",
    [`${files.bin}/tool`]: "",
    [`${files.bin}/tool.runfiles/ws/lib`]: { link: `${files.bin}/lib` },
    [`${files.bin}/lib`]: "",
  });
  const bazel = session.build("a", "tool");
  const all = await session.run(["build"], { bazel, policy: OutputsPolicy.ALL });
  for (const path of ["BIN/a", "BIN/b", "BIN/lib"]) assert.ok(session.paths(all)!.includes(path));
  const execRequest = encodeFields([[1, `${files.bin}/tool.runfiles/ws`], [2, "/bin/bash"], [2, "-c"], [
    2,
    `${files.bin}/tool x`,
  ]]);
  const minimal = await session.run(["run"], { policy: OutputsPolicy.MINIMAL, end: { exitCode: 0, execRequest } });
  assert.deepEqual(
    session.paths(minimal),
    [
      "BIN/lib",
      "BIN/tool",
      "BIN/tool.runfiles",
      "BIN/tool.runfiles/ws",
      "BIN/tool.runfiles/ws/lib",
      "OUT/execroot/ws/bazel-out",
      "WS/bazel-out",
    ],
  );
});

Deno.test("tests bring the folders of their logs, coverage its report", async () => {
  await using files = await sessionFiles();
  const session = new Session(files);
  const logs = `${files.execRoot}/bazel-out/k8-fastbuild/testlogs`;
  files.write({
    [`${logs}/t/test.log`]: "",
    [`${logs}/t/test.outputs/u.txt`]: "",
    [`${logs}/other/test.log`]: "",
    [`${files.execRoot}/bazel-out/_coverage/_coverage_report.dat`]: "",
  });
  const bazel = (eventsFile: string) =>
    Deno.writeFileSync(
      eventsFile,
      eventFile(workspaceInfo(files.execRoot), testResult([file({ uri: `file://${logs}/t/test.log` })])),
    );
  const names = (manifest?: Manifest) =>
    session.paths(manifest)!.map((path) => path.replace("OUT/execroot/ws/bazel-out/", ""));
  const tested = ["", "/test.log", "/test.outputs", "/test.outputs/u.txt"].map((n) => `k8-fastbuild/testlogs/t${n}`);
  assert.deepEqual(names(await session.run(["test"], { bazel })), tested);
  assert.deepEqual(names(await session.run(["coverage"], { bazel })), [
    "_coverage",
    "_coverage/_coverage_report.dat",
    ...tested,
  ]);
});

Deno.test("a file that a flag names comes if the command has written it", async () => {
  await using files = await sessionFiles();
  const session = new Session(files);
  const { workspace, bin } = files;
  files.write({
    [`${workspace}/bazel-bin`]: { link: bin },
    [`${workspace}/kept`]: "",
    [`${workspace}/changed`]: "",
    [`${files.outputBase}/server/request_cookie`]: "",
  });
  const named = [
    `${workspace}/kept`,
    `${workspace}/changed`,
    `${workspace}/bazel-bin/made`,
    "/nowhere/tmp/made",
    `${workspace}/folder`,
    `${workspace}/never`,
    `${files.outputBase}/server/jvm.out`,
    "/etc/passwd",
    `${workspace}/etc/passwd`,
  ];
  const manifest = await session.run(["query", "//..."], {
    named,
    bazel: () =>
      files.write({
        [`${workspace}/changed`]: "x",
        [`${bin}/made`]: "x",
        "/nowhere/tmp/made": "x",
        [`${workspace}/folder`]: "folder/",
        [`${files.outputBase}/server/jvm.out`]: "",
        [`${workspace}/etc`]: { link: "/etc" },
      }),
  });
  // What is reached through bazel-bin goes where that leads.
  assert.deepEqual(session.paths(manifest), ["/nowhere/tmp/made", "BIN/made", "WS/changed"]);
});

Deno.test("a lock file of modules that the command has written comes", async () => {
  await using files = await sessionFiles();
  const session = new Session(files);
  const lock = `${files.workspace}/MODULE.bazel.lock`;
  const write = () => files.write({ [lock]: "{}" });
  assert.deepEqual(session.paths(await session.run(["mod", "deps"], { bazel: write })), ["WS/MODULE.bazel.lock"]);
  assert.equal(await session.run(["mod", "deps"]), undefined);
});

Deno.test("a script that `bazel run` writes brings what it executes", async () => {
  await using files = await sessionFiles();
  const session = new Session(files);
  files.write({ [`${files.bin}/tool`]: "" });
  const script = "/nowhere/tmp/script";
  const manifest = await session.run(["run", `--script_path=${script}`], {
    policy: OutputsPolicy.MINIMAL,
    named: [script],
    bazel() {
      files.write({ [script]: `#!/bin/bash\nexec ${files.bin}/tool "$@"\n` });
      Deno.chmodSync(files.hostPath(script), 0o755);
    },
  });
  assert.deepEqual(session.paths(manifest), ["/nowhere/tmp/script", "BIN/tool"]);
});

Deno.test("clean is told of; commands that make nothing say nothing", async () => {
  await using files = await sessionFiles();
  const session = new Session(files);
  const cleaned = await session.run(["clean"]);
  assert.deepEqual([cleaned!.cleaned, cleaned!.entries, cleaned!.unchanged], [true, [], false]);
  assert.equal((await session.run(["clean"], { known: cleaned!.id }))!.cleaned, true);
  assert.equal(await session.run(["clean"], { end: { exitCode: 2 } }), undefined);
  for (const command of ["info", "query", "help", "version"]) assert.equal(await session.run([command]), undefined);
});

Deno.test("a caller that wants no outputs gets none, and its command as it is", async () => {
  await using files = await sessionFiles();
  const prepared = await new OutputsCollector(files).prepare(["build"], {});
  assert.deepEqual(prepared.args, ["build"]);
  assert.deepEqual(await prepared.collect({ exitCode: 0 }), []);
});

Deno.test("the user's own build events are read, be they relative or in a file of before", async () => {
  await using files = await sessionFiles();
  const session = new Session(files);
  // Of other lengths: what is written twice in a millisecond looks the same otherwise.
  files.write({ [`${files.bin}/a`]: "", [`${files.bin}/bb`]: "" });
  const path = files.hostPath(`${files.workspace}/bep`);
  const build = (name: string) => () => session.build(name)(path);
  const args = ["build", "--build_event_binary_file=bep"];
  assert.deepEqual(session.paths(await session.run(args, { bazel: build("a") })), ["BIN/a"]);
  assert.deepEqual(session.paths(await session.run(args, { bazel: build("bb") })), ["BIN/bb"]);
  const rc = ["build", "--default_override=1:build:ci=--build_event_binary_file=bep"];
  assert.deepEqual(session.paths(await session.run(rc, { bazel: session.build("bb") })), ["BIN/bb"]);
});

Deno.test("a build that wrote no events is told of, if it should have", async () => {
  await using files = await sessionFiles();
  const session = new Session(files);
  assert.match((await session.run(["build"]))!.warnings.join(), /^The outputs of this command are not known/);
  assert.deepEqual((await session.run(["build"], { end: { exitCode: 2 } }))!.warnings, []);
});

Deno.test("a command keeps its result when its outputs cannot be looked at", async () => {
  await using files = await sessionFiles();
  let broken = false;
  const storagePath = (path: string) => {
    if (broken) throw new Error("the disk is gone");
    return files.storagePath(path);
  };
  const session = new Session({ ...files, storagePath });
  const manifest = await session.run(["build"], {
    bazel(eventsFile) {
      session.build("a")(eventsFile);
      broken = true;
    },
  });
  assert.match(manifest!.warnings.join(), /were not copied \(the disk is gone\)/);
});

Deno.test("our file of build events goes with the command, and those of a killed agent with the next", async () => {
  await using files = await sessionFiles();
  const folder = `${files.hostPath(files.outputBase)}/rbs`;
  files.write({ [`${files.outputBase}/rbs/build_events.1`]: "" });
  const session = new Session(files);
  await session.run(["build"], { bazel: session.build() });
  assert.deepEqual([...Deno.readDirSync(folder)], []);
});

Deno.test("many entries come in several messages", async () => {
  await using files = await sessionFiles();
  const session = new Session(files);
  const here = files.hostPath(`${files.bin}/t`);
  Deno.mkdirSync(here, { recursive: true });
  const name = "x".repeat(200);
  for (let i = 0; i < 1_500; i++) Deno.symlinkSync(name, `${here}/${name}${i}`);
  const prepared = await session.collector.prepare(["build"], {
    outputs: create(OutputsRequestSchema, { policy: OutputsPolicy.TOPLEVEL }),
  });
  session.build("t")(`${files.hostPath(files.outputBase)}/rbs/build_events.1`);
  const parts = await prepared.collect({ exitCode: 0 });
  assert.ok(parts.length > 1 && parts.every((part) => part.length < 600 << 10));
  assert.equal(readManifest(parts)!.entries.length, 1_501);
});

Deno.test("what is at home of earlier commands is told when it is another, whatever the command names", async () => {
  await using files = await sessionFiles();
  const session = new Session(files);
  const { bin } = files;
  const write = (path: string, text: string) => Deno.writeTextFileSync(files.hostPath(path), text);
  const remove = (path: string) => Deno.removeSync(files.hostPath(path), { recursive: true });
  const builds = async (names: string[], act = () => {}, options: Parameters<Session["run"]>[1] = {}) => {
    const bazel = (eventsFile: string) => {
      act();
      session.build(...names)(eventsFile);
    };
    return session.home(await session.run(["build", ...names], { bazel, ...options }));
  };
  files.write({
    [`${bin}/gen.h`]: "one",
    [`${bin}/lib.so`]: "lib",
    [`${bin}/current`]: { link: "gen.h" },
    [`${bin}/tool`]: "tool",
    [`${bin}/tool.runfiles/ws/data`]: "data",
    [`${bin}/app`]: "app",
  });
  const nothing = { home: [], gone: [] };
  assert.deepEqual(await builds(["gen.h", "lib.so", "current", "tool"]), nothing, "all of it is this command's own");
  assert.deepEqual(await builds(["app"]), nothing);
  assert.deepEqual(await builds(["app"], () => write(`${bin}/gen.h`, "two")), { home: ["BIN/gen.h"], gone: [] });
  assert.deepEqual(await builds(["app"]), nothing, "it was told");
  const failed = () => {
    remove(`${bin}/lib.so`);
    write(`${bin}/app`, "half");
  };
  assert.deepEqual(await builds([], failed, { end: { exitCode: 1 } }), { home: ["BIN/app"], gone: ["BIN/lib.so"] });
  const relink = () => {
    remove(`${bin}/current`);
    Deno.symlinkSync("app", files.hostPath(`${bin}/current`));
    write(`${bin}/tool.runfiles/ws/more`, "more");
  };
  assert.deepEqual(await builds(["app"], relink), {
    home: [
      "BIN/current -> app",
      "BIN/tool.runfiles",
      "BIN/tool.runfiles/ws",
      "BIN/tool.runfiles/ws/data",
      "BIN/tool.runfiles/ws/more",
    ],
    gone: [],
  });
  const folderInstead = () => {
    remove(`${bin}/gen.h`);
    files.write({ [`${bin}/gen.h/package/other`]: "of nobody's wish" });
    remove(`${bin}/tool.runfiles`);
  };
  assert.deepEqual(await builds(["app"], folderInstead), { home: [], gone: ["BIN/gen.h", "BIN/tool.runfiles"] });
  assert.deepEqual(await builds(["app"]), nothing, "what is gone is told once");
  assert.equal(await session.run(["query", "//..."], { bazel: () => write(`${bin}/app`, "x") }), undefined);
  assert.deepEqual(session.home(await session.run(["fetch", "//..."])), { home: ["BIN/app"], gone: [] });
});

Deno.test("a folder of an external repository is told as a whole when it changes, also with what came to it", async () => {
  await using files = await sessionFiles();
  const session = new Session(files);
  const npm = (name: string) => `${files.outputBase}/external/npm/${name}`;
  files.write({
    [npm("foo/a.js")]: "a",
    [npm("foo/old.js")]: "old",
    [`${files.bin}/link`]: { link: npm("foo") },
    [`${files.bin}/app`]: "app",
  });
  const first = await session.run(["build"], { bazel: session.build("link") });
  assert.deepEqual(session.paths(first), [
    "BIN/link",
    "OUT/external/npm/foo",
    "OUT/external/npm/foo/a.js",
    "OUT/external/npm/foo/old.js",
  ]);
  Deno.removeSync(files.hostPath(npm("foo/old.js")));
  files.write({ [npm("foo/b.js")]: "b" });
  const { home, gone } = session.home(await session.run(["build"], { bazel: session.build("app") }));
  const short = home.map((path) => path.replace(files.outputBase, "OUT"));
  // The folder's own entry says that nothing else is in it any more.
  assert.deepEqual(short, ["OUT/external/npm/foo", "OUT/external/npm/foo/a.js", "OUT/external/npm/foo/b.js"]);
  assert.deepEqual(gone, []);
});

Deno.test("of a file that two commands name, each gets what it has written itself, and who has not run gets nothing", async () => {
  await using files = await sessionFiles();
  const { collector } = new Session(files);
  const pipe = "/nowhere/tmp/pipe";
  const outputs = create(OutputsRequestSchema, { namedFiles: [encodeName(pipe)], pipes: [encodeName(pipe)] });
  const command = async () => {
    const prepared = await collector.prepare(["query", "//..."], { outputs });
    const got: string[] = [];
    const take = (part: Uint8Array) => {
      scanFields(part, (field) => {
        if (field.number === 2) got.push(`at ${varintValue(part, field)}`);
        if (field.number === 3) got.push(textValue(part, field));
      });
      return undefined;
    };
    prepared.followed!.begin(take);
    return {
      got,
      async end(exitCode: number) {
        const manifest = readManifest(await prepared.collect({ exitCode }));
        await prepared.followed!.finish(take);
        prepared[Symbol.dispose]();
        return manifest?.entries.map(({ size }) => size);
      },
    };
  };
  const first = await command(), second = await command(), third = await command(), fourth = await command();
  files.write({ [pipe]: "of the first" });
  await eventually(() => first.got.length > 0);
  assert.equal(await third.end(9), undefined, "it did not want to wait");
  assert.equal(await fourth.end(8), undefined, "nor did this one, later");
  assert.deepEqual(await first.end(0), [12]);
  files.write({ [pipe]: "the second" });
  await eventually(() => second.got.length > 0);
  assert.deepEqual(await second.end(0), [10]);
  assert.deepEqual([first.got, second.got, third.got, fourth.got], [["of the first"], ["the second"], [], []]);

  // One that is lost stands in nobody's way.
  const lost = await collector.prepare(["query", "//..."], { outputs });
  const next = await command();
  lost[Symbol.dispose]();
  files.write({ [pipe]: "the next one's" });
  await eventually(() => next.got.length > 0);
  assert.deepEqual(await next.end(0), [14]);
});

/** Fails as long as it is told to, as a disk does that cannot be read. */
class FailingDigests extends DigestCache {
  fails = false;

  override digest(...args: Parameters<DigestCache["digest"]>): ReturnType<DigestCache["digest"]> {
    return this.fails ? Promise.reject(new Error("input/output error")) : super.digest(...args);
  }
}

Deno.test("what could not be told of the files at home is told with the next command", async () => {
  await using files = await sessionFiles();
  const digests = new FailingDigests(files.storage);
  const session = new Session(files, { digests });
  const { bin } = files;
  files.write({ [`${bin}/gen.h`]: "one", [`${bin}/lib.so`]: "lib", [`${bin}/app`]: "app" });
  const build = async (...names: string[]) =>
    session.home(await session.run(["build", ...names], { bazel: session.build(...names) }));
  await build("gen.h", "lib.so", "app");

  Deno.removeSync(files.hostPath(`${bin}/lib.so`));
  files.write({ [`${bin}/gen.h`]: "two" });
  digests.fails = true;
  const failed = await session.run(["build", "app"], { bazel: session.build("app") });
  assert.match(failed!.warnings.join(), /input\/output error/);
  digests.fails = false;
  assert.deepEqual(await build("app"), { home: ["BIN/gen.h"], gone: ["BIN/lib.so"] });
  assert.deepEqual(await build("app"), { home: [], gone: [] });

  // A clean has removed the execroot, and then cannot say so.
  const log = `${files.workspace}/log`;
  digests.fails = true;
  const cleaned = await session.run(["clean"], {
    named: [log],
    bazel() {
      Deno.removeSync(files.hostPath(bin), { recursive: true });
      files.write({ [log]: "log" });
    },
  });
  assert.match(cleaned!.warnings.join(), /input\/output error/);
  digests.fails = false;
  assert.deepEqual(await build(), { home: [], gone: ["BIN/app", "BIN/gen.h"] });
});

Deno.test("an agent that is new learns what is at home, and tells all of it", async () => {
  await using files = await sessionFiles();
  const session = new Session(files);
  const { bin, outputBase } = files;
  files.write({ [`${bin}/a`]: "a", [`${bin}/b`]: "b", [`${bin}/t.runfiles/ws/x`]: "x", [`${bin}/other`]: "" });
  const below = (name: string) => `${bin}/${name}`.slice(outputBase.length + 1);
  const home = {
    leaves: ["a", "b", "gone", "../../../../../../../server/secret"].map(below),
    trees: ["t.runfiles", "gone.runfiles"].map(below),
  };
  files.write({ [`${outputBase}/server/secret`]: "of the server" });
  const first = await session.run(["build", "//:a"], { home, bazel: session.build("a") });
  assert.deepEqual(session.paths(first), ["BIN/a"]);
  assert.deepEqual(session.home(first), {
    home: ["BIN/b", "BIN/t.runfiles", "BIN/t.runfiles/ws", "BIN/t.runfiles/ws/x"],
    gone: ["BIN/../../../../../../../server/secret", "BIN/gone", "BIN/gone.runfiles"],
  });
  assert.deepEqual(session.home(await session.run(["build", "//:a"], { bazel: session.build("a") })), {
    home: [],
    gone: [],
  });
  await session.run(["clean"]);
  assert.deepEqual(session.home(await session.run(["build"], { bazel: session.build() })), { home: [], gone: [] });
});

Deno.test("after Ctrl-C the log of a test that ran comes, and what would take long to read is said to be gone", async () => {
  await using files = await sessionFiles();
  const session = new Session(files);
  const { bin, execRoot } = files;
  const logs = `${execRoot}/bazel-out/k8-fastbuild/testlogs`;
  const large = (byte: number) => {
    const path = files.hostPath(`${bin}/large`);
    Deno.writeFileSync(path, new Uint8Array([byte]));
    Deno.truncateSync(path, 80 << 20);
  };
  files.write({ [`${bin}/a`]: "a", [`${logs}/old/test.log`]: "" });
  large(1);
  await session.run(["build", "//..."], { bazel: session.build("a", "large") });
  const later = Date.now();
  while (Date.now() < later + 200) await new Promise((resolve) => setTimeout(resolve, 20));
  const interrupted = await session.run(["test", "//..."], {
    end: { exitCode: 8 },
    bazel(eventsFile) {
      files.write({ [`${logs}/pkg/sub/it/test.log`]: "began", [`${logs}/pkg/sub/it/test.outputs/x`]: "" });
      large(2);
      session.build()(eventsFile);
    },
  });
  assert.deepEqual(session.paths(interrupted)!.map((path) => path.replace(/^.*testlogs/, "LOGS")), [
    "LOGS/pkg/sub/it",
    "LOGS/pkg/sub/it/test.log",
    "LOGS/pkg/sub/it/test.outputs",
    "LOGS/pkg/sub/it/test.outputs/x",
  ]);
  assert.deepEqual(session.home(interrupted), { home: [], gone: ["BIN/large"] });
  // The next command has time.
  assert.deepEqual(session.home(await session.run(["build", "//:a"], { bazel: session.build("a") })), {
    home: ["BIN/large"],
    gone: [],
  });
});
