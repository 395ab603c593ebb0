import assert from "node:assert/strict";
import { realPath } from "./real_path.ts";
import { tempDirSync } from "../../tests/support/temp_dir.ts";

Deno.test("a path is followed as far as it is there, also through symlinks that lead to nothing yet", () => {
  using root = tempDirSync();
  const at = root.join;
  Deno.mkdirSync(at("real/keys"), { recursive: true });
  Deno.symlinkSync("real", at("link"));
  Deno.symlinkSync("real/later", at("dangling"));
  Deno.symlinkSync("loop", at("loop"));
  Deno.writeTextFileSync(at("file"), "");
  assert.equal(realPath(at("link/keys")), at("real/keys"));
  assert.equal(realPath(at("link/keys/none/x")), at("real/keys/none/x"));
  assert.equal(realPath(at("dangling")), at("real/later"));
  assert.equal(realPath(at("dangling/x")), at("real/later/x"));
  assert.equal(realPath(at("file/x")), at("file/x"));
  assert.throws(() => realPath(at("loop")));
});
