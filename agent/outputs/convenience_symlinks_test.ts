import assert from "node:assert/strict";
import { Looks } from "../../proto/tree/looks.ts";
import { findConvenienceSymlinks, symlinkPrefix } from "./convenience_symlinks.ts";
import { sessionFiles } from "./testing/session_files.ts";

Deno.test("the links that lead to outputs are found, by their prefix", async () => {
  await using files = await sessionFiles();
  const { workspace, bin, execRoot, outputBase } = files;
  files.write({
    [`${workspace}/bazel-bin`]: { link: bin },
    [`${workspace}/bazel-ws`]: { link: execRoot },
    [`${workspace}/out/bin`]: { link: bin },
    [`${workspace}/mine`]: { link: bin },
    [`${workspace}/bazel-notes`]: "a file",
    [`${workspace}/bazel-etc`]: { link: "/etc" },
    [`${workspace}/bazel-cookie`]: { link: `${outputBase}/server` },
    [`${workspace}/bazel-twisted`]: { link: `${execRoot}/../../server` },
    [`${workspace}/bazel-old`]: { link: "/nowhere/home/ann/.cache/bazel/_bazel_ann/4567/execroot/ws" },
  });
  const found = (prefix: string) =>
    findConvenienceSymlinks({ ...files, prefix, looks: new Looks(files.storage, 0) }).map((
      { path, target },
    ) => [path, target]).sort();
  assert.deepEqual(found("bazel-"), [[`${workspace}/bazel-bin`, bin], [`${workspace}/bazel-ws`, execRoot]]);
  assert.deepEqual(found("out/"), [[`${workspace}/out/bin`, bin]]);
  assert.deepEqual(found(`${workspace}/out/`), [[`${workspace}/out/bin`, bin]]);
  for (const prefix of ["/", "/etc/", "../", "missing/", "bazel-etc/", "bazel-bin/", "bazel-notes/"]) {
    assert.deepEqual(found(prefix), [], prefix);
  }
});

Deno.test("the prefix is the last that the command line says, else what an rc file says", () => {
  const rc = "--default_override=1:build=--symlink_prefix=rc-";
  assert.equal(symlinkPrefix(["build"]), "bazel-");
  assert.equal(symlinkPrefix(["build", rc]), "rc-");
  assert.equal(symlinkPrefix(["build", "--symlink_prefix=a-", rc, "--symlink_prefix", "b-"]), "b-");
  assert.equal(symlinkPrefix(["build", "--symlink_prefix="]), "bazel-");
  assert.equal(symlinkPrefix(["build", "--symlink_prefix=\xc3\xb6-"]), "ö-");
  assert.equal(symlinkPrefix(["run", "//:t", "--", "--symlink_prefix=a-"]), "bazel-");
});
