/** Updates the tables of a SpannerDatabase to the newest version. */
import type { Database } from "@google-cloud/spanner";
import { pause } from "../../proto/base/timers.ts";
import { RbsError } from "../../proto/base/errors.ts";
import type { Migrations } from "./migrations.ts";
import { readWrite } from "./spanner_transaction.ts";
import { spannerFault } from "./spanner_error.ts";

/**
 * A step to a schema version. Each statement may run twice, since Spanner changes a schema outside of transactions.
 */
export interface SpannerStep {
  /** Rows to move to other tables before the statements, which may drop the old ones. @default none */
  readonly moves?: readonly Move[];
  readonly statements: readonly string[];
}

/** A move of rows to another table. */
export interface Move {
  /** The old table, with the key UserId and RepoHash. */
  readonly from: string;
  readonly to: string;
  /** Values of the columns that the old table lacks. */
  readonly more: Readonly<Record<string, string>>;
}

/** The steps of a part. */
export type SpannerMigrations = Migrations<SpannerStep>;

/** The table that counts versions; it belongs to the database itself. */
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

/** Number of rows moved in one transaction, which may change 80,000 values. */
const MOVED_AT_ONCE = 500;

/** Pause while another orchestrator changes the same schema. Milliseconds. */
const CONCURRENT_CHANGE_MS = 200;

/**
 * Updates a database to the newest schema; several orchestrators may do so at once. Throws an RbsError if it has a
 * newer version.
 *
 * @param store Its name in messages.
 * @param versions The steps to each version, from 1 on.
 * @param timeoutMs Timeout of one transaction, in milliseconds.
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
      // Never lowered, in case a newer orchestrator has raised it meanwhile.
      const [rows] = await transaction.read("SchemaVersion", { keys: [["1"]], columns: ["Version"], json: true });
      const now = Number((rows[0] as unknown as { Version: number } | undefined)?.Version ?? 0);
      transaction.upsert("SchemaVersion", { Id: 1, Version: Math.max(now, version + 1) });
      return { happened: true };
    });
  }
}

/**
 * Moves all rows to another table, up to MOVED_AT_ONCE per transaction: a concurrent writer of the old table finds each
 * row either there or gone.
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
    // The table was dropped, perhaps by an orchestrator that ended before it could record that.
    if (spannerFault(e) !== "no such table") throw e;
  }
}

/** The schema version; 0 if there are no tables. */
async function schemaVersion(database: Database): Promise<number> {
  const [tables] = await database.run(
    "SELECT 1 FROM information_schema.tables WHERE table_schema = '' AND table_name = 'SchemaVersion'",
  );
  if (tables.length === 0) return 0;
  const [rows] = await database.run({ sql: "SELECT Version FROM SchemaVersion WHERE Id = 1", json: true });
  return Number((rows[0] as unknown as { Version: number } | undefined)?.Version ?? 0);
}
