import assert from "node:assert/strict";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { RbsError } from "../../proto/errors.ts";
import { identityStoreContract } from "../identity/identity_store_contract.ts";
import { tempDirectory } from "../testing/temp.ts";
import { SqliteSessionStore } from "./sqlite_store.ts";
import { fields, storeContract } from "./store_contract.ts";

const KEY = { userId: "ann", repoHash: "a".repeat(32) };

function database() {
  const temp = tempDirectory();
  return {
    open: () => SqliteSessionStore.open(join(temp.path, "s.sqlite")),
    // deno-lint-ignore require-await
    [Symbol.asyncDispose]: async () => temp[Symbol.dispose](),
  };
}

storeContract("SQLite", database);
identityStoreContract("SQLite", database);

Deno.test("SQLite: what was written is there after the store was opened anew, for its owner only", async () => {
  using temp = tempDirectory();
  const file = join(temp.path, "s.sqlite");
  let before;
  {
    await using store = SqliteSessionStore.open(file);
    before = await store.transition({ ...KEY, state: "NONE", epoch: 0 }, "start", fields());
    for (const { name } of Deno.readDirSync(temp.path)) {
      assert.equal(Deno.statSync(join(temp.path, name)).mode! & 0o777, 0o600, name);
    }
  }
  await using store = SqliteSessionStore.open(file);
  assert.deepEqual(await store.get(KEY), before);
});

Deno.test("SQLite: a file of the first version is taken on, with all that it holds", async () => {
  using temp = tempDirectory();
  const file = join(temp.path, "s.sqlite");
  {
    await using store = SqliteSessionStore.open(file);
    await store.transition({ ...KEY, state: "NONE", epoch: 0 }, "start", fields({ synced: false }));
  }
  const old = new DatabaseSync(file);
  for (const column of ["Synced", "MissingInstallBase", "Holder", "Term"]) {
    old.exec(`ALTER TABLE BuildSessions DROP COLUMN ${column}`);
  }
  for (const table of ["WarmAgents", "EnrolmentTokens", "RevokedUsers", "Orchestrators"]) {
    old.exec(`DROP TABLE ${table}`);
  }
  old.exec("PRAGMA user_version = 1");
  old.close();
  for (let opened = 1; opened <= 2; opened++) {
    await using store = SqliteSessionStore.open(file);
    const session = await store.get(KEY);
    assert.deepEqual({ ...fields({ synced: false }), ...KEY, status: "PENDING", epoch: 1, term: 0 }, session);
    assert.deepEqual(await store.leases(), []);
  }
});

Deno.test("SQLite: damaged files and other programs' files are named, and left as they are", async () => {
  using temp = tempDirectory();
  const file = join(temp.path, "s.sqlite");
  const refused = (pattern: RegExp) =>
    assert.throws(() => SqliteSessionStore.open(file), (e: unknown) => {
      assert(e instanceof RbsError);
      assert.match(e.message, pattern);
      assert(e.message.includes(file));
      assert(!e.message.includes("\n"));
      return true;
    });

  Deno.writeTextFileSync(file, "no database ".repeat(1000));
  refused(/is damaged \(file is not a database\): move it away/);
  assert.equal(Deno.readTextFileSync(file), "no database ".repeat(1000));

  Deno.removeSync(file);
  Deno.mkdirSync(file);
  refused(/cannot be opened/);
  Deno.removeSync(file);

  // A page in the middle that was overwritten.
  await SqliteSessionStore.open(file)[Symbol.asyncDispose]();
  const bytes = Deno.readFileSync(file);
  assert(bytes.length > 8192);
  bytes.fill(0x5a, 4096, 8192);
  Deno.writeFileSync(file, bytes);
  refused(/is damaged/);
  assert.deepEqual(Deno.readFileSync(file), bytes);

  Deno.removeSync(file);
  const newer = new DatabaseSync(file);
  newer.exec("PRAGMA user_version = 99");
  newer.close();
  refused(/written by a newer orchestrator/);
});
