/**
 * Commands that write into the sources: what they leave in the workspace is what stock Bazel leaves there, and is no news
 * to the next command. Modules come from a registry of files.
 */
import assert from "node:assert/strict";
import { makeTwin } from "../compare/twin.ts";
import { findBazels } from "../support/bazels.ts";
import { startCluster } from "../support/cluster.ts";
import { output } from "../support/run.ts";
import { tempDir } from "../support/temp_dir.ts";

/** `vendor` is there since 7.1. */
const found = (await findBazels({ npm: false })).found.filter(({ version }) => Number(version.split(".")[0]) >= 7);
if (found.length === 0) console.log("Not run: commands that write into the sources, which no Bazel here has.");

/**
 * Makes a registry in $1: two modules to use, and those that Bazel 7's own tools depend on, as far as they are looked at.
 * What `mod tidy` calls is told of the file, and leaves a line in it.
 */
const REGISTRY = String.raw`
cd "$1"; echo '{}' > bazel_registry.json
add() { # name version
  local source="sources/$1" to="modules/$1/$2"
  mkdir -p "$source" "$to"
  echo "module(name = '$1', version = '$2')" > "$source/MODULE.bazel"; touch "$source/BUILD"
  cp "$source/MODULE.bazel" "$to/"
  tar czf "$1-$2.tar.gz" -C sources "$1"
  printf '{"url":"file://%s","strip_prefix":"%s","integrity":"sha256-%s"}' "$PWD/$1-$2.tar.gz" "$1" \
    "$(openssl dgst -sha256 -binary "$1-$2.tar.gz" | base64)" > "$to/source.json"
}
for name in a b; do
  mkdir -p sources/$name/deep/er; echo $name > sources/$name/it.txt; echo deep > sources/$name/deep/er/file
  ln -s deep/er/file sources/$name/link; chmod 755 sources/$name/it.txt
  cat > sources/$name/BUILD <<'BUILD'
genrule(name = "it", srcs = ["it.txt", "link"], outs = ["it.out"], cmd = "cat $(SRCS) > $@", visibility = ["//visibility:public"])
BUILD
done
mkdir -p sources/buildozer; cat > sources/buildozer/buildozer_binary.bzl <<'BZL'
def _binary(context):
    context.file("BUILD", 'exports_files(["buildozer.exe"])')
    context.file("buildozer.exe", "#!/bin/bash\necho '# tidied' >> MODULE.bazel\n", executable = True)
binary = repository_rule(_binary)
def _extension(context):
    binary(name = "buildozer_binary")
    return context.extension_metadata(reproducible = True)
buildozer_binary = module_extension(_extension)
BZL
for module in a:1.0 b:1.0 rules_cc:0.0.11 rules_java:7.6.5 rules_license:0.0.3 rules_proto:4.0.0 rules_python:0.22.1 \
  buildozer:7.1.2 platforms:0.0.9 protobuf:3.19.6 protobuf:21.7 zlib:1.3.1.bcr.3 apple_support:1.23.1; do
  add "${"${module%%:*}"}" "${"${module#*:}"}"
done
`;

const WORKSPACE = String.raw`
printf 'common --registry=file://%s\nbuild --nosandbox_debug\n' "$REGISTRY" > .bazelrc
printf 'module(name = "it")\nbazel_dep(name = "a", version = "1.0")\n' > MODULE.bazel
echo 'genrule(name = "use", srcs = ["@a//:it"], outs = ["use.out"], cmd = "cp $< $@")' > BUILD
`;

for (const bazel of found) {
  for (const mode of ["shared", "synced"]) {
    Deno.test(`Bazel ${bazel.version}, ${mode}: commands that write into the sources`, async (test) => {
      await using registry = await tempDir("rbs-registry-");
      await output(["bash", "-ec", REGISTRY, "bash", registry.path]);
      await using cluster = await startCluster({ args: [`--workspace=${mode}`], env: { RBS_BAZEL: bazel.path } });
      await using twin = await makeTwin(bazel, cluster);
      await twin.sh(WORKSPACE.replace("$REGISTRY", registry.path));
      /** Whatever the command before has written: nobody else did. */
      const quiet = async (args: string[]) => {
        const { rbs } = await twin.run(args, { anyOutput: true });
        assert.doesNotMatch(rbs.stderr, /Programs of the session|not copied back|(yours|your version) stays/);
      };
      const STEPS: Record<string, () => Promise<unknown>> = {
        "the lock file": () => quiet(["mod", "deps", "--lockfile_mode=update"]),
        // Saved so late that its times do not tell whether it was changed since.
        "mod tidy, just after an edit": async () => {
          await twin.sh("echo '# edited' >> MODULE.bazel; touch -d 'now + 30 seconds' MODULE.bazel");
          await quiet(["mod", "tidy"]);
        },
        "a build after it": () => quiet(["build", "//:use"]),
        "vendor": () => quiet(["vendor", "--vendor_dir=third_party/v", "--repo=@a"]),
        "a build that uses it": () => quiet(["build", "--vendor_dir=third_party/v", "//:use"]),
        "vendor of another module, without the first": async () => {
          await twin.sh(`sed -i 's/"a"/"b"/' MODULE.bazel; sed -i 's/@a/@b/' BUILD; rm -r third_party/v/*a~*`);
          await quiet(["vendor", "--vendor_dir=third_party/v", "--repo=@b"]);
          await quiet(["build", "--vendor_dir=third_party/v", "//:use"]);
        },
        "fetch with a lock file that is out of date and must not be": async () => {
          await twin.sh(`echo 'bazel_dep(name = "a", version = "1.0")' >> MODULE.bazel`);
          const { rbs } = await twin.run(["fetch", "--lockfile_mode=error", "//:use"], { anyOutput: true });
          assert.notEqual(rbs.code, 0, "it is out of date");
        },
        "fetch that mends it": async () => {
          await quiet(["fetch", "--lockfile_mode=update", "//:use"]);
          await quiet(["fetch", "--lockfile_mode=error", "//:use"]);
        },
        "fetch that asks for all anew": () => quiet(["fetch", "--lockfile_mode=refresh", "//:use"]),
        "fetch without a lock file": async () => {
          await twin.sh("rm MODULE.bazel.lock");
          await quiet(["fetch", "--lockfile_mode=off", "//:use"]);
        },
      };
      for (const [what, step] of Object.entries(STEPS)) await test.step(what, async () => void await step());
    });
  }
}
