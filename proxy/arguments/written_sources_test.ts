import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { writtenSources } from "./written_sources.ts";

const WS = "/home/ann/ws";
const FILES: Record<string, string> = {
  [`${WS}/MODULE.bazel`]:
    `module(name = "x")\ninclude("//deep:a.MODULE.bazel")\n  include("//:b.MODULE.bazel")\ninclude("//../../etc:c.MODULE.bazel")`,
  [`${WS}/deep/a.MODULE.bazel`]: `include(":d.MODULE.bazel")\n# include("//:e.MODULE.bazel")\ninclude("//:BUILD")\n`,
};

/** What a command may write, below the workspace. */
function written(command: string, ...typed: string[]): string[] {
  const words = [command, "--client_env=HOME=/home/ann", `--client_cwd=${WS}/sub`, ...typed];
  const { files, folders } = writtenSources({
    args: words.map((word) => Buffer.from(word, "latin1")),
    workspace: WS,
    outputBase: `${WS}/ob`,
    readFile: (path) => FILES[path],
  });
  return [...files, ...folders.map((folder) => `${folder}/…`)].map((path) => path.replace(`${WS}/`, "")).sort();
}

Deno.test("mod tidy may write the module's file and what it includes, other mod commands nothing", () => {
  const tidied = ["MODULE.bazel", "b.MODULE.bazel", "deep/a.MODULE.bazel", "deep/d.MODULE.bazel"];
  assert.deepEqual(written("mod", "tidy"), tidied);
  assert.deepEqual(written("mod", "--lockfile_mode=update", "tidy"), tidied);
  assert.deepEqual(written("mod", "deps", "--lockfile_mode=update"), []);
});

Deno.test("vendor may write its folder if that is in the workspace, others no more than its own file", () => {
  assert.deepEqual(written("vendor", "--vendor_dir=third_party/v"), ["third_party/v/VENDOR.bazel", "third_party/v/…"]);
  assert.deepEqual(written("vendor", "--vendor_dir", `${WS}/v/`, "//..."), ["v/VENDOR.bazel", "v/…"]);
  assert.deepEqual(written("build", "--vendor_dir=v"), ["v/VENDOR.bazel"]);
  for (const folder of ["../v", "/elsewhere", ".", "ob", "ob/v", "", "~/v"]) {
    assert.deepEqual(written("vendor", `--vendor_dir=${folder}`), [], folder);
  }
  assert.deepEqual(written("build", "//..."), []);
});
