import type { Store } from "./store.ts";
import { SqliteDatabase } from "./sqlite_database.ts";
import { IDENTITY_MIGRATIONS, SqliteIdentities } from "./sqlite_identities.ts";
import { LEASE_MIGRATIONS, SqliteLeases } from "./sqlite_leases.ts";
import { SESSION_MIGRATIONS } from "./sqlite_session_schema.ts";
import { SqliteSessions } from "./sqlite_sessions.ts";
import { SqliteWarmAgents, WARM_AGENT_MIGRATIONS } from "./sqlite_warm_agents.ts";

/** A {@link Store} in one SQLite file. */
export class SqliteStore implements Store {
  readonly sessions: SqliteSessions;
  readonly leases: SqliteLeases;
  readonly warmAgents: SqliteWarmAgents;
  readonly identities: SqliteIdentities;
  readonly #database: SqliteDatabase;

  private constructor(database: SqliteDatabase) {
    this.#database = database;
    this.sessions = new SqliteSessions(database);
    this.leases = new SqliteLeases(database);
    this.warmAgents = new SqliteWarmAgents(database);
    this.identities = new SqliteIdentities(database);
  }

  /**
   * Opens or creates the store. Throws an RbsError if the file is damaged, has a newer version or is not writable; it
   * is never replaced.
   *
   * @param file Absolute; its directory exists.
   */
  static open(file: string): SqliteStore {
    const parts = [LEASE_MIGRATIONS, SESSION_MIGRATIONS, WARM_AGENT_MIGRATIONS, IDENTITY_MIGRATIONS];
    return new SqliteStore(SqliteDatabase.open(file, parts));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#database[Symbol.asyncDispose]();
  }
}
