/** What was once wrong without a word, compared with stock Bazel: a kind each, all in one workspace for each mode. */
import assert from "node:assert/strict";
import { gunzipSync } from "node:zlib";
import { findBazels, IS_FURTHER } from "../support/bazels.ts";
import { startCluster } from "../support/cluster.ts";
import { makeTwin, type Twin } from "./twin.ts";

const { found } = await findBazels({ npm: false });

/** A workspace with symlinks that lead out of it, before anything was synced, and links behind them. */
const BEGINNING = String.raw`
mkdir -p "$D/x/deep" "$D/y" "$D/repository" gen app
echo one > "$D/one"; echo x > "$D/x/f"; echo y > "$D/y/g"; ln -s ../../y "$D/x/deep/link"
ln -s ../x lnk; ln -s "$D/one" one.txt
cat > BUILD <<'BUILD'
genrule(name = "links", srcs = glob(["lnk/**"]) + ["one.txt"], outs = ["links.out"], cmd = "for f in $(SRCS); do echo $$f; cat $$f; done > $@")
BUILD
cat > "$D/repository/BUILD" <<'BUILD'
genrule(name = "far", srcs = glob(["**/*.txt"]), outs = ["far.out"], cmd = "cat $(SRCS) > $@", visibility = ["//visibility:public"])
BUILD
: > "$D/repository/WORKSPACE"
mkdir "$D/behind"; echo behind > "$D/behind/b.txt"; ln -s ../behind "$D/repository/link"
cat > WORKSPACE <<WORKSPACE
local_repository(name = "repository", path = "$D/repository")
load("//:made.bzl", "made")
made(name = "made")
WORKSPACE
cat > made.bzl <<'BZL'
def _made(context):
    context.file("WORKSPACE", "")
    context.file("BUILD", 'genrule(name = "it", srcs = ["it.txt"], outs = ["it.out"], cmd = "cp $< $@")')
    context.file("it.txt", "one")
    context.file("deep/er/it.h", "// one")
    context.symlink("deep/er", "link")
made = repository_rule(_made)
BZL
echo 1 > gen/in.txt
cat > gen/BUILD <<'BUILD'
genrule(name = "gen", srcs = ["in.txt"], outs = ["gen.h"], cmd = "cp $< $@", visibility = ["//visibility:public"])
BUILD
cat > app/BUILD <<'BUILD'
genrule(name = "app", srcs = ["//gen"], outs = ["app.out"], cmd = "cat $(SRCS) > $@")
BUILD
`;

const MOUNTED = "a file system that is mounted over a folder, and taken away again";

/** Each begins where the one before it ended. */
const KINDS: Record<string, (twin: Twin) => Promise<unknown>> = {
  "what tools expect of an output base, after a query": async (t) => {
    await t.run(["query", "//:links"]);
    await t.sh(`
      cd "$D-out/$(printf %s "$D/ws" | md5sum | cut -d " " -f 1)"
      for name in external execroot java.log server/jvm.out; do
        [ -e "$name" ] || { echo "there is no $name"; exit 1; }
      done`);
  },
  "symlinks that lead out of the workspace, in the first build": (t) => t.run(["build", "//:links"]),
  "the same once more": (t) => t.run(["build", "//:links"]),
  "a link behind a link changes": async (t) => {
    await t.sh(`echo other > "$D/y/g"; ln -s ../y "$D/x/more"`);
    await t.run(["build", "//:links"]);
  },
  "a link in another repository": async (t) => {
    await t.run(["build", "@repository//:far"]);
    await t.sh(`echo changed > "$D/behind/b.txt"`);
    await t.run(["build", "@repository//:far"]);
  },
  "a file that is changed by another of its names": async (t) => {
    await t.sh(`ln gen/in.txt "$D/other"`);
    await t.run(["build", "//gen"]);
    // No event tells of a new name elsewhere: it is found by the sweep, within two seconds, more on a busy machine.
    await t.sh("sleep 5");
    await t.sh(`echo by the other name > "$D/other"`);
    await t.run(["build", "//gen"]);
  },
  "an output that another target's build makes anew": async (t) => {
    await t.sh(`rm gen/in.txt; echo 2 > gen/in.txt`);
    await t.run(["build", "//app"]);
  },
  "sparse files, both ways": async (t) => {
    await t.sh(
      String
        .raw`mkdir sparse; truncate -s 20M sparse/in; echo data | dd of=sparse/in bs=1 seek=9M conv=notrunc status=none
cat > sparse/BUILD <<'BUILD'
genrule(name = "sparse", srcs = ["in"], outs = ["big.out", "small.out", "blocks.out"], cmd = """
cp --sparse=always $< $(location big.out); truncate -s 300K $(location small.out)
(( $$(stat -Lc %b $<) * 512 < 1000000 )) && echo sparse > $(location blocks.out) || echo full > $(location blocks.out)
""")
BUILD`,
    );
    await t.run(["build", "//sparse"]);
    await t.sh(`for file in big.out small.out; do
      (( $(stat -Lc %b bazel-bin/sparse/$file) * 512 < $(stat -Lc %s bazel-bin/sparse/$file) / 2 )); done`);
  },
  "outputs that are folders, declared as files": async (t) => {
    await t.sh(String.raw`mkdir folder; cat > folder/BUILD <<'BUILD'
genrule(name = "make", outs = ["made", "made.txt"], cmd = "mkdir -p $(location made)/sub; echo 1 > $(location made)/sub/x; ln -s sub/x $(location made)/link; echo > $(location made.txt)")
genrule(name = "use", srcs = ["made"], outs = ["use.txt"], cmd = "cat $</sub/x > $@")
BUILD`);
    // Newer Bazels refuse them.
    const { stock } = await t.run(["build", "//folder:use"]);
    await t.run(["build", "//folder:make"]);
    if (stock.code === 0) await t.sh("[ -L bazel-bin/folder/made/link ] && rm -r bazel-bin/folder/made/link");
    await t.run(["build", "//folder:make"]);
    await t.sh("sed -i 's/echo 1/echo 2/; s/link/other/' folder/BUILD");
    await t.run(["build", "//folder:make"]);
  },
  "paths that a command prints": async (t) => {
    const { stock, rbs } = await t.run(["query", "--output=location", "@made//:all"], { anyOutput: true });
    const [there, here] = await Promise.all([stock, rbs].map(({ stdout }) => filesIn(stdout)));
    assert.notEqual(there.length, 0);
    assert.deepEqual(here, there);
    const logs = await t.run(["info", "server_log"], { anyOutput: true });
    for (const { stdout } of [logs.stock, logs.rbs]) assert.notEqual((await filesIn(stdout))[0], "");
    const bases = await t.run(["info"], { anyOutput: true });
    for (const { stdout } of [bases.stock, bases.rbs]) {
      const base = /^output_base: (.*)$/m.exec(stdout)![1];
      assert.notEqual(await Deno.readTextFile(`${base}/java.log`), "");
      const profile = gunzipSync(await Deno.readFile(`${base}/command.profile.gz`)).toString();
      assert.match(profile, /"traceEvents"/);
      assert.match(await Deno.realPath(`${base}/java.log`), /\/java\.log\.[^/]+$/);
    }
  },
  "sources of external repositories": async (t) => {
    const env = { RBS_EXTERNAL_SOURCES: "made" };
    const compare = async () => {
      assert.equal(...await t.outputs("cd bazel-ws/external/made/ && find . -type f -exec sha256sum {} + | sort"));
      assert.equal(...await t.outputs("cat bazel-ws/external/made/link/it.h"));
    };
    await t.run(["build", "@made//:it"], { env });
    await compare();
    // What is here of it stays as it is there, also by commands that do not ask for it.
    await t.sh(`sed -i 's/one/two/; s/deep/other/' made.bzl`);
    await t.run(["build", "@made//:it"]);
    await compare();
    await t.run(["build", "@made//:it"], { env });
    await compare();
  },
  "convenience symlinks that lead elsewhere": async (t) => {
    const stale = `for name in bin testlogs genfiles ws mine; do ln -sfn "$D/y" bazel-$name; done`;
    for (
      const args of [
        ["build", "//gen"],
        ["clean"],
        ["build", "--experimental_convenience_symlinks=clean", "//gen"],
        ["build", "--symlink_prefix=bazel-made-", "//gen"],
        ["clean", "--symlink_prefix=bazel-made-"],
        ["clean", "--expunge"],
      ]
    ) {
      await t.sh(stale);
      await t.run(args);
    }
    await t.sh("rm -f bazel-mine");
  },
  "names that are not UTF-8, in an output": async (t) => {
    // In a folder, into which Bazel itself need not look: with names of its outputs it gets along in one locale only. It
    // names no such folder as an output either, so that it comes home with all of them.
    await t.sh(String.raw`mkdir raw; cat > raw/BUILD <<'BUILD'
genrule(name = "raw", outs = ["tree"], local = True, cmd = r"""
mkdir -p $@; cd $@; f=$$(printf 'a\377b'); g=$$(printf 'folder\376'); mkdir "$$g"; echo 1 > "$$f"; echo 2 > "$$g/file"
: > "empty$$f"; ln -s "$$f" link; ln -s "$$g/file" "$$g-link"; echo 3 > plain; head -c 700000 /dev/zero > "large$$f"
""")
BUILD`);
    await t.run(["build", "//raw"], { env: { RBS_OUTPUTS: "all" } });
    const list = `cd bazel-bin/raw/tree; LC_ALL=C find . -printf '%p %y %l %m\\n' | sort | sha256sum
      find . -type f -print0 | sort -z | xargs -0 sha256sum`;
    assert.equal(...await t.outputs(list));
    await t.sh(`sed -i 's/echo 1/echo 11/; s/mkdir "..g"/&; : > "new$$f"/; s/"empty..f"/plain2/' raw/BUILD`);
    await t.run(["build", "//raw"], { env: { RBS_OUTPUTS: "all" } });
    assert.equal(...await t.outputs(list));
  },
};

async function mounted(t: Twin) {
  // In Bazel's own sandbox no mounts may lie below /tmp.
  await t.sh(
    `mkdir mounted "$D/disk"; echo below > mounted/f; echo on the disk > "$D/disk/f"; cat > mounted/BUILD <<'BUILD'
genrule(name = "mounted", srcs = ["//mounted:f"], outs = ["mounted.out"], cmd = "cat $< > $@", local = True)
BUILD
cp mounted/BUILD "$D/disk"`,
  );
  await t.run(["build", "//mounted"]);
  // The sweep, for which this is too short, is not what finds it.
  await t.sh(`mount --bind "$D/disk" mounted; sleep 0.5`);
  try {
    await t.run(["build", "//mounted"]);
    await t.sh(`echo changed on the disk > "$D/disk/f"`);
    await t.run(["build", "//mounted"]);
  } finally {
    await t.sh("umount mounted; sleep 0.5");
  }
  await t.run(["build", "//mounted"]);
}

/** Another output base is another server: one that lies in the workspace, below /tmp. */
async function nestedOutputBase(t: Twin) {
  const startup = ["--output_base=$D/ws/output_base"];
  await t.sh(`echo first > gen/in.txt`);
  await t.run(["build", "//app", "//:links"], { startup });
  await t.sh(`echo second > gen/in.txt; rm one.txt; echo file > one.txt`);
  await t.run(["build", "//app", "//:links"], { startup });
  await t.run(["clean", "--expunge"], { startup });
  await t.run(["shutdown"], { startup });
}

/** The contents of files whose paths stand in a text, in their order. */
function filesIn(text: string): Promise<string[]> {
  return Promise.all(text.matchAll(/(?<=^|\s)\/[^\s:/][^\s:]*/gm).map(([path]) => Deno.readTextFile(path)));
}

for (const bazel of found) {
  for (const mode of ["shared", "synced"]) {
    Deno.test(`Bazel ${bazel.version}, ${mode}: kinds`, async (test) => {
      await using cluster = await startCluster({ args: [`--workspace=${mode}`], env: { RBS_BAZEL: bazel.path } });
      await using twin = await makeTwin(bazel, cluster);
      await twin.sh(BEGINNING);
      for (const [kind, compare] of Object.entries(KINDS)) await test.step(kind, async () => void await compare(twin));
      const last = () => test.step("an output base in the workspace, below /tmp", () => nestedOutputBase(twin));
      // Where an output base may lie is the same for each Bazel, and so is what a session sees of mounts.
      if (mode === "shared") return IS_FURTHER ? undefined : void await last();
      await test.step({ name: MOUNTED, ignore: IS_FURTHER || Deno.uid() !== 0, fn: () => mounted(twin) });

      // Stock lets an action change a source. Here the copy is put back, and that is said.
      await test.step("an action that writes into the sources", async () => {
        await twin.sh(`mkdir local; echo source > local/source.txt; cat > local/BUILD <<BUILD
genrule(name = "local", outs = ["local.out"], cmd = "echo more >> $PWD/local/source.txt; date > \\$@", local = True)
genrule(name = "after", srcs = ["source.txt"], outs = ["after.out"], cmd = "cp \\$< \\$@")
BUILD`);
        const changed = await twin.runAlone(["build", "//local"]);
        assert.equal(changed.code, 0, changed.stderr);
        const after = await twin.runAlone(["build", "//local:after"]);
        assert.equal(after.code, 0, after.stderr);
        assert.match(
          after.stderr,
          /Programs of the session have changed .*local\/source\.txt on the build server's machine\. Your files are restored there/,
        );
        assert.equal(await twin.read("bazel-bin/local/after.out"), "source\n");
        const quiet = await twin.runAlone(["build", "//local:after"]);
        assert.doesNotMatch(quiet.stderr, /Programs of the session/);
      });

      await test.step("a tool that only the developer's home has", async () => {
        await twin.sh(`mkdir -p "$D/home/bin" tool; printf '#!/bin/sh\\necho here\\n' > "$D/home/bin/only-at-home"
chmod +x "$D/home/bin/only-at-home"; cat > tool/BUILD <<'BUILD'
genrule(name = "tool", outs = ["tool.out"], cmd = "only-at-home > $@")
BUILD`);
        const { code, stderr } = await twin.runAlone(["build", "//tool"], { PATH: "$D/home/bin:/usr/bin:/bin" });
        assert.equal(code, 1, stderr);
        assert.match(stderr, /rbs: warning: Only this machine has only-at-home in \/\S+\/home\/bin: /);
      });
      await last();
    });
  }
  // On a shared disk the session must see it too. It does where this machine's mounts are shared, as systemd makes them.
  Deno.test(`Bazel ${bazel.version}, shared: ${MOUNTED}`, { ignore: IS_FURTHER || Deno.uid() !== 0 }, async () => {
    await using cluster = await startCluster({ args: ["--workspace=shared"], env: { RBS_BAZEL: bazel.path } });
    await using twin = await makeTwin(bazel, cluster);
    await twin.sh(`mount --bind "$D" "$D"; mount --make-shared "$D"`);
    try {
      await twin.sh("touch WORKSPACE");
      await mounted(twin);
    } finally {
      await twin.sh(`cd /; umount -l "$D"`);
    }
  });
}
