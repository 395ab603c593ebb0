import assert from "node:assert/strict";
import { absolutePath } from "../../proto/base/absolute_path.ts";
import { coversOf, NO_COVERS, refuseHidden, withSessionMark } from "./covers.ts";
import { tempDirSync } from "../../tests/support/temp_dir.ts";

Deno.test("covers are made from the outside in, and only the session's own storage is taken from them", () => {
  using root = tempDirSync();
  const at = root.join;
  Deno.mkdirSync(at("state/storage/ann/ws"), { recursive: true });
  Deno.symlinkSync("state", at("link"));
  Deno.writeTextFileSync(at("key"), "");
  const hidden = [at("link"), at("state/storage"), at("key"), at("none"), "/"];
  const { pinned, folders, files, shown, ways } = coversOf(hidden, [at("link/storage/ann/ws"), at("elsewhere")]);
  assert.deepEqual(pinned.slice(-1), [root.path], "what is above them cannot be moved");
  assert.deepEqual([folders, files], [[at("state")], [at("key")]]);
  assert.deepEqual(shown, [at("state/storage/ann/ws")]);
  assert.deepEqual(ways, [at("state/storage"), at("state/storage/ann")]);

  Deno.mkdirSync(at("state/storage/ann/.classes/kept"), { recursive: true });
  const others = coversOf(hidden, [at("link/storage/ann/ws")], [at("link/storage/ann/.classes/kept"), at("none")]);
  assert.deepEqual(others.readable, [at("state/storage/ann/.classes/kept")]);
  assert.deepEqual(others.ways, [at("state/storage"), at("state/storage/ann"), at("state/storage/ann/.classes")]);

  const refused = (path: string) =>
    assert.throws(() => refuseHidden("workspace", absolutePath(path), hidden.slice(0, 4)));
  for (const path of ["state", "link", "link/new/x", "state/storage/bob", "key"]) refused(at(path));
  refuseHidden("workspace", absolutePath(root.path), hidden.slice(0, 4));
  refuseHidden("workspace", absolutePath(at("states")), hidden.slice(0, 4));
});

Deno.test("what tells bin/java of a session is covered, and nothing else by that name", () => {
  using root = tempDirSync();
  for (const name of ["good", "folder/rbs-session", "led"]) Deno.mkdirSync(root.join(name), { recursive: true });
  Deno.writeTextFileSync(root.join("good/rbs-session"), "");
  Deno.writeTextFileSync(root.join("key"), "");
  Deno.symlinkSync("good", root.join("link"));
  Deno.symlinkSync("../key", root.join("led/rbs-session"));
  const marked = (name: string, covers = NO_COVERS) => withSessionMark(covers, root.join(name)).files;
  assert.deepEqual(["good", "link", "folder", "led", "none"].map((name) => marked(name).length), [1, 1, 0, 0, 0]);
  assert.deepEqual(marked("link"), [root.join("good/rbs-session")]);
  assert.deepEqual(marked("good", { ...NO_COVERS, folders: [root.path] }), []);
  assert.deepEqual(withSessionMark(NO_COVERS, undefined), NO_COVERS);
});
