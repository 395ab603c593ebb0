import assert from "node:assert/strict";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { RbsError } from "../../proto/base/errors.ts";
import { fields } from "../testing/session_fields.ts";
import { tempDirSync } from "../../tests/support/temp_dir.ts";
import { startColumns } from "./rows.ts";
import { SqliteStore } from "./sqlite_store.ts";
import { storeContract } from "./store_contract.ts";

const KEY = { userId: "ann", repoHash: "a".repeat(32), serverId: "" };

function database() {
  const temp = tempDirSync();
  return {
    open: () => SqliteStore.open(join(temp.path, "s.sqlite")),
    // deno-lint-ignore require-await
    [Symbol.asyncDispose]: async () => temp[Symbol.dispose](),
  };
}

storeContract("SQLite", database);

Deno.test("SQLite: what was written is there after the store was opened anew, for its owner only", async () => {
  using temp = tempDirSync();
  const file = join(temp.path, "s.sqlite");
  let before;
  {
    await using store = SqliteStore.open(file);
    before = await store.sessions.transition({ ...KEY, state: "NONE", epoch: 0 }, "start", fields());
    for (const { name } of Deno.readDirSync(temp.path)) {
      assert.equal(Deno.statSync(join(temp.path, name)).mode! & 0o777, 0o600, name);
    }
  }
  // One that was made by hand.
  Deno.chmodSync(file, 0o644);
  await using store = SqliteStore.open(file);
  assert.deepEqual(await store.sessions.get(KEY), before);
  assert.equal(Deno.statSync(file).mode! & 0o777, 0o600);
});

/** The tables of the first version, and those of the last one without server ids. */
const FIRST = `
  CREATE TABLE BuildSessions (
    UserId TEXT NOT NULL, RepoHash TEXT NOT NULL, SessionId TEXT NOT NULL, PodIP TEXT NOT NULL, Status TEXT NOT NULL,
    Epoch INTEGER NOT NULL, AgentPort INTEGER NOT NULL, CommandPort INTEGER NOT NULL, ComputeService TEXT NOT NULL,
    ProcessId TEXT NOT NULL, Region TEXT NOT NULL, StartupOptionsHash TEXT NOT NULL, StartupOptions TEXT NOT NULL,
    SourcePath TEXT NOT NULL, StorageDirectory TEXT NOT NULL, AccessToken TEXT NOT NULL, ControlToken TEXT NOT NULL,
    Warnings TEXT NOT NULL, SamePaths INTEGER NOT NULL, Failure TEXT NOT NULL, FailureTransient INTEGER NOT NULL,
    CreatedAt INTEGER NOT NULL, LastHeartbeat INTEGER NOT NULL, PRIMARY KEY (UserId, RepoHash)
  ) STRICT, WITHOUT ROWID;
  CREATE TABLE SessionEpochs (
    UserId TEXT NOT NULL, RepoHash TEXT NOT NULL, Epoch INTEGER NOT NULL, PRIMARY KEY (UserId, RepoHash)
  ) STRICT, WITHOUT ROWID;
  INSERT INTO SessionEpochs VALUES ('ann', 'gone', 7);
  PRAGMA user_version = 1;`;
const FIFTH = `${FIRST}
  ALTER TABLE BuildSessions ADD COLUMN Synced INTEGER NOT NULL DEFAULT 0;
  ALTER TABLE BuildSessions ADD COLUMN MissingInstallBase TEXT NOT NULL DEFAULT '';
  ALTER TABLE BuildSessions ADD COLUMN Holder TEXT NOT NULL DEFAULT '';
  ALTER TABLE BuildSessions ADD COLUMN Term INTEGER NOT NULL DEFAULT 0;
  CREATE TABLE WarmAgents (
    Id TEXT NOT NULL PRIMARY KEY, Owner TEXT NOT NULL, ComputeService TEXT NOT NULL, ProcessId TEXT NOT NULL,
    PodIP TEXT NOT NULL, AgentPort INTEGER NOT NULL, CommandPort INTEGER NOT NULL, ControlToken TEXT NOT NULL,
    StorageDirectory TEXT NOT NULL, CreatedAt INTEGER NOT NULL
  ) STRICT, WITHOUT ROWID;
  CREATE TABLE EnrolmentTokens (
    TokenHash TEXT NOT NULL PRIMARY KEY, Uri TEXT NOT NULL, ExpiresAt INTEGER NOT NULL
  ) STRICT, WITHOUT ROWID;
  CREATE TABLE RevokedUsers (UserId TEXT NOT NULL PRIMARY KEY, RevokedAt INTEGER NOT NULL) STRICT, WITHOUT ROWID;
  CREATE TABLE Orchestrators (
    Id TEXT NOT NULL PRIMARY KEY, Address TEXT NOT NULL, DurationMs INTEGER NOT NULL, ExpiresAt INTEGER NOT NULL
  ) STRICT, WITHOUT ROWID;
  INSERT INTO Orchestrators VALUES ('${"1".repeat(32)}', 'host:1', 10000, 5);
  PRAGMA user_version = 5;`;

for (
  const [version, schema, kept] of [
    ["the first version", FIRST, { synced: false, missingInstallBase: "", holder: "" }],
    ["the last version without server ids", FIFTH, {
      synced: true,
      missingInstallBase: "base",
      holder: "1".repeat(32),
    }],
  ] as const
) {
  Deno.test(`SQLite: a file of ${version} is taken on, with all that it holds`, async () => {
    using temp = tempDirSync();
    const file = join(temp.path, "s.sqlite");
    const old = new DatabaseSync(file);
    old.exec(schema);
    const known = new Set(
      old.prepare("SELECT name FROM pragma_table_info('BuildSessions')").all().map((row) => row.name),
    );
    const { serverId: _, ...key } = KEY;
    const start = fields(kept);
    const row = {
      UserId: key.userId,
      RepoHash: key.repoHash,
      Status: "READY",
      Epoch: 4,
      Term: 3,
      ...startColumns(start),
    };
    const columns = Object.entries(row).filter(([name]) => known.has(name));
    old.prepare(
      `INSERT INTO BuildSessions (${columns.map(([name]) => name).join()}) VALUES (${columns.map(() => "?").join()})`,
    ).run(...columns.map(([, value]) => value));
    // An orchestrator of before that still has the file open.
    const before = old.prepare("SELECT * FROM BuildSessions");
    assert.equal(before.all().length, 1);
    for (let opened = 1; opened <= 2; opened++) {
      await using store = SqliteStore.open(file);
      const session = await store.sessions.get(KEY);
      assert.deepEqual(session, { ...start, ...KEY, status: "READY", epoch: 4, term: known.has("Term") ? 3 : 0 });
      assert.deepEqual(await store.sessions.list(), [session]);
      assert.deepEqual((await store.leases.list()).map(({ id }) => id), known.has("Holder") ? ["1".repeat(32)] : []);
      const gone = await store.sessions.transition(
        { ...KEY, repoHash: "gone", state: "NONE", epoch: 0 },
        "start",
        fields(),
      );
      assert.equal(gone?.epoch, 7 + opened);
      await store.sessions.transition({ ...gone, state: "PENDING" }, "fail");
      await store.sessions.transition({ ...gone, state: "FAILED" }, "forget");
    }
    assert.throws(() => before.all(), /no such table/);
    old.close();
  });
}

Deno.test("SQLite: damaged files and other programs' files are named, and left as they are", async () => {
  using temp = tempDirSync();
  const file = join(temp.path, "s.sqlite");
  const refused = (pattern: RegExp) =>
    assert.throws(() => SqliteStore.open(file), (e: unknown) => {
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
  await SqliteStore.open(file)[Symbol.asyncDispose]();
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
