import assert from "node:assert/strict";
import { Looks } from "../../proto/tree/stat_snapshot.ts";
import { findConvenienceSymlinks } from "./convenience_symlinks.ts";
import { sessionFiles } from "./testing/session_files.ts";

Deno.test("the links that lead to outputs are found, by their prefix", async () => {
  await using files = await sessionFiles();
  const { workspace, bin, execRoot, outputBase } = files;
  files.write({
    [`${workspace}/bazel-bin`]: { link: bin },
    [`${workspace}/bazel-ws`]: { link: execRoot },
    [`${workspace}/out/bin`]: { link: bin },
    [`${workspace}/mine`]: { link: bin },
    [`${workspace}/bazel-out`]: { link: `${execRoot}/bazel-out` },
    ["/nowhere/home/ann/up-bin"]: { link: bin },
    [`${workspace}/bazel-notes`]: "a file",
    [`${workspace}/bazel-etc`]: { link: "/etc" },
    [`${workspace}/bazel-cookie`]: { link: `${outputBase}/server` },
    [`${workspace}/bazel-twisted`]: { link: `${execRoot}/../../server` },
    [`${workspace}/bazel-old`]: { link: "/nowhere/home/ann/.cache/bazel/_bazel_ann/4567/execroot/ws" },
  });
  const out = [`${workspace}/bazel-out`, `${execRoot}/bazel-out`];
  const found = (prefix: string) =>
    findConvenienceSymlinks({ ...files, prefix, looks: new Looks(files.storage, 0) }).map((
      { path, target },
    ) => [path, target]).sort();
  assert.deepEqual(found("bazel-"), [
    [`${workspace}/bazel-bin`, bin],
    out,
    [`${workspace}/bazel-ws`, execRoot],
  ]);
  assert.deepEqual(found("out/"), [out, [`${workspace}/out/bin`, bin]]);
  assert.deepEqual(found(`${workspace}/out/`), [out, [`${workspace}/out/bin`, bin]]);
  assert.deepEqual(found("../up-"), [["/nowhere/home/ann/up-bin", bin], out]);
  assert.deepEqual(found("/nowhere/home/ann/up-"), [["/nowhere/home/ann/up-bin", bin], out]);
  for (const prefix of ["/", "/etc/", "missing/", "bazel-etc/", "bazel-bin/", "bazel-notes/"]) {
    assert.deepEqual(found(prefix), [out], prefix);
  }
});
