import { DatabaseSync, type SQLInputValue, type StatementSync } from "node:sqlite";
import { RbsError, sentence } from "../../proto/base/errors.ts";
import { SharedChanges, type SharedChangesOptions } from "./change_poller.ts";
import { type Migrations, stepsOf } from "./migrations.ts";
import type { Row } from "./rows.ts";
import { isBusy, isUnreachable } from "./sqlite_error.ts";

/** Statements for each version; each ends with a semicolon. */
export type SqliteMigrations = Migrations<string>;

/**
 * One SQLite file, which several orchestrators may use at once. Each change is on disk when the statement, or the
 * transaction around it, has ended (WAL, synchronous FULL). The file contains tokens, so only its owner may read it.
 */
export class SqliteDatabase implements AsyncDisposable {
  readonly #file: string;
  readonly #database: DatabaseSync;
  readonly #statements = new Map<string, StatementSync>();
  readonly #changes: AsyncDisposable[] = [];

  private constructor(file: string, database: DatabaseSync) {
    this.#file = file;
    this.#database = database;
  }

  /**
   * Opens or creates the file, and updates its tables to the newest version. Throws an RbsError if the file is damaged,
   * has a newer version or is not writable; it is never replaced.
   *
   * @param file Absolute; its directory exists.
   * @param parts The migrations of all parts; `PRAGMA user_version` counts them.
   */
  static open(file: string, parts: readonly SqliteMigrations[]): SqliteDatabase {
    let database: DatabaseSync | undefined, isSound = false;
    try {
      // Created here, since SQLite would make it readable for others; the -wal and -shm files get its mode.
      Deno.openSync(file, { read: true, write: true, create: true, mode: 0o600 }).close();
      // The file may have been made by hand, or copied.
      if (((Deno.statSync(file).mode ?? 0) & 0o077) !== 0) Deno.chmodSync(file, 0o600);
      database = new DatabaseSync(file);
      for (const setting of ["busy_timeout = 5000", "synchronous = FULL"]) execute(database, `PRAGMA ${setting}`);
      inTurn(() => execute(database!, "PRAGMA journal_mode = WAL"));
      const [check] = database.prepare("PRAGMA quick_check(1)").all();
      if (check?.quick_check !== "ok") throw new Error(String(check?.quick_check));
      isSound = true;
      migrate(database, file, stepsOf(parts));
      return new SqliteDatabase(file, database);
    } catch (cause) {
      database?.close();
      if (cause instanceof RbsError) throw cause;
      throw database && !isSound && !isUnreachable(cause) ? damaged(file, cause) : unreachable(file, cause);
    }
  }

  /** Runs a statement. Throws an RbsError if it fails. @returns its rows */
  run(sql: string, ...values: SQLInputValue[]): Row[] {
    try {
      let statement = this.#statements.get(sql);
      if (!statement) this.#statements.set(sql, statement = this.#database.prepare(sql));
      return statement.all(...values) as Row[];
    } catch (cause) {
      throw new RbsError(
        `The session store ${this.#file} failed (${sentence(cause)}): check its disk, and restart the orchestrator.`,
        { cause },
      );
    }
  }

  /** Runs `work` in a transaction, which is rolled back when `work` throws or returns undefined. */
  transaction<T>(work: () => T | undefined): T | undefined {
    this.run("BEGIN IMMEDIATE");
    try {
      const result = work();
      this.run(result === undefined ? "ROLLBACK" : "COMMIT");
      return result;
    } catch (e) {
      if (this.#database.isTransaction) this.run("ROLLBACK");
      throw e;
    }
  }

  /** Finds changes made by other orchestrators while the database is open. */
  changes<Key>(options: SharedChangesOptions<Key>): SharedChanges<Key> {
    const changes = new SharedChanges(options);
    this.#changes.push(changes);
    return changes;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const changes of this.#changes) await changes[Symbol.asyncDispose]();
    this.#statements.clear();
    this.#database.close();
  }
}

/** Runs a statement for its effect. Its errors have a code, unlike those of `exec()`. */
function execute(database: DatabaseSync, sql: string): void {
  database.prepare(sql).all();
}

/** Repeats work that SQLite refuses while another process does the same, for at most five seconds. */
function inTurn(work: () => void): void {
  for (const until = Date.now() + 5_000;;) {
    try {
      return work();
    } catch (e) {
      if (!isBusy(e) || Date.now() > until) throw e;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5 + Math.random() * 20);
    }
  }
}

function migrate(database: DatabaseSync, file: string, steps: readonly (readonly string[])[]): void {
  const versionOf = () => Number(database.prepare("PRAGMA user_version").get()?.user_version);
  const version = versionOf();
  if (version > steps.length) {
    throw new RbsError(
      `The session store ${file} was written by a newer orchestrator (schema ${version}, this one knows ` +
        `${steps.length}): use that one, or move the file away to start without sessions.`,
      { culprit: "caller" },
    );
  }
  for (let next = version; next < steps.length; next++) {
    execute(database, "BEGIN IMMEDIATE");
    // Unless another orchestrator was faster.
    if (versionOf() === next) database.exec(`${steps[next].join("\n")}; PRAGMA user_version = ${next + 1}`);
    execute(database, "COMMIT");
  }
}

function unreachable(file: string, cause: unknown): RbsError {
  return new RbsError(
    `The session store ${file} cannot be opened (${
      sentence(cause)
    }): make it a file that this user can read and write.`,
    { cause, culprit: "caller" },
  );
}

function damaged(file: string, cause: unknown): RbsError {
  return new RbsError(
    `The session store ${file} is damaged (${
      sentence(cause)
    }): move it away (agents that still run end by themselves) ` +
      `and start again.`,
    { cause, culprit: "caller" },
  );
}
