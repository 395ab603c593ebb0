import assert from "node:assert/strict";
import { join } from "node:path";
import { absolutePath } from "../proto/absolute_path.ts";
import { coversOf, refuseHidden } from "./covers.ts";

Deno.test("covers are made from the outside in, and only the session's own storage is taken from them", () => {
  const root = Deno.realPathSync(Deno.makeTempDirSync());
  try {
    const at = (name: string) => join(root, name);
    Deno.mkdirSync(at("state/storage/ann/ws"), { recursive: true });
    Deno.symlinkSync("state", at("link"));
    Deno.writeTextFileSync(at("key"), "");
    const hidden = [at("link"), at("state/storage"), at("key"), at("none"), "/"];
    const { pinned, folders, files, shown, ways } = coversOf(hidden, [at("link/storage/ann/ws"), at("elsewhere")]);
    assert.deepEqual(pinned.slice(-1), [root], "what is above them cannot be moved");
    assert.deepEqual([folders, files], [[at("state")], [at("key")]]);
    assert.deepEqual(shown, [at("state/storage/ann/ws")]);
    assert.deepEqual(ways, [at("state/storage"), at("state/storage/ann")]);

    const refused = (path: string) =>
      assert.throws(() => refuseHidden("workspace", absolutePath(path), hidden.slice(0, 4)));
    for (const path of ["state", "link", "link/new/x", "state/storage/bob", "key"]) refused(at(path));
    refuseHidden("workspace", absolutePath(root), hidden.slice(0, 4));
    refuseHidden("workspace", absolutePath(at("states")), hidden.slice(0, 4));
  } finally {
    Deno.removeSync(root, { recursive: true });
  }
});
