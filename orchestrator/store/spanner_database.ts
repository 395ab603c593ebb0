import type { Database, Spanner, Transaction } from "@google-cloud/spanner";
import { KeyedMutex } from "../../proto/base/keyed_mutex.ts";
import { RbsError, sentence } from "../../proto/base/errors.ts";
import { Code } from "../../proto/transport/rpc/client.ts";
import { SharedChanges, type SharedChangesOptions } from "./change_poller.ts";
import { stepsOf } from "./migrations.ts";
import type { Row } from "./rows.ts";
import { loadSpanner } from "./spanner_library.ts";
import { migrate, type SpannerMigrations, VERSION_MIGRATIONS } from "./spanner_migrations.ts";
import { type CallOptions, callOptions, readWrite } from "./spanner_transaction.ts";
import { spannerFault } from "./spanner_error.ts";

/** Options of {@link SpannerDatabase.open}. */
export interface SpannerOptions {
  /** Timeout of each method with all its retries, in milliseconds. @default 10000 */
  readonly timeoutMs?: number;
  /** Timeout of schema changes, in milliseconds. @default 300000 */
  readonly schemaTimeoutMs?: number;
}

/**
 * A Cloud Spanner database, which several orchestrators may use at once. Each change is one read-write transaction,
 * repeated when Spanner aborts it.
 *
 * A method that fails at its deadline may still have taken effect, as with every networked store; the next read tells.
 */
export class SpannerDatabase implements AsyncDisposable {
  readonly #spanner: Spanner;
  readonly #database: Database;
  readonly #name: string;
  readonly #timeoutMs: number;
  /** Options for each call of the library. */
  readonly #call: CallOptions;
  /** Spares concurrent callers in this process an aborted transaction each. */
  readonly #mutex = new KeyedMutex();
  readonly #changes: AsyncDisposable[] = [];

  private constructor(spanner: Spanner, database: Database, name: string, timeoutMs: number) {
    this.#spanner = spanner;
    this.#database = database;
    this.#name = name;
    this.#timeoutMs = timeoutMs;
    this.#call = callOptions(timeoutMs);
  }

  /**
   * Opens the database, and updates its tables to the newest version. Throws an RbsError if the database does not
   * exist, has a newer version, or is out of reach. SPANNER_EMULATOR_HOST in the environment ("HOST:PORT") names an
   * emulator.
   *
   * @param name "projects/P/instances/I/databases/D".
   * @param parts The migrations of all parts; the table SchemaVersion counts them.
   */
  static async open(
    name: string,
    parts: readonly SpannerMigrations[],
    options: SpannerOptions = {},
  ): Promise<SpannerDatabase> {
    const { timeoutMs = 10_000, schemaTimeoutMs = 300_000 } = options;
    const [, projectId, instance, id] = /^projects\/([^/]+)\/instances\/([^/]+)\/databases\/([^/]+)$/.exec(name) ?? [];
    if (!projectId) throw new TypeError(`not a database's name: ${name}`);
    const spanner = await connect(name, projectId);
    const database = spanner.instance(instance).database(id, { min: 1, acquireTimeout: timeoutMs });
    database.on("error", () => {}); // Users of the store get the error themselves.
    const opened = new SpannerDatabase(spanner, database, name, timeoutMs);
    try {
      await opened.#within(timeoutMs, database.run({ sql: "SELECT 1", gaxOptions: opened.#call }));
      const versions = stepsOf([VERSION_MIGRATIONS, ...parts]);
      await opened.#within(schemaTimeoutMs, migrate(database, `spanner:${name}`, versions, timeoutMs));
      return opened;
    } catch (e) {
      await opened[Symbol.asyncDispose]();
      throw e;
    }
  }

  /** Runs a query outside of a transaction. Throws an RbsError. */
  async query(sql: string, params: Record<string, string | string[]>): Promise<Row[]> {
    const [rows] = await this.#within(
      this.#timeoutMs,
      this.#database.run({ sql, params, json: true, gaxOptions: this.#call }),
    );
    return rows as Row[];
  }

  /**
   * Runs a read-write transaction, as often as Spanner aborts it, and commits it if something happened in it. Runs
   * after earlier ones of this process with the same `turn`. Throws an RbsError.
   */
  async transaction<T extends { happened: boolean }>(
    turn: string,
    work: (transaction: Transaction) => Promise<T>,
  ): Promise<T> {
    const deadline = Date.now() + this.#timeoutMs;
    const decide = () => {
      const left = Math.max(0, deadline - Date.now());
      return this.#within(left, readWrite(this.#database, left, work));
    };
    return await this.#within(this.#timeoutMs, this.#mutex.run(turn, decide));
  }

  /**
   * Reads a key's row in a transaction; undefined if there is none. The result stays valid until the transaction has
   * ended.
   */
  async read(
    transaction: Transaction,
    table: string,
    columns: readonly string[],
    key: string[],
  ): Promise<Row | undefined> {
    const request = { keys: [key], columns: [...columns], json: true, gaxOptions: this.#call };
    const [rows] = await transaction.read(table, request);
    return rows[0] as unknown as Row | undefined;
  }

  /** Runs a query in a transaction. The result stays valid until the transaction has ended. */
  async select<T = Row>(transaction: Transaction, sql: string, params: Record<string, string> = {}): Promise<T[]> {
    const [rows] = await transaction.run({ sql, params, json: true, gaxOptions: this.#call });
    return rows as unknown as T[];
  }

  /** Finds changes made by other orchestrators while the database is open. */
  changes<Key>(options: SharedChangesOptions<Key>): SharedChanges<Key> {
    const changes = new SharedChanges(options);
    this.#changes.push(changes);
    return changes;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const changes of this.#changes) await changes[Symbol.asyncDispose]();
    // These return the server-side sessions, which otherwise expire by themselves.
    await this.#within(this.#timeoutMs, this.#database.close()).catch(() => {});
    await this.#within(this.#timeoutMs, Promise.resolve(this.#spanner.close())).catch(() => {});
  }

  /** Waits for the library up to `timeoutMs`, and converts its errors. */
  async #within<T>(timeoutMs: number, result: Promise<T>): Promise<T> {
    const late = Promise.withResolvers<never>();
    const timer = setTimeout(() => late.reject(new Error("no answer in time")), timeoutMs);
    try {
      return await Promise.race([result, late.promise]);
    } catch (cause) {
      throw cause instanceof RbsError ? cause : failure(this.#name, cause);
    } finally {
      clearTimeout(timer);
    }
  }
}

/** Loads and configures the library. Sends nothing yet. */
async function connect(name: string, projectId: string): Promise<Spanner> {
  const { Spanner } = await loadSpanner().catch((cause) => {
    throw new RbsError(
      `The session store spanner:${name} needs the library @google-cloud/spanner, which cannot be loaded ` +
        `(${sentence(cause)}): run \`deno task compile\` again where there is a network.`,
      { cause },
    );
  });
  // The default way of retrying also repeats reads of aborted transactions, after two seconds each. This is an option
  // of the calls below that SpannerOptions does not declare.
  const retries = { gaxServerStreamingRetries: true };
  try {
    return new Spanner({ projectId, disableBuiltInMetrics: true, ...retries });
  } catch (cause) {
    throw failure(name, cause); // SPANNER_EMULATOR_HOST is not "HOST:PORT".
  }
}

function failure(name: string, cause: unknown): RbsError {
  // The library's own deadline error hides the actual error.
  const [hidden = cause] = (cause as { errors?: unknown[] } | undefined)?.errors ?? [];
  const message = sentence(hidden).replace(/[.:\s]+$/, "");
  const code = (cause as { code?: unknown } | undefined)?.code;
  const fault = spannerFault(hidden);
  const store = `The session store spanner:${name}`;
  if (code === Code.NOT_FOUND && fault !== "no session") {
    return new RbsError(`${store} is not there (${message}): create the database, or name another with --store.`, {
      cause,
      culprit: "caller",
    });
  }
  if (code === Code.PERMISSION_DENIED || code === Code.UNAUTHENTICATED || fault === "no credentials") {
    return new RbsError(
      `${store} does not let this orchestrator in (${message}): name a service account's key with ` +
        `GOOGLE_APPLICATION_CREDENTIALS, and grant it the role Cloud Spanner Database User.`,
      { cause, culprit: "caller" },
    );
  }
  const where = Deno.env.get("SPANNER_EMULATOR_HOST");
  return new RbsError(
    `${store} failed (${message}): check that ${where ? `the emulator at ${where}` : "Spanner"} can be reached, and ` +
      `try again.`,
    { cause },
  );
}
