import type { Enrolment, IdentityStore } from "./identity_store.ts";
import type { SqliteDatabase, SqliteMigrations } from "./sqlite_database.ts";

/** The tables of a {@link SqliteIdentities}. */
export const IDENTITY_MIGRATIONS: SqliteMigrations = {
  4: `CREATE TABLE EnrolmentTokens (
     TokenHash TEXT NOT NULL PRIMARY KEY,
     Uri TEXT NOT NULL,
     ExpiresAt INTEGER NOT NULL
   ) STRICT, WITHOUT ROWID;
   CREATE TABLE RevokedUsers (
     UserId TEXT NOT NULL PRIMARY KEY,
     RevokedAt INTEGER NOT NULL
   ) STRICT, WITHOUT ROWID;`,
};

/** The {@link IdentityStore} of a SqliteStore. */
export class SqliteIdentities implements IdentityStore {
  readonly #database: SqliteDatabase;

  constructor(database: SqliteDatabase) {
    this.#database = database;
  }

  // The methods are async so that what SQLite throws becomes a rejection.

  // deno-lint-ignore require-await
  async addToken(tokenHash: string, { uri, expiresAt }: Enrolment, now: number): Promise<void> {
    this.#database.run("DELETE FROM EnrolmentTokens WHERE ExpiresAt <= ?", now);
    this.#database.run(
      "INSERT INTO EnrolmentTokens (TokenHash, Uri, ExpiresAt) VALUES (?, ?, ?)",
      tokenHash,
      uri,
      expiresAt,
    );
  }

  // deno-lint-ignore require-await
  async takeToken(tokenHash: string, now: number): Promise<Enrolment | undefined> {
    const [row] = this.#database.run(
      "DELETE FROM EnrolmentTokens WHERE TokenHash = ? RETURNING Uri, ExpiresAt",
      tokenHash,
    );
    if (!row || Number(row.ExpiresAt) <= now) return undefined;
    return { uri: String(row.Uri), expiresAt: Number(row.ExpiresAt) };
  }

  // deno-lint-ignore require-await
  async revoke(userId: string, uri: string, at: number | undefined): Promise<number> {
    if (at === undefined) {
      this.#database.run("DELETE FROM RevokedUsers WHERE UserId = ?", userId);
      return 0;
    }
    this.#database.run("INSERT INTO RevokedUsers (UserId, RevokedAt) VALUES (?, ?) ON CONFLICT DO NOTHING", userId, at);
    return this.#database.run("DELETE FROM EnrolmentTokens WHERE Uri = ? RETURNING TokenHash", uri).length;
  }

  // deno-lint-ignore require-await
  async isRevoked(userId: string): Promise<boolean> {
    return this.#database.run("SELECT 1 FROM RevokedUsers WHERE UserId = ?", userId).length > 0;
  }

  // deno-lint-ignore require-await
  async revokedUsers(): Promise<string[]> {
    return this.#database.run("SELECT UserId FROM RevokedUsers ORDER BY UserId").map((row) => String(row.UserId));
  }
}
