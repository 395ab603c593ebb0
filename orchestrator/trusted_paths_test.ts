import assert from "node:assert/strict";
import { join } from "node:path";
import { RbsError } from "../proto/base/errors.ts";
import { tempDirSync } from "../tests/support/temp_dir.ts";
import { trustedPaths, type TrustedPathsOptions } from "./trusted_paths.ts";

const spanner = { kind: "spanner", database: "d" } as const;

function options(root: string, change: Partial<TrustedPathsOptions>, env: Record<string, string> = {}) {
  return {
    stateDir: join(root, "state"),
    storageRoot: join(root, "state/storage"),
    store: { kind: "sqlite", file: join(root, "state/sessions.sqlite") } as const,
    synced: false,
    environment: (name: string) => env[name],
    ...change,
  };
}

Deno.test("what an orchestrator is trusted by is named by where it really is", () => {
  using temp = tempDirSync();
  const root = Deno.realPathSync(temp.path);
  Deno.mkdirSync(join(root, "real"));
  Deno.symlinkSync("real", join(root, "state"));
  assert.deepEqual(trustedPaths(options(root, {})), [join(root, "real"), join(root, "real/storage")]);
  const authority = { keyFile: join(root, "ca.key"), certificateFile: join(root, "ca.crt") };
  const env = { HOME: join(root, "home"), GOOGLE_APPLICATION_CREDENTIALS: join(root, "g.json"), RBS_STATE_DIR: "/s" };
  assert.deepEqual(trustedPaths(options(root, { outsideAuthority: authority, store: spanner }, env)).slice(2), [
    "/s/keys",
    join(root, "home/.local/state/rbs/keys"),
    authority.keyFile,
    authority.certificateFile,
    env.GOOGLE_APPLICATION_CREDENTIALS,
    join(root, "home/.config/gcloud"),
  ]);
});

Deno.test("a store elsewhere is hidden with its folder, and refused where that has other files", () => {
  using temp = tempDirSync();
  const root = Deno.realPathSync(temp.path);
  const store = { kind: "sqlite", file: join(root, "db/s.sqlite") } as const;
  Deno.mkdirSync(join(root, "db"));
  Deno.writeTextFileSync(store.file + "-wal", "");
  assert.deepEqual(trustedPaths(options(root, { store })).at(-1), join(root, "db"));
  Deno.writeTextFileSync(join(root, "db/notes"), "");
  const refused = (e: unknown) => e instanceof RbsError && /beside other files \(notes\)/.test(e.message);
  assert.throws(() => trustedPaths(options(root, { store })), refused);
  assert.doesNotThrow(() => trustedPaths(options(root, { store, synced: true })), "it sees nothing of the machine");
  const inSystem = { kind: "sqlite", file: "/etc/rbs.sqlite" } as const;
  assert.throws(() => trustedPaths(options(root, { store: inSystem, synced: true })), RbsError);
});
