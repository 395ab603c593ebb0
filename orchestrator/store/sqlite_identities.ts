import type { SQLInputValue } from "node:sqlite";
import type { Enrolment, IdentityStore } from "./identity_store.ts";

/** Runs a statement in the store's database. @returns its rows */
type Run = (sql: string, ...values: SQLInputValue[]) => Record<string, unknown>[];

/** The {@link IdentityStore} of a SqliteSessionStore. */
export class SqliteIdentities implements IdentityStore {
  readonly #run: Run;

  constructor(run: Run) {
    this.#run = run;
  }

  // The methods are async so that what SQLite throws becomes a rejection.

  // deno-lint-ignore require-await
  async addToken(tokenHash: string, { uri, expiresAt }: Enrolment, now: number): Promise<void> {
    this.#run("DELETE FROM EnrolmentTokens WHERE ExpiresAt <= ?", now);
    this.#run("INSERT INTO EnrolmentTokens (TokenHash, Uri, ExpiresAt) VALUES (?, ?, ?)", tokenHash, uri, expiresAt);
  }

  // deno-lint-ignore require-await
  async takeToken(tokenHash: string, now: number): Promise<Enrolment | undefined> {
    const [row] = this.#run("DELETE FROM EnrolmentTokens WHERE TokenHash = ? RETURNING Uri, ExpiresAt", tokenHash);
    if (!row || Number(row.ExpiresAt) <= now) return undefined;
    return { uri: String(row.Uri), expiresAt: Number(row.ExpiresAt) };
  }

  // deno-lint-ignore require-await
  async revoke(userId: string, uri: string, at: number | undefined): Promise<number> {
    if (at === undefined) {
      this.#run("DELETE FROM RevokedUsers WHERE UserId = ?", userId);
      return 0;
    }
    this.#run("INSERT INTO RevokedUsers (UserId, RevokedAt) VALUES (?, ?) ON CONFLICT DO NOTHING", userId, at);
    return this.#run("DELETE FROM EnrolmentTokens WHERE Uri = ? RETURNING TokenHash", uri).length;
  }

  // deno-lint-ignore require-await
  async isRevoked(userId: string): Promise<boolean> {
    return this.#run("SELECT 1 FROM RevokedUsers WHERE UserId = ?", userId).length > 0;
  }

  // deno-lint-ignore require-await
  async revokedUsers(): Promise<string[]> {
    return this.#run("SELECT UserId FROM RevokedUsers ORDER BY UserId").map((row) => String(row.UserId));
  }
}
