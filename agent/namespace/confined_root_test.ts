import assert from "node:assert/strict";
import { ownFolders } from "./confined_root.ts";
import { tempDirSync } from "../../tests/support/temp_dir.ts";

Deno.test("a session of root has root's rights in its folders, and in no system folder that a request names", () => {
  using root = tempDirSync(undefined, "/var/tmp");
  const at = root.join;
  Deno.mkdirSync(at("storage"));
  Deno.mkdirSync(at("open/closed/ws"), { recursive: true });
  Deno.chmodSync(root.path, 0o755);
  Deno.chmodSync(at("open/closed"), 0o700);
  Deno.symlinkSync("/etc", at("link"));
  const named = [at("open/closed/ws"), at("open"), at("link"), "/", "/usr", "/var/spool", "/etc/ssl", "/none"];
  assert.deepEqual(ownFolders(at("storage"), [], named), [at("storage"), at("open/closed"), at("open")]);
});

Deno.test("where a symlink on the way of a requested path leads, a session of root gets no root's rights", () => {
  // A program of a former namespace has put a symlink there: it could write in all of these.
  using root = tempDirSync(undefined, "/var/tmp");
  const at = root.join;
  for (const folder of ["storage", "tmp/real", "bob/ws", "ann/ws"]) Deno.mkdirSync(at(folder), { recursive: true });
  Deno.chmodSync(root.path, 0o755);
  Deno.symlinkSync(at("bob"), at("tmp/x"));
  Deno.symlinkSync(at("bob/ws"), at("tmp/y"));
  Deno.symlinkSync(at("tmp/real"), at("tmp/z"));
  const named = [at("tmp/x"), at("tmp/x/ws"), at("tmp/y"), at("tmp/z"), at("ann/ws")];
  const own = ownFolders(at("storage"), [at("tmp")], named);
  assert.deepEqual(own, [at("storage"), at("tmp"), at("tmp/real"), at("ann/ws")]);
});
