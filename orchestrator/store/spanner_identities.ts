import type { Enrolment, IdentityStore } from "./identity_store.ts";
import type { SpannerDatabase } from "./spanner_database.ts";
import type { SpannerMigrations } from "./spanner_migrations.ts";

/** How long a list of locked-out users stays valid. Milliseconds. */
const LOOK_MS = 1_000;

/** The tables of a {@link SpannerIdentities}. */
export const IDENTITY_MIGRATIONS: SpannerMigrations = {
  3: {
    statements: [
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
  },
};

/** The {@link IdentityStore} of a SpannerStore. Reads the locked-out users at most once a second. */
export class SpannerIdentities implements IdentityStore {
  readonly #database: SpannerDatabase;
  #revoked?: { at: number; users: Promise<Set<string>> };

  constructor(database: SpannerDatabase) {
    this.#database = database;
  }

  async addToken(tokenHash: string, { uri, expiresAt }: Enrolment, now: number): Promise<void> {
    const old = await this.#database.query(
      "SELECT TokenHash FROM EnrolmentTokens WHERE ExpiresAt <= CAST(@now AS INT64) LIMIT 1000",
      { now: String(now) },
    );
    await this.#database.transaction("tokens", (transaction) => {
      for (const row of old) transaction.deleteRows("EnrolmentTokens", [[String(row.TokenHash)]]);
      transaction.insert("EnrolmentTokens", { TokenHash: tokenHash, Uri: uri, ExpiresAt: expiresAt });
      return Promise.resolve({ happened: true });
    });
  }

  async takeToken(tokenHash: string, now: number): Promise<Enrolment | undefined> {
    const { row } = await this.#database.transaction("tokens", async (transaction) => {
      const request = { keys: [[tokenHash]], columns: ["Uri", "ExpiresAt"], json: true };
      const [rows] = await transaction.read("EnrolmentTokens", request);
      const row = rows[0] as unknown as Record<string, unknown> | undefined;
      if (row) transaction.deleteRows("EnrolmentTokens", [[tokenHash]]);
      return { happened: row !== undefined, row };
    });
    if (!row || Number(row.ExpiresAt) <= now) return undefined;
    return { uri: String(row.Uri), expiresAt: Number(row.ExpiresAt) };
  }

  async revoke(userId: string, uri: string, at: number | undefined): Promise<number> {
    const tokens = await this.#database.query("SELECT TokenHash FROM EnrolmentTokens WHERE Uri = @uri", { uri });
    await this.#database.transaction("tokens", (transaction) => {
      if (at === undefined) transaction.deleteRows("RevokedUsers", [[userId]]);
      else {
        transaction.upsert("RevokedUsers", { UserId: userId, RevokedAt: at });
        for (const row of tokens) transaction.deleteRows("EnrolmentTokens", [[String(row.TokenHash)]]);
      }
      return Promise.resolve({ happened: true });
    });
    this.#revoked = undefined;
    return at === undefined ? 0 : tokens.length;
  }

  async revokedUsers(): Promise<string[]> {
    const rows = await this.#database.query("SELECT UserId FROM RevokedUsers ORDER BY UserId", {});
    return rows.map((row) => String(row.UserId));
  }

  async isRevoked(userId: string): Promise<boolean> {
    const now = Date.now();
    if (!this.#revoked || now - this.#revoked.at >= LOOK_MS || now < this.#revoked.at) {
      const looked = this.#revoked = {
        at: now,
        users: this.revokedUsers().then((users) => new Set(users)),
      };
      // A failed read does not count.
      looked.users.catch(() => {
        if (this.#revoked === looked) this.#revoked = undefined;
      });
    }
    return (await this.#revoked.users).has(userId);
  }
}
