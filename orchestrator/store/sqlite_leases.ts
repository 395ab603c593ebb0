import type { LeaseStore, OrchestratorLease } from "./lease_store.ts";
import { toLease } from "./rows.ts";
import type { SqliteDatabase, SqliteMigrations } from "./sqlite_database.ts";

/** The table of a {@link SqliteLeases}. */
export const LEASE_MIGRATIONS: SqliteMigrations = {
  // Several orchestrators on one file.
  5: `CREATE TABLE Orchestrators (
     Id TEXT NOT NULL PRIMARY KEY,
     Address TEXT NOT NULL,
     DurationMs INTEGER NOT NULL,
     ExpiresAt INTEGER NOT NULL
   ) STRICT, WITHOUT ROWID;`,
};

/** Condition: this orchestrator has a lease. The placeholder's value is given twice; an empty id passes. */
export const HAS_LEASE = "(? = '' OR EXISTS (SELECT 1 FROM Orchestrators WHERE Id = ?))";
/** Condition: the row's holder has no lease. */
export const IS_ORPHAN = "NOT EXISTS (SELECT 1 FROM Orchestrators WHERE Id = Holder)";

/** The {@link LeaseStore} of a SqliteStore. */
export class SqliteLeases implements LeaseStore {
  readonly #database: SqliteDatabase;

  constructor(database: SqliteDatabase) {
    this.#database = database;
  }

  // The methods are async so that what SQLite throws becomes a rejection.

  // deno-lint-ignore require-await
  async begin({ id, address, durationMs, expiresAt }: OrchestratorLease): Promise<void> {
    const sql = "INSERT INTO Orchestrators (Id, Address, DurationMs, ExpiresAt) VALUES (?, ?, ?, ?)";
    this.#database.run(sql, id, address, durationMs, expiresAt);
  }

  // deno-lint-ignore require-await
  async renew({ id, expiresAt }: OrchestratorLease): Promise<boolean> {
    const sql = "UPDATE Orchestrators SET ExpiresAt = ? WHERE Id = ? RETURNING 1";
    return this.#database.run(sql, expiresAt, id).length > 0;
  }

  // deno-lint-ignore require-await
  async end({ id, expiresAt }: OrchestratorLease): Promise<boolean> {
    const sql = "DELETE FROM Orchestrators WHERE Id = ? AND ExpiresAt = ? RETURNING 1";
    return this.#database.run(sql, id, expiresAt).length > 0;
  }

  // deno-lint-ignore require-await
  async list(): Promise<OrchestratorLease[]> {
    return this.#database.run("SELECT * FROM Orchestrators ORDER BY Id").map(toLease);
  }
}
