/**
 * An external repository in a folder that only the agent has, outside of the output base: Bazel 8.3 keeps repositories in
 * a cache, and `external/NAME` is a symlink to there. To the developer it is a folder like any other.
 */
import assert from "node:assert/strict";
import { makeTwin } from "../compare/twin.ts";
import { findBazels } from "../support/bazels.ts";
import { startCluster } from "../support/cluster.ts";

const { found } = await findBazels({ npm: false });

/** $1: the folder. */
const WORKSPACE = String.raw`
: > WORKSPACE
cat > BUILD <<BUILD
load("@rules_shell//shell:sh_binary.bzl", "sh_binary")

# Its folder is there when the build is over: an honest agent runs it, as any build action.
genrule(name = "make", srcs = ["content.txt"], outs = ["made"], local = True, cmd = """
mkdir -p $1/deep/er; cd $1; : > WORKSPACE; cat \$\$OLDPWD/\$< > deep/er/data.txt; echo other > other.txt; ln -sfn deep/er link
echo 'exports_files(["link/data.txt", "deep/er/data.txt"])' > BUILD; date > \$\$OLDPWD/\$@
""")

sh_binary(name = "show", srcs = ["show.sh"], data = ["@far//:deep/er/data.txt", "@far//:link/data.txt"])
BUILD
printf '#!/bin/bash\ncd "$0.runfiles/far"; cat deep/er/data.txt link/data.txt\n' > show.sh; chmod +x show.sh
echo one > content.txt
`;

for (const bazel of found) {
  Deno.test(`Bazel ${bazel.version}: a repository in a folder that only the agent has comes home as part of the output base`, async () => {
    await using cluster = await startCluster({ args: ["--workspace=synced"], env: { RBS_BAZEL: bazel.path } });
    await using twin = await makeTwin(bazel, cluster);
    // A session has a /tmp of its own.
    const folder = `/tmp/rbs-only-there-${crypto.randomUUID()}`;
    await twin.sh(WORKSPACE.replaceAll("$1", folder));
    const override = `--override_repository=far=${folder}`;
    const bazelRun = async (args: string[], env?: Record<string, string>) => {
      const { code, stdout, stderr } = await twin.runAlone(args, env);
      assert.equal(code, 0, stderr);
      return stdout;
    };
    await bazelRun(["build", "//:make"]);
    await assert.rejects(Deno.stat(folder), Deno.errors.NotFound);
    assert.equal(await bazelRun(["run", override, "//:show"]), "one\none\n");

    // What is here of it follows, file by file and as a whole.
    await twin.sh("echo two > content.txt");
    await bazelRun(["build", "//:make"]);
    assert.equal(await bazelRun(["run", override, "//:show"]), "two\ntwo\n");
    const external = (await bazelRun(["info", "output_base"])).trim() + "/external/far";
    await assert.rejects(Deno.stat(`${external}/other.txt`), Deno.errors.NotFound);
    await bazelRun(["build", override, "//:show"], { RBS_EXTERNAL_SOURCES: "far" });
    assert.equal(await Deno.readTextFile(`${external}/other.txt`), "other\n");
    assert.equal(await Deno.readTextFile(`${external}/link/data.txt`), "two\n");
    assert.ok((await Deno.lstat(external)).isDirectory);
    const location = await bazelRun(["query", override, "--output=location", "@far//:BUILD"]);
    assert.equal(await Deno.readTextFile(location.replace(/:.*/s, "")), await Deno.readTextFile(`${external}/BUILD`));
  });
}
