import assert from "node:assert/strict";
import { Looks } from "../../proto/tree/stat_snapshot.ts";
import { AgentRepositories } from "./agent_repositories.ts";
import { OutputTree } from "./output_tree.ts";
import { type SessionFiles, sessionFiles } from "./testing/session_files.ts";

function repositoriesOf({ outputBase, storage, storagePath, workspace }: SessionFiles) {
  const isDevelopers = (path: string) => path.startsWith(`${workspace}/`);
  return new AgentRepositories({ outputBase, files: storage, storagePath, isDevelopers });
}

function treeOf(files: SessionFiles, limit = 1_000) {
  return new OutputTree({
    outputBase: files.outputBase,
    files: files.storage,
    storage: files.storagePath(files.outputBase)!,
    limit,
    looks: new Looks(files.storage, 0),
    repositories: repositoriesOf(files),
  });
}

/** Paths relative to the output base. */
function paths(tree: OutputTree, { outputBase }: SessionFiles): string[] {
  return [...tree.entries].map(({ path }) => path.slice(outputBase.length + 1)).sort();
}

/** Paths relative to bazel-bin. */
function names(tree: OutputTree, { bin }: SessionFiles): string[] {
  return [...tree.entries].map(({ path }) => path.startsWith(bin) ? path.slice(bin.length + 1) : path).sort();
}

Deno.test("a folder comes with all that is in it, also what is empty", async () => {
  await using files = await sessionFiles();
  files.write({ [`${files.bin}/t/a`]: "a", [`${files.bin}/t/sub/b`]: "b", [`${files.bin}/t/empty`]: "folder/" });
  const tree = treeOf(files);
  await tree.add(`${files.bin}/t`);
  assert.deepEqual(names(tree, files), ["t", "t/a", "t/empty", "t/sub", "t/sub/b"]);
  const [file] = [...tree.entries].filter(({ path }) => path.endsWith("/a"));
  assert.equal(file.kind, "file");
  assert.equal(file.size, 1);
  assert.equal(file.mode & 0o400, 0o400);
});

Deno.test("a symlink comes with what it leads to, over as many links as it takes", async () => {
  await using files = await sessionFiles();
  files.write({
    [`${files.bin}/a`]: { link: `${files.bin}/sub/b` },
    [`${files.bin}/sub`]: { link: "real" },
    [`${files.bin}/real/b`]: { link: "../c" },
    [`${files.bin}/c`]: "content",
    [`${files.outputBase}/external/repo/lib`]: "lib",
    [`${files.execRoot}/external/repo`]: { link: `${files.outputBase}/external/repo` },
    [`${files.bin}/lib`]: { link: `${files.execRoot}/external/repo/lib` },
  });
  const tree = treeOf(files);
  await tree.add(`${files.bin}/a`);
  await tree.add(`${files.bin}/lib`);
  const bin = "execroot/ws/bazel-out/k8-fastbuild/bin";
  assert.deepEqual(paths(tree, files), [
    `${bin}/a`,
    `${bin}/c`,
    `${bin}/lib`,
    `${bin}/real/b`,
    `${bin}/sub`,
    "execroot/ws/external/repo",
    "external/repo/lib",
  ]);
});

Deno.test("what a link leads to outside of the outputs stays where it is, the link comes", async () => {
  await using files = await sessionFiles();
  files.write({
    [`${files.outputBase}/server/request_cookie`]: "secret",
    [`${files.outputBase}/action_cache/x`]: "",
    [`${files.workspace}/data.txt`]: "",
  });
  const targets = [
    `${files.workspace}/data.txt`,
    "/etc/passwd",
    "../../../../../../../../../../../../etc/passwd",
    `${files.outputBase}/server/request_cookie`,
    `${files.outputBase}/server`,
    `${files.outputBase}/action_cache`,
    `${files.outputBase}/execroot/../server/request_cookie`,
    files.outputBase,
    "/",
    "/nowhere",
    "missing",
  ];
  targets.forEach((link, i) => files.write({ [`${files.bin}/t/${i}`]: { link } }));
  const tree = treeOf(files);
  await tree.add(`${files.bin}/t`);
  assert.deepEqual(names(tree, files), ["t", ...targets.map((_, i) => `t/${i}`).sort()]);
});

Deno.test("a path that goes outside by itself, or by a folder that is a link, leads nowhere", async () => {
  await using files = await sessionFiles();
  files.write({
    [`${files.outputBase}/server/request_cookie`]: "secret",
    [`${files.bin}/out`]: { link: `${files.outputBase}/server` },
    [`${files.bin}/etc`]: { link: "/etc" },
  });
  const tree = treeOf(files);
  for (
    const path of [
      "/etc/passwd",
      files.outputBase,
      `${files.outputBase}/server/request_cookie`,
      `${files.outputBase}/execroot/../server/request_cookie`,
      `${files.outputBase}x/execroot/a`,
      `${files.bin}/out/request_cookie`,
      `${files.bin}/etc/passwd`,
      "relative",
      "",
    ]
  ) {
    await tree.add(path);
    await tree.addExecutable(path);
    await tree.addAllIn(path);
    tree.addFolder(path);
  }
  assert.deepEqual(names(tree, files), ["etc", "out"]);
});

Deno.test("an execroot that is a symlink is none", async () => {
  await using files = await sessionFiles();
  files.write({ [`${files.outputBase}/execroot`]: { link: "/etc" } });
  const tree = treeOf(files);
  await tree.add(`${files.outputBase}/execroot/passwd`);
  assert.deepEqual(names(tree, files), []);
});

Deno.test("links that lead to each other come, and end", async () => {
  await using files = await sessionFiles();
  files.write({
    [`${files.bin}/t/a`]: { link: "b" },
    [`${files.bin}/t/b`]: { link: "a" },
    [`${files.bin}/t/self`]: { link: "self/x" },
    [`${files.bin}/t/up`]: { link: "." },
    [`${files.bin}/t/sub/up`]: { link: "../../t" },
    [`${files.bin}/t/c/x`]: { link: "../d/y/z" },
    [`${files.bin}/t/d/y`]: { link: "../c/x/w" },
  });
  const tree = treeOf(files);
  await tree.add(`${files.bin}/t`);
  await tree.add(`${files.bin}/t/self/x/y`);
  assert.deepEqual(
    names(tree, files),
    ["t", "t/a", "t/b", "t/c", "t/c/x", "t/d", "t/d/y", "t/self", "t/sub"].concat([
      "t/sub/up",
      "t/up",
    ]),
  );
});

Deno.test("thousands of links in a row are no reason to fail", async () => {
  await using files = await sessionFiles();
  for (let i = 0; i < 2_000; i++) {
    files.write({ [`${files.bin}/t/${i}`]: { link: `${i + 1}/x` } });
  }
  const tree = treeOf(files, 10_000);
  await tree.add(`${files.bin}/t/0`);
  await tree.add(`${files.bin}/t`);
  assert.equal([...tree.entries].length, 2_001);
});

Deno.test("a link to the folder of all outputs does not ask for all outputs", async () => {
  await using files = await sessionFiles();
  files.write({
    [`${files.bin}/other/a`]: "",
    [`${files.bin}/t/out`]: { link: `${files.execRoot}/bazel-out` },
    [`${files.bin}/t/bin`]: { link: files.bin },
    [`${files.bin}/t/exec`]: { link: files.execRoot },
    [`${files.bin}/t/external`]: { link: `${files.outputBase}/external` },
    [`${files.outputBase}/external/repo/a`]: "",
  });
  const tree = treeOf(files);
  await tree.add(`${files.bin}/t`);
  assert.ok(!paths(tree, files).some((path) => path.endsWith("/a")));
  await tree.addAllIn(`${files.execRoot}/bazel-out`);
  assert.ok(names(tree, files).includes("other/a"));
});

Deno.test("an executable comes with its runfiles and what they lead to", async () => {
  await using files = await sessionFiles();
  files.write({
    [`${files.bin}/tool`]: "#!",
    [`${files.bin}/tool.runfiles_manifest`]: "",
    [`${files.bin}/tool.repo_mapping`]: "",
    [`${files.bin}/tool.runfiles/MANIFEST`]: "",
    [`${files.bin}/tool.runfiles/_repo_mapping`]: { link: `${files.bin}/tool.repo_mapping` },
    [`${files.bin}/tool.runfiles/ws/lib.so`]: { link: `${files.bin}/_solib/lib.so` },
    [`${files.bin}/tool.runfiles/ws/src`]: { link: `${files.workspace}/src` },
    [`${files.bin}/tool.runfiles/ws/empty`]: "folder/",
    [`${files.bin}/_solib/lib.so`]: { link: `${files.bin}/lib.so` },
    [`${files.bin}/lib.so`]: "lib",
    [`${files.bin}/tool2.runfiles/ws/other`]: "",
  });
  const tree = treeOf(files);
  await tree.addExecutable(`${files.bin}/tool`);
  assert.deepEqual(names(tree, files), [
    "_solib/lib.so",
    "lib.so",
    "tool",
    "tool.repo_mapping",
    "tool.runfiles",
    "tool.runfiles/MANIFEST",
    "tool.runfiles/_repo_mapping",
    "tool.runfiles/ws",
    "tool.runfiles/ws/empty",
    "tool.runfiles/ws/lib.so",
    "tool.runfiles/ws/src",
    "tool.runfiles_manifest",
  ]);
});

Deno.test("without a runfiles tree, the manifest says what is needed", async () => {
  await using files = await sessionFiles();
  files.write({
    [`${files.bin}/tool`]: "#!",
    [`${files.bin}/tool.runfiles/MANIFEST`]: "",
    [`${files.bin}/tool.runfiles_manifest`]: [
      `ws/a ${files.bin}/a`,
      ` ws/b\\sc ${files.bin}/b c\\bd`,
      "ws/passwd /etc/passwd",
      "ws/empty ",
      "nonsense",
      "",
    ].join("\n"),
    [`${files.bin}/a`]: "",
    [`${files.bin}/b c\\d`]: "",
  });
  const tree = treeOf(files);
  await tree.addExecutable(`${files.bin}/tool`);
  assert.deepEqual(names(tree, files), [
    "a",
    "b c\\d",
    "tool",
    "tool.runfiles",
    "tool.runfiles/MANIFEST",
    "tool.runfiles_manifest",
  ]);
});

Deno.test("a manifest of many lines costs the agent little more than its bytes", async () => {
  await using files = await sessionFiles();
  const bytes = 24 << 20;
  files.write({ [`${files.bin}/tool`]: "#!", [`${files.bin}/tool.runfiles_manifest`]: "\n".repeat(bytes) });
  const tree = treeOf(files);
  const { rss } = Deno.memoryUsage();
  Deno.writeTextFileSync("/proc/self/clear_refs", "5"); // The peak begins anew.
  await tree.addExecutable(`${files.bin}/tool`);
  const [, peak] = /^VmHWM:\s+(\d+) kB/m.exec(Deno.readTextFileSync("/proc/self/status"))!;
  const growth = 1024 * Number(peak) - rss;
  assert(growth < 8 * bytes, `${growth >> 20} MB`);
  assert.deepEqual(names(tree, files), ["tool", "tool.runfiles_manifest"]);
});

Deno.test("more files than anyone wants to have are cut off, with a sentence", async () => {
  await using files = await sessionFiles();
  for (let i = 0; i < 50; i++) files.write({ [`${files.bin}/t/${i}`]: "" });
  const tree = treeOf(files, 20);
  await tree.add(`${files.bin}/t`);
  assert.equal([...tree.entries].length, 20);
  assert.match(tree.warnings.join(), /^Only 20 files .*\.$/);
});

Deno.test("names that are not UTF-8 are outputs, so many and no more; pipes and sockets are none", async () => {
  await using files = await sessionFiles();
  files.write({ [`${files.bin}/t/a`]: "" });
  const folder = files.hostPath(`${files.bin}/t`);
  const script = `cd "$1" && touch $'raw\\xff' && ln -s $'raw\\xff' link && mkfifo pipe`;
  assert.ok((await new Deno.Command("bash", { args: ["-c", script, "bash", folder] }).output()).success);
  const tree = treeOf(files);
  await tree.add(`${files.bin}/t`);
  assert.deepEqual(names(tree, files), ["t", "t/a", "t/link", "t/raw\udcff"]);
  assert.deepEqual(tree.warnings, []);

  const many = `cd "$1" && for ((i = 0; i < 1000; i++)); do echo >$'\\xfe'$i; done`;
  assert.ok((await new Deno.Command("bash", { args: ["-c", many, "bash", folder] }).output()).success);
  const all = treeOf(files, 5_000);
  await all.add(`${files.bin}/t`);
  assert.equal(names(all, files).length, 2 + 1000);
  assert.match(all.warnings.join(), /^Of 1002 outputs whose names are not UTF-8, only 1000 are copied: /);
});

Deno.test("a repository that lies in a folder of the agent's comes as one of the output base, and no link dangles", async () => {
  await using files = await sessionFiles();
  const { outputBase, bin, execRoot, workspace } = files;
  const contents = `${outputBase.slice(0, outputBase.lastIndexOf("/"))}/cache/repos/v1/contents/ab`;
  const external = `${outputBase}/external`;
  files.write({
    [`${contents}/lib`]: "lib",
    [`${contents}/data/x`]: { link: "../lib" },
    [`${external}/repo`]: { link: contents },
    [`${external}/local`]: { link: `${workspace}/local` },
    [`${workspace}/local/own`]: "own",
    [`${external}/gone`]: { link: "/nowhere/else" },
    [`${external}/host`]: { link: "/etc" },
    [`${execRoot}/external/repo`]: { link: `${external}/repo` },
    [`${bin}/a.runfiles/by_name`]: { link: `${execRoot}/external/repo/lib` },
    [`${bin}/a.runfiles/by_place`]: { link: `${contents}/data/x` },
    [`${bin}/a.runfiles/own`]: { link: `${external}/local/own` },
    [`${bin}/a.runfiles/host`]: { link: `${external}/host/passwd` },
  });
  const tree = treeOf(files);
  await tree.add(`${bin}/a.runfiles`);
  const entries = new Map([...tree.entries].map((entry) => [entry.path, entry]));
  assert.equal(entries.get(`${bin}/a.runfiles/by_place`)?.target, `${external}/repo/data/x`);
  assert.deepEqual(["lib", "data/x"].map((name) => entries.get(`${external}/repo/${name}`)?.kind), ["file", "symlink"]);
  assert.equal(entries.get(`${external}/repo/lib`)?.here, files.storagePath(`${contents}/lib`));
  assert.equal(repositoriesOf(files).storagePath(`${external}/repo/lib`), files.storagePath(`${contents}/lib`));
  // What the developer has stays a link, and what is the machine's own is not read.
  assert.equal(entries.get(`${external}/local`)?.target, `${workspace}/local`);
  for (const path of [`${external}/local/own`, `${external}/host/passwd`, `${external}/gone/x`]) {
    assert.equal(repositoriesOf(files).storagePath(path), undefined);
    assert.equal(entries.has(path), false);
  }
});
