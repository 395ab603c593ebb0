import type { Transaction } from "@google-cloud/spanner";
import type { LeaseStore, OrchestratorLease } from "./lease_store.ts";
import { toLease } from "./rows.ts";
import type { SpannerDatabase } from "./spanner_database.ts";
import type { SpannerMigrations } from "./spanner_migrations.ts";

/** The table of a {@link SpannerLeases}. */
export const LEASE_MIGRATIONS: SpannerMigrations = {
  // Several orchestrators on one database.
  4: {
    statements: [
      `CREATE TABLE IF NOT EXISTS Orchestrators (
       Id STRING(MAX) NOT NULL,
       Address STRING(MAX) NOT NULL,
       DurationMs INT64 NOT NULL,
       ExpiresAt INT64 NOT NULL,
     ) PRIMARY KEY (Id)`,
    ],
  },
};

/** Whether an orchestrator has a lease. The result stays valid until the transaction has ended. */
export async function hasLease(database: SpannerDatabase, transaction: Transaction, id: string): Promise<boolean> {
  return await database.read(transaction, "Orchestrators", ["Id"], [id]) !== undefined;
}

/** The {@link LeaseStore} of a SpannerStore. */
export class SpannerLeases implements LeaseStore {
  readonly #database: SpannerDatabase;

  constructor(database: SpannerDatabase) {
    this.#database = database;
  }

  async begin({ id, address, durationMs, expiresAt }: OrchestratorLease): Promise<void> {
    await this.#database.transaction(id, (transaction) => {
      transaction.insert("Orchestrators", { Id: id, Address: address, DurationMs: durationMs, ExpiresAt: expiresAt });
      return Promise.resolve({ happened: true });
    });
  }

  async renew({ id, expiresAt }: OrchestratorLease): Promise<boolean> {
    const { happened } = await this.#database.transaction(id, async (transaction) => {
      const happened = await hasLease(this.#database, transaction, id);
      if (happened) transaction.update("Orchestrators", { Id: id, ExpiresAt: expiresAt });
      return { happened };
    });
    return happened;
  }

  async end({ id, expiresAt }: OrchestratorLease): Promise<boolean> {
    const { happened } = await this.#database.transaction(id, async (transaction) => {
      const found = await this.#database.read(transaction, "Orchestrators", ["ExpiresAt"], [id]);
      const happened = Number(found?.ExpiresAt) === expiresAt;
      if (happened) transaction.deleteRows("Orchestrators", [[id]]);
      return { happened };
    });
    return happened;
  }

  async list(): Promise<OrchestratorLease[]> {
    const rows = await this.#database.query(
      "SELECT Id, Address, DurationMs, ExpiresAt FROM Orchestrators ORDER BY Id",
      {},
    );
    return rows.map(toLease);
  }
}
