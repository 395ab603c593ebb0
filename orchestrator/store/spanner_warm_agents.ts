import type { Transaction } from "@google-cloud/spanner";
import type { AgentLimits } from "./agent_limits.ts";
import { claimedColumns, newWarmColumns, type Row, toWarmAgent, WARM_COLUMNS, warmColumns } from "./rows.ts";
import type { SpannerDatabase } from "./spanner_database.ts";
import { ALL_AGENTS, hasRoomForWarm } from "./spanner_limits.ts";
import type { SpannerMigrations } from "./spanner_migrations.ts";
import type { WarmAgent, WarmAgentStore, WarmChange, WarmClaim } from "./warm_agent_store.ts";

/** The table of a {@link SpannerWarmAgents}. */
export const WARM_AGENT_MIGRATIONS: SpannerMigrations = {
  2: {
    statements: [
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
  },
};

/** Takes a warm agent in a transaction. @returns the session's columns from it; undefined if there is none */
export async function takeWarm(
  database: SpannerDatabase,
  transaction: Transaction,
  { owner, computeService }: WarmClaim,
): Promise<Row | undefined> {
  const [agent] = await database.select(
    transaction,
    `SELECT ${WARM_COLUMNS.join(", ")} FROM WarmAgents
     WHERE Owner = @owner AND ComputeService = @computeService
     ORDER BY AgentPort = 0, CreatedAt, Id LIMIT 1`,
    { owner, computeService },
  );
  if (!agent) return undefined;
  transaction.deleteRows("WarmAgents", [String(agent.Id)]);
  return claimedColumns(agent);
}

/** The {@link WarmAgentStore} of a SpannerStore. */
export class SpannerWarmAgents implements WarmAgentStore {
  readonly #database: SpannerDatabase;

  constructor(database: SpannerDatabase) {
    this.#database = database;
  }

  async add(agent: WarmAgent, limits?: AgentLimits): Promise<boolean> {
    const { happened } = await this.#database.transaction(ALL_AGENTS, async (transaction) => {
      const happened = await hasRoomForWarm(this.#database, transaction, limits);
      if (happened) transaction.insert("WarmAgents", newWarmColumns(agent));
      return { happened };
    });
    return happened;
  }

  async change(id: string, change: WarmChange, owner?: string): Promise<boolean> {
    const { happened } = await this.#database.transaction(id, async (transaction) => {
      const happened = await this.#isWarm(transaction, id, owner);
      if (happened) transaction.update("WarmAgents", { Id: id, ...warmColumns(change) });
      return { happened };
    });
    return happened;
  }

  async remove(id: string, owner?: string): Promise<boolean> {
    const { happened } = await this.#database.transaction(id, async (transaction) => {
      const happened = await this.#isWarm(transaction, id, owner);
      if (happened) transaction.deleteRows("WarmAgents", [id]);
      return { happened };
    });
    return happened;
  }

  async list(): Promise<WarmAgent[]> {
    return (await this.#database.query(`SELECT ${WARM_COLUMNS.join(", ")} FROM WarmAgents ORDER BY CreatedAt, Id`, {}))
      .map(toWarmAgent);
  }

  async #isWarm(transaction: Transaction, id: string, owner?: string): Promise<boolean> {
    const found = await this.#database.read(transaction, "WarmAgents", ["Owner"], [id]);
    return found !== undefined && (owner === undefined || found.Owner === owner);
  }
}
