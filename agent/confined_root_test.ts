import assert from "node:assert/strict";
import { join } from "node:path";
import { ownFolders } from "./confined_root.ts";

Deno.test("a session of root has root's rights in its folders, and in no system folder that a request names", () => {
  const root = Deno.realPathSync(Deno.makeTempDirSync({ dir: "/var/tmp" }));
  try {
    const at = (name: string) => join(root, name);
    Deno.mkdirSync(at("storage"));
    Deno.mkdirSync(at("open/closed/ws"), { recursive: true });
    Deno.chmodSync(root, 0o755);
    Deno.chmodSync(at("open/closed"), 0o700);
    Deno.symlinkSync("/etc", at("link"));
    const named = [at("open/closed/ws"), at("open"), at("link"), "/", "/usr", "/var/spool", "/etc/ssl", "/none"];
    assert.deepEqual(ownFolders(at("storage"), named), [at("storage"), at("open/closed"), at("open")]);
  } finally {
    Deno.removeSync(root, { recursive: true });
  }
});
