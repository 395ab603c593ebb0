/** How the tables of a SpannerDatabase come to their newest version. */
import type { Database } from "@google-cloud/spanner";
import { pause } from "../../proto/base/timers.ts";
import { RbsError } from "../../proto/base/errors.ts";
import type { Migrations } from "./migrations.ts";
import { readWrite } from "./spanner_transaction.ts";
import { spannerFault } from "./spanner_error.ts";

/** What leads to a schema version. Each statement may run twice, as Spanner changes a schema outside of transactions. */
export interface SpannerStep {
  /** Rows to be moved into other tables before the statements, which may drop the former ones. @default none */
  readonly moves?: readonly Move[];
  readonly statements: readonly string[];
}

/** Rows that change their table. */
export interface Move {
  /** The former table, whose key is UserId and RepoHash. */
  readonly from: string;
  readonly to: string;
  /** The columns that the former table does not have. */
  readonly more: Readonly<Record<string, string>>;
}

/** The steps of a part. */
export type SpannerMigrations = Migrations<SpannerStep>;

/** The table that counts versions; it is the database's own. */
export const VERSION_MIGRATIONS: SpannerMigrations = {
  1: {
    statements: [
      `CREATE TABLE IF NOT EXISTS SchemaVersion (
       Id INT64 NOT NULL,
       Version INT64 NOT NULL,
     ) PRIMARY KEY (Id)`,
    ],
  },
};

/** So many rows are moved in one transaction, which may change 80,000 values. */
const MOVED_AT_ONCE = 500;

/** Another orchestrator changes the same schema at this moment. Milliseconds until the next look. */
const CONCURRENT_CHANGE_MS = 200;

/**
 * Brings a database to the newest schema; several orchestrators may do so at once. Throws an RbsError when it is of a
 * newer version.
 *
 * @param store What the message calls it.
 * @param versions The steps to each version, from 1 on.
 * @param timeoutMs What one transaction may take. Milliseconds.
 */
export async function migrate(
  database: Database,
  store: string,
  versions: readonly (readonly SpannerStep[])[],
  timeoutMs: number,
): Promise<void> {
  for (;;) {
    const version = await schemaVersion(database);
    if (version > versions.length) {
      throw new RbsError(
        `The session store ${store} was written by a newer orchestrator (schema ${version}, this one knows ` +
          `${versions.length}): use that one, or name another database with --store.`,
        { culprit: "caller" },
      );
    }
    if (version === versions.length) return;
    const steps = versions[version];
    try {
      for (const move of steps.flatMap(({ moves = [] }) => moves)) await moveRows(database, timeoutMs, move);
      const [operation] = await database.updateSchema(steps.flatMap(({ statements }) => statements));
      await operation.promise();
    } catch (e) {
      if (spannerFault(e) !== "concurrent schema change") throw e;
      await pause(CONCURRENT_CHANGE_MS);
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
  { from, to, more }: Move,
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
    if (spannerFault(e) !== "no such table") throw e;
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
