import type { AgentLimits } from "./agent_limits.ts";
import { claimedColumns, newWarmColumns, type Row, toWarmAgent, warmColumns } from "./rows.ts";
import type { SqliteDatabase, SqliteMigrations } from "./sqlite_database.ts";
import { roomForWarm } from "./sqlite_limits.ts";
import type { WarmAgent, WarmAgentStore, WarmChange, WarmClaim } from "./warm_agent_store.ts";

/** The table of a {@link SqliteWarmAgents}. */
export const WARM_AGENT_MIGRATIONS: SqliteMigrations = {
  3: `CREATE TABLE WarmAgents (
     Id TEXT NOT NULL PRIMARY KEY,
     Owner TEXT NOT NULL,
     ComputeService TEXT NOT NULL,
     ProcessId TEXT NOT NULL,
     PodIP TEXT NOT NULL,
     AgentPort INTEGER NOT NULL,
     CommandPort INTEGER NOT NULL,
     ControlToken TEXT NOT NULL,
     StorageDirectory TEXT NOT NULL,
     CreatedAt INTEGER NOT NULL
   ) STRICT, WITHOUT ROWID;`,
};

/** Takes a warm agent in a transaction. @returns the session's columns from it; undefined if there is none */
export function takeWarm(database: SqliteDatabase, { owner, computeService }: WarmClaim): Row | undefined {
  const [agent] = database.run(
    `DELETE FROM WarmAgents WHERE Id = (
       SELECT Id FROM WarmAgents WHERE Owner = ? AND ComputeService = ? ORDER BY AgentPort = 0, CreatedAt, Id LIMIT 1
     ) RETURNING *`,
    owner,
    computeService,
  );
  return agent && claimedColumns(agent);
}

/** The {@link WarmAgentStore} of a SqliteStore. */
export class SqliteWarmAgents implements WarmAgentStore {
  readonly #database: SqliteDatabase;

  constructor(database: SqliteDatabase) {
    this.#database = database;
  }

  // The methods are async so that what SQLite throws becomes a rejection.

  // deno-lint-ignore require-await
  async add(agent: WarmAgent, limits?: AgentLimits): Promise<boolean> {
    const columns = newWarmColumns(agent);
    const room = roomForWarm(limits);
    const rows = this.#database.run(
      `INSERT INTO WarmAgents (${Object.keys(columns).join(", ")})
       SELECT ${Object.keys(columns).map(() => "?").join(", ")} WHERE ${room.sql} RETURNING 1`,
      ...Object.values(columns),
      ...room.values,
    );
    return rows.length > 0;
  }

  // deno-lint-ignore require-await
  async change(id: string, change: WarmChange, owner?: string): Promise<boolean> {
    const columns = warmColumns(change);
    const set = Object.keys(columns).map((column) => `${column} = ?`).join(", ");
    const sql = `UPDATE WarmAgents SET ${set} WHERE Id = ? AND Owner = coalesce(?, Owner) RETURNING 1`;
    return this.#database.run(sql, ...Object.values(columns), id, owner ?? null).length > 0;
  }

  // deno-lint-ignore require-await
  async remove(id: string, owner?: string): Promise<boolean> {
    const sql = "DELETE FROM WarmAgents WHERE Id = ? AND Owner = coalesce(?, Owner) RETURNING 1";
    return this.#database.run(sql, id, owner ?? null).length > 0;
  }

  // deno-lint-ignore require-await
  async list(): Promise<WarmAgent[]> {
    return this.#database.run("SELECT * FROM WarmAgents ORDER BY CreatedAt, Id").map(toWarmAgent);
  }
}
