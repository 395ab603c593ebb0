/** The tables of a SpannerSessionStore: the same as those of the SqliteSessionStore. */
import type { Database } from "@google-cloud/spanner";
import { RbsError } from "../../proto/base/errors.ts";
import { readWrite } from "./spanner_transaction.ts";

/**
 * The statements that lead from each schema version to the next one; the table SchemaVersion counts them. Each may run
 * twice, as Spanner changes a schema outside of transactions.
 */
export const MIGRATIONS: readonly (readonly string[])[] = [
  [
    `CREATE TABLE IF NOT EXISTS SchemaVersion (
       Id INT64 NOT NULL,
       Version INT64 NOT NULL,
     ) PRIMARY KEY (Id)`,
    `CREATE TABLE IF NOT EXISTS BuildSessions (
       UserId STRING(MAX) NOT NULL,
       RepoHash STRING(MAX) NOT NULL,
       SessionId STRING(MAX) NOT NULL,
       PodIP STRING(MAX) NOT NULL,
       Status STRING(MAX) NOT NULL,
       Epoch INT64 NOT NULL,
       AgentPort INT64 NOT NULL,
       CommandPort INT64 NOT NULL,
       ComputeService STRING(MAX) NOT NULL,
       ProcessId STRING(MAX) NOT NULL,
       Region STRING(MAX) NOT NULL,
       StartupOptionsHash STRING(MAX) NOT NULL,
       StartupOptions STRING(MAX) NOT NULL,
       SourcePath STRING(MAX) NOT NULL,
       StorageDirectory STRING(MAX) NOT NULL,
       AccessToken STRING(MAX) NOT NULL,
       ControlToken STRING(MAX) NOT NULL,
       Warnings STRING(MAX) NOT NULL,
       SamePaths INT64 NOT NULL,
       Synced INT64 NOT NULL,
       MissingInstallBase STRING(MAX) NOT NULL,
       Failure STRING(MAX) NOT NULL,
       FailureTransient INT64 NOT NULL,
       CreatedAt INT64 NOT NULL,
       LastHeartbeat INT64 NOT NULL,
       CONSTRAINT KnownStatus CHECK (Status IN ('PENDING', 'READY', 'STOPPING', 'FAILED')),
     ) PRIMARY KEY (UserId, RepoHash)`,
    // The highest epoch of keys whose session is gone: a fencing token must never be given out twice.
    `CREATE TABLE IF NOT EXISTS SessionEpochs (
       UserId STRING(MAX) NOT NULL,
       RepoHash STRING(MAX) NOT NULL,
       Epoch INT64 NOT NULL,
     ) PRIMARY KEY (UserId, RepoHash)`,
  ],
  [
    `CREATE TABLE IF NOT EXISTS WarmAgents (
       Id STRING(MAX) NOT NULL,
       Owner STRING(MAX) NOT NULL,
       ComputeService STRING(MAX) NOT NULL,
       ProcessId STRING(MAX) NOT NULL,
       PodIP STRING(MAX) NOT NULL,
       AgentPort INT64 NOT NULL,
       CommandPort INT64 NOT NULL,
       ControlToken STRING(MAX) NOT NULL,
       StorageDirectory STRING(MAX) NOT NULL,
       CreatedAt INT64 NOT NULL,
     ) PRIMARY KEY (Id)`,
  ],
  [
    `CREATE TABLE IF NOT EXISTS EnrolmentTokens (
       TokenHash STRING(MAX) NOT NULL,
       Uri STRING(MAX) NOT NULL,
       ExpiresAt INT64 NOT NULL,
     ) PRIMARY KEY (TokenHash)`,
    `CREATE TABLE IF NOT EXISTS RevokedUsers (
       UserId STRING(MAX) NOT NULL,
       RevokedAt INT64 NOT NULL,
     ) PRIMARY KEY (UserId)`,
  ],
  // Several orchestrators on one database.
  [
    `CREATE TABLE IF NOT EXISTS Orchestrators (
       Id STRING(MAX) NOT NULL,
       Address STRING(MAX) NOT NULL,
       DurationMs INT64 NOT NULL,
       ExpiresAt INT64 NOT NULL,
     ) PRIMARY KEY (Id)`,
    `ALTER TABLE BuildSessions ADD COLUMN IF NOT EXISTS Holder STRING(MAX) NOT NULL DEFAULT ("")`,
    `ALTER TABLE BuildSessions ADD COLUMN IF NOT EXISTS Term INT64 NOT NULL DEFAULT (0)`,
  ],
  // Several servers of a user for one workspace: a primary key cannot be altered.
  [
    `CREATE TABLE IF NOT EXISTS ServerSessions (
       UserId STRING(MAX) NOT NULL,
       RepoHash STRING(MAX) NOT NULL,
       ServerId STRING(MAX) NOT NULL,
       SessionId STRING(MAX) NOT NULL,
       PodIP STRING(MAX) NOT NULL,
       Status STRING(MAX) NOT NULL,
       Epoch INT64 NOT NULL,
       Term INT64 NOT NULL,
       AgentPort INT64 NOT NULL,
       CommandPort INT64 NOT NULL,
       ComputeService STRING(MAX) NOT NULL,
       ProcessId STRING(MAX) NOT NULL,
       Region STRING(MAX) NOT NULL,
       StartupOptionsHash STRING(MAX) NOT NULL,
       StartupOptions STRING(MAX) NOT NULL,
       SourcePath STRING(MAX) NOT NULL,
       StorageDirectory STRING(MAX) NOT NULL,
       AccessToken STRING(MAX) NOT NULL,
       ControlToken STRING(MAX) NOT NULL,
       Warnings STRING(MAX) NOT NULL,
       SamePaths INT64 NOT NULL,
       Synced INT64 NOT NULL,
       MissingInstallBase STRING(MAX) NOT NULL,
       Failure STRING(MAX) NOT NULL,
       FailureTransient INT64 NOT NULL,
       Holder STRING(MAX) NOT NULL,
       CreatedAt INT64 NOT NULL,
       LastHeartbeat INT64 NOT NULL,
       AdoptedBy STRING(MAX) NOT NULL,
       CONSTRAINT KnownServerStatus CHECK (Status IN ('PENDING', 'READY', 'STOPPING', 'FAILED')),
     ) PRIMARY KEY (UserId, RepoHash, ServerId)`,
    `CREATE TABLE IF NOT EXISTS ServerEpochs (
       UserId STRING(MAX) NOT NULL,
       RepoHash STRING(MAX) NOT NULL,
       ServerId STRING(MAX) NOT NULL,
       Epoch INT64 NOT NULL,
     ) PRIMARY KEY (UserId, RepoHash, ServerId)`,
  ],
  // What the former tables hold has been moved by then. An orchestrator of before that still runs on the database hears
  // that its tables are gone, and leaves its agents alone.
  [
    `DROP TABLE IF EXISTS BuildSessions`,
    `DROP TABLE IF EXISTS SessionEpochs`,
  ],
];

/** The schema version at which rows wait to be moved, and how they change on the way; the last migration drops their tables. */
const MOVED_AT = 5;
const MOVES: readonly { from: string; to: string; more: Readonly<Record<string, string>> }[] = [
  { from: "SessionEpochs", to: "ServerEpochs", more: { ServerId: "" } },
  { from: "BuildSessions", to: "ServerSessions", more: { ServerId: "", AdoptedBy: "" } },
];
/** So many rows are moved in one transaction, which may change 80,000 values. */
const MOVED_AT_ONCE = 500;

/** Another orchestrator changes the same schema at this moment. Milliseconds until the next look. */
const CONCURRENT_CHANGE_MS = 200;

/**
 * Brings a database to the newest schema; several orchestrators may do so at once. Throws an RbsError when it is of a
 * newer version.
 *
 * @param store What the message calls it.
 * @param timeoutMs What one transaction may take. Milliseconds.
 */
export async function migrate(database: Database, store: string, timeoutMs: number): Promise<void> {
  for (;;) {
    const version = await schemaVersion(database);
    if (version > MIGRATIONS.length) {
      throw new RbsError(
        `The session store ${store} was written by a newer orchestrator (schema ${version}, this one knows ` +
          `${MIGRATIONS.length}): use that one, or name another database with --store.`,
        { culprit: "caller" },
      );
    }
    if (version === MIGRATIONS.length) return;
    try {
      if (version === MOVED_AT) { for (const move of MOVES) await moveRows(database, timeoutMs, move); }
      const [operation] = await database.updateSchema([...MIGRATIONS[version]]);
      await operation.promise();
    } catch (e) {
      if (!/concurrent schema change/i.test(String(e))) throw e;
      await new Promise((resolve) => setTimeout(resolve, CONCURRENT_CHANGE_MS));
      continue;
    }
    await readWrite(database, timeoutMs, async (transaction) => {
      // Not lowered, should a newer orchestrator have come by meanwhile.
      const [rows] = await transaction.read("SchemaVersion", { keys: [["1"]], columns: ["Version"], json: true });
      const now = Number((rows[0] as unknown as { Version: number } | undefined)?.Version ?? 0);
      transaction.upsert("SchemaVersion", { Id: 1, Version: Math.max(now, version + 1) });
      return { happened: true };
    });
  }
}

/**
 * Moves all rows into another table, each in one transaction: whoever writes the former table meanwhile finds it there, or
 * gone. What was there before stays, if somebody is faster.
 */
async function moveRows(
  database: Database,
  timeoutMs: number,
  { from, to, more }: typeof MOVES[number],
): Promise<void> {
  const sql = `SELECT * FROM ${from} LIMIT ${MOVED_AT_ONCE}`;
  try {
    for (let left = true; left;) {
      ({ happened: left } = await readWrite(database, timeoutMs, async (transaction) => {
        const [found] = await transaction.run({ sql, json: true });
        const rows = found as unknown as Record<string, string | number>[];
        if (rows.length === 0) return { happened: false };
        transaction.upsert(to, rows.map((row) => ({ ...row, ...more })));
        transaction.deleteRows(from, rows.map(({ UserId, RepoHash }) => [String(UserId), String(RepoHash)]));
        return { happened: true };
      }));
    }
  } catch (e) {
    // It was dropped, perhaps by an orchestrator that then ended before it could say so.
    if (!/table not found/i.test(String(e))) throw e;
  }
}

/** 0: the tables were never made. */
async function schemaVersion(database: Database): Promise<number> {
  const [tables] = await database.run(
    "SELECT 1 FROM information_schema.tables WHERE table_schema = '' AND table_name = 'SchemaVersion'",
  );
  if (tables.length === 0) return 0;
  const [rows] = await database.run({ sql: "SELECT Version FROM SchemaVersion WHERE Id = 1", json: true });
  return Number((rows[0] as unknown as { Version: number } | undefined)?.Version ?? 0);
}
