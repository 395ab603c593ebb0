import { SpannerDatabase, type SpannerOptions } from "./spanner_database.ts";
import { IDENTITY_MIGRATIONS, SpannerIdentities } from "./spanner_identities.ts";
import { LEASE_MIGRATIONS, SpannerLeases } from "./spanner_leases.ts";
import type { SpannerMigrations } from "./spanner_migrations.ts";
import { SESSION_MIGRATIONS } from "./spanner_session_schema.ts";
import { SpannerSessions } from "./spanner_sessions.ts";
import { SpannerWarmAgents, WARM_AGENT_MIGRATIONS } from "./spanner_warm_agents.ts";
import type { Store } from "./store.ts";

/** The migrations of all parts. */
export const MIGRATIONS: readonly SpannerMigrations[] = [
  LEASE_MIGRATIONS,
  SESSION_MIGRATIONS,
  WARM_AGENT_MIGRATIONS,
  IDENTITY_MIGRATIONS,
];

/** A {@link Store} in a Cloud Spanner database. Its tables are those of a SqliteStore. */
export class SpannerStore implements Store {
  readonly sessions: SpannerSessions;
  readonly leases: SpannerLeases;
  readonly warmAgents: SpannerWarmAgents;
  readonly identities: SpannerIdentities;
  readonly #database: SpannerDatabase;

  private constructor(database: SpannerDatabase) {
    this.#database = database;
    this.sessions = new SpannerSessions(database);
    this.leases = new SpannerLeases(database);
    this.warmAgents = new SpannerWarmAgents(database);
    this.identities = new SpannerIdentities(database);
  }

  /**
   * Opens the store, and creates missing tables. Throws an RbsError if the database does not exist, has a newer
   * version, or is out of reach. SPANNER_EMULATOR_HOST in the environment ("HOST:PORT") names an emulator.
   *
   * @param name "projects/P/instances/I/databases/D".
   */
  static async open(name: string, options?: SpannerOptions): Promise<SpannerStore> {
    return new SpannerStore(await SpannerDatabase.open(name, MIGRATIONS, options));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#database[Symbol.asyncDispose]();
  }
}
