import type { Database, Spanner, Transaction } from "@google-cloud/spanner";
import { RbsError, sentence } from "../../proto/base/errors.ts";
import { Code } from "../../proto/transport/rpc/client.ts";
import { counted } from "./agent_count.ts";
import { KeyedMutex } from "../../proto/base/keyed_mutex.ts";
import { keyText, machineOf, type Session, type SessionKey, type SessionStatus } from "./session.ts";
import { ALL_COLUMNS, changedColumns, type Row, startColumns, toLease, toSession } from "./rows.ts";
import { type Moment, momentOf, SharedChanges } from "./change_poller.ts";
import { loadSpanner } from "./spanner_library.ts";
import { migrate } from "./spanner_schema.ts";
import { type CallOptions, callOptions, readWrite } from "./spanner_transaction.ts";
import { type SessionEvent, transition } from "./state_machine.ts";
import { SpannerIdentities } from "./spanner_identities.ts";
import type { IdentityStore } from "./identity_store.ts";
import type { AgentLimits } from "./agent_limits.ts";
import type { OrchestratorLease } from "./lease_store.ts";
import type { Expected, SessionChange, Store } from "./store.ts";
import { claimedColumns } from "./rows.ts";
import { toWarmAgent } from "./rows.ts";
import { WARM_COLUMNS } from "./rows.ts";
import { warmColumns } from "./rows.ts";
import { type WarmAgent, type WarmChange, type WarmClaim } from "./warm_agent_store.ts";

/** Options of {@link SpannerSessionStore.open}. */
export interface SpannerStoreOptions {
  /** What each method may take, with all its retries. Milliseconds. @default 10000 */
  readonly timeoutMs?: number;
  /** What changes to the schema may take. Milliseconds. @default 300000 */
  readonly schemaTimeoutMs?: number;
}

/** The turn of what looks at all agents: each would abort the others. No key's, since those hold a slash. */
const SHARED = "shared";

/** What came of a transition. */
interface Outcome {
  readonly happened: boolean;
  /** After it, or instead of it. */
  readonly moment: Moment;
  /** The session after it, or as it last was. */
  readonly row?: Row;
}

/**
 * A SessionStore in a Cloud Spanner database, which several orchestrators may use at once. Each change is one read-write
 * transaction, which is run again when Spanner aborts it.
 *
 * A method that fails at its deadline may have happened nevertheless, as with every store behind a network: the next
 * look tells.
 */
export class SpannerSessionStore implements Store {
  readonly #spanner: Spanner;
  readonly #database: Database;
  readonly #name: string;
  readonly #timeoutMs: number;
  /** For each call of the library. */
  readonly #call: CallOptions;
  /** Spares racers of this process an aborted transaction each. */
  readonly #mutex = new KeyedMutex();
  readonly #changes = new SharedChanges({ look: (keys) => this.#look(keys) });
  readonly identities: IdentityStore = new SpannerIdentities({
    query: (sql, params) => this.#query(sql, params),
    transaction: (turn, work) => this.#transaction(turn, work),
  });

  private constructor(spanner: Spanner, database: Database, name: string, timeoutMs: number) {
    this.#spanner = spanner;
    this.#database = database;
    this.#name = name;
    this.#timeoutMs = timeoutMs;
    this.#call = callOptions(timeoutMs);
  }

  /**
   * Opens the store, and makes its tables where there are none. Throws an RbsError when the database is not there, of a
   * newer version, or out of reach. SPANNER_EMULATOR_HOST in the environment ("HOST:PORT") names an emulator.
   *
   * @param name "projects/P/instances/I/databases/D".
   */
  static async open(name: string, options: SpannerStoreOptions = {}): Promise<SpannerSessionStore> {
    const { timeoutMs = 10_000, schemaTimeoutMs = 300_000 } = options;
    const [, projectId, instance, id] = /^projects\/([^/]+)\/instances\/([^/]+)\/databases\/([^/]+)$/.exec(name) ?? [];
    if (!projectId) throw new TypeError(`not a database's name: ${name}`);
    const spanner = await connect(name, projectId);
    const database = spanner.instance(instance).database(id, { min: 1, acquireTimeout: timeoutMs });
    database.on("error", () => {}); // Whoever uses the store hears of it there.
    const store = new SpannerSessionStore(spanner, database, name, timeoutMs);
    try {
      await store.#within(timeoutMs, database.run({ sql: "SELECT 1", gaxOptions: store.#call }));
      await store.#within(schemaTimeoutMs, migrate(database, `spanner:${name}`, timeoutMs));
      return store;
    } catch (e) {
      await store[Symbol.asyncDispose]();
      throw e;
    }
  }

  async get(key: SessionKey): Promise<Session | undefined> {
    const sql = `SELECT ${ALL_COLUMNS.join(", ")} FROM ServerSessions
       WHERE UserId = @userId AND RepoHash = @repoHash AND ServerId = @serverId`;
    const { userId, repoHash, serverId } = key;
    const [row] = await this.#query(sql, { userId, repoHash, serverId });
    const session = row && toSession(row);
    this.#changes.show(key, momentOf(session));
    return session;
  }

  async list(userId?: string): Promise<Session[]> {
    const rows = await this.#query(
      `SELECT ${ALL_COLUMNS.join(", ")} FROM ServerSessions ${userId === undefined ? "" : "WHERE UserId = @userId"}
       ORDER BY CreatedAt, UserId, RepoHash, ServerId`,
      userId === undefined ? {} : { userId },
    );
    return rows.map(toSession);
  }

  async transition(expected: Expected, event: SessionEvent, change: SessionChange = {}): Promise<Session | undefined> {
    const { to, raisesEpoch, ofOrphans } = transition(expected.state, event);
    const columns = expected.state === "NONE" ? startColumns(change) : changedColumns(change);
    const key = keyColumns(expected);
    const { happened, row } = await this.#changes.write(
      expected,
      () =>
        this.#transaction<Outcome>(
          expected.limits || expected.claim ? SHARED : keyText(expected),
          async (transaction) => {
            const found = await this.#row(transaction, "ServerSessions", ALL_COLUMNS, expected);
            const moment = momentOf(found && toSession(found));
            const isExpected = moment.status === expected.state && (!found || moment.epoch === expected.epoch) &&
              (!found || expected.holder === undefined || found.Holder === expected.holder);
            if (!isExpected) return { happened: false, moment };
            if (change.holder && !await this.#hasLease(transaction, change.holder)) return { happened: false, moment };
            if (ofOrphans && await this.#hasLease(transaction, String(found?.Holder))) {
              return { happened: false, moment };
            }
            if (expected.limits && !await this.#hasRoom(transaction, expected, expected.limits)) {
              return { happened: false, moment };
            }
            if (to === "NONE") {
              transaction.deleteRows("ServerSessions", [Object.values(key)]);
              transaction.upsert("ServerEpochs", { ...key, Epoch: moment.epoch });
              return { happened: true, moment: momentOf(undefined), row: found };
            }
            const before = found ? moment.epoch : await this.#lastEpoch(transaction, expected);
            const claimed = expected.claim && await this.#claim(transaction, expected.claim);
            const passes = change.holder !== undefined && change.holder !== found?.Holder;
            const term = event === "start" ? 1 : Number(found?.Term) + (passes ? 1 : 0);
            const place = { Status: to, Epoch: before + (raisesEpoch ? 1 : 0), Term: term };
            const changed = { ...key, ...place, ...columns, ...claimed };
            if (found) transaction.update("ServerSessions", changed);
            else transaction.insert("ServerSessions", changed);
            return { happened: true, moment: { status: to, epoch: place.Epoch }, row: { ...found, ...changed } };
          },
        ),
    );
    return happened && row ? toSession(row) : undefined;
  }

  async touch(key: SessionKey, sessionId: string | undefined, at: number): Promise<boolean> {
    const { touched } = await this.#transaction(keyText(key), async (transaction) => {
      const columns = ["SessionId", "Status", "LastHeartbeat"];
      const found = await this.#row(transaction, "ServerSessions", columns, key);
      const touched = found !== undefined && (found.Status === "PENDING" || found.Status === "READY") &&
        (sessionId === undefined || found.SessionId === sessionId);
      const happened = touched && Number(found.LastHeartbeat) < at;
      if (happened) {
        transaction.update("ServerSessions", { ...keyColumns(key), LastHeartbeat: at });
      }
      return { happened, touched };
    });
    return touched;
  }

  async addWarm(agent: WarmAgent, limits?: AgentLimits): Promise<boolean> {
    const { happened } = await this.#transaction(SHARED, async (transaction) => {
      const happened = !limits?.agents || await this.#agents(transaction) < limits.agents;
      if (happened) transaction.insert("WarmAgents", warmColumns(agent));
      return { happened };
    });
    return happened;
  }

  async changeWarm(id: string, change: WarmChange, owner?: string): Promise<boolean> {
    const { happened } = await this.#transaction(id, async (transaction) => {
      const happened = await this.#isWarm(transaction, id, owner);
      if (happened) transaction.update("WarmAgents", { Id: id, ...warmColumns(change) });
      return { happened };
    });
    return happened;
  }

  async beginLease({ id, address, durationMs, expiresAt }: OrchestratorLease): Promise<void> {
    await this.#transaction(id, (transaction) => {
      transaction.insert("Orchestrators", { Id: id, Address: address, DurationMs: durationMs, ExpiresAt: expiresAt });
      return Promise.resolve({ happened: true });
    });
  }

  async renewLease({ id, expiresAt }: OrchestratorLease): Promise<boolean> {
    const { happened } = await this.#transaction(id, async (transaction) => {
      const happened = await this.#hasLease(transaction, id);
      if (happened) transaction.update("Orchestrators", { Id: id, ExpiresAt: expiresAt });
      return { happened };
    });
    return happened;
  }

  async removeWarm(id: string, owner?: string): Promise<boolean> {
    const { happened } = await this.#transaction(id, async (transaction) => {
      const happened = await this.#isWarm(transaction, id, owner);
      if (happened) transaction.deleteRows("WarmAgents", [id]);
      return { happened };
    });
    return happened;
  }

  async leases(): Promise<OrchestratorLease[]> {
    return (await this.#query("SELECT Id, Address, DurationMs, ExpiresAt FROM Orchestrators ORDER BY Id", {})).map(
      toLease,
    );
  }

  async endLease({ id, expiresAt }: OrchestratorLease): Promise<boolean> {
    const { happened } = await this.#transaction(id, async (transaction) => {
      const found = await this.#read(transaction, "Orchestrators", ["ExpiresAt"], [id]);
      const happened = Number(found?.ExpiresAt) === expiresAt;
      if (happened) transaction.deleteRows("Orchestrators", [[id]]);
      return { happened };
    });
    return happened;
  }

  async listWarm(): Promise<WarmAgent[]> {
    return (await this.#query(`SELECT ${WARM_COLUMNS.join(", ")} FROM WarmAgents ORDER BY CreatedAt, Id`, {}))
      .map(toWarmAgent);
  }

  watch(key: SessionKey, listener: () => void): () => void {
    return this.#changes.watch(key, listener);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#changes[Symbol.asyncDispose]();
    // They give the server's sessions back, which end by themselves if that fails.
    await this.#within(this.#timeoutMs, this.#database.close()).catch(() => {});
    await this.#within(this.#timeoutMs, Promise.resolve(this.#spanner.close())).catch(() => {});
  }

  async #look(keys: readonly SessionKey[]): Promise<Moment[]> {
    const rows = await this.#query(
      `SELECT UserId, RepoHash, ServerId, Status, Epoch FROM ServerSessions
       WHERE UserId IN UNNEST(@userIds) AND RepoHash IN UNNEST(@repoHashes)`,
      { userIds: [...new Set(keys.map((key) => key.userId))], repoHashes: keys.map((key) => key.repoHash) },
    );
    const moments = new Map(rows.map((row) => [
      keyText({ userId: row.UserId as string, repoHash: row.RepoHash as string, serverId: row.ServerId as string }),
      { status: row.Status as SessionStatus, epoch: row.Epoch as number },
    ]));
    return keys.map((key) => moments.get(keyText(key)) ?? momentOf(undefined));
  }

  /** Whether an orchestrator has a lease. It stays so until the transaction has ended. */
  async #hasLease(transaction: Transaction, id: string): Promise<boolean> {
    return await this.#read(transaction, "Orchestrators", ["Id"], [id]) !== undefined;
  }

  async #row(
    transaction: Transaction,
    table: string,
    columns: readonly string[],
    key: SessionKey,
  ): Promise<Row | undefined> {
    return await this.#read(transaction, table, columns, Object.values(keyColumns(key)));
  }

  async #read(
    transaction: Transaction,
    table: string,
    columns: readonly string[],
    key: string[],
  ): Promise<Row | undefined> {
    const request = { keys: [key], columns: [...columns], json: true, gaxOptions: this.#call };
    const [rows] = await transaction.read(table, request);
    return rows[0] as unknown as Row | undefined;
  }

  /**
   * Whether there is room for one more agent of a user, whose second server of a workspace on a machine is not counted. What
   * it counts stays so until the transaction has ended.
   */
  async #hasRoom(
    transaction: Transaction,
    { userId, repoHash, serverId }: SessionKey,
    { agents, agentsPerUser }: AgentLimits,
  ): Promise<boolean> {
    const [rows] = await transaction.run({
      sql: `SELECT RepoHash, Machine, COUNT(*) AS Agents FROM (
              SELECT IF(UserId = @userId, RepoHash, NULL) AS RepoHash,
                     IF(UserId = @userId, SUBSTR(ServerId, 1, 8), NULL) AS Machine
              FROM ServerSessions WHERE Status != 'FAILED'
            ) GROUP BY RepoHash, Machine`,
      params: { userId },
      json: true,
      gaxOptions: this.#call,
    });
    const groups = rows as unknown as { RepoHash: string | null; Machine: string | null; Agents: number }[];
    const all = groups.reduce((sum, { Agents }) => sum + Number(Agents), 0);
    // Those of other users are one group, without a name.
    const own = groups.filter(({ RepoHash }) => RepoHash !== null);
    const ofUser = own.reduce((sum, { Agents }) => sum + counted(Number(Agents)), 0);
    const here = own.find(({ RepoHash, Machine }) => RepoHash === repoHash && Machine === machineOf(serverId));
    const isSecond = Number(here?.Agents) === 1;
    return (agents === 0 || all < agents) && (agentsPerUser === 0 || isSecond || ofUser < agentsPerUser);
  }

  /** Takes a warm agent. @returns what the session has from it; undefined: there is none */
  async #claim(transaction: Transaction, { owner, computeService }: WarmClaim): Promise<Row | undefined> {
    const [rows] = await transaction.run({
      sql: `SELECT ${WARM_COLUMNS.join(", ")} FROM WarmAgents
            WHERE Owner = @owner AND ComputeService = @computeService
            ORDER BY AgentPort = 0, CreatedAt, Id LIMIT 1`,
      params: { owner, computeService },
      json: true,
      gaxOptions: this.#call,
    });
    const [agent] = rows as unknown as Row[];
    if (!agent) return undefined;
    transaction.deleteRows("WarmAgents", [String(agent.Id)]);
    return claimedColumns(agent);
  }

  async #isWarm(transaction: Transaction, id: string, owner?: string): Promise<boolean> {
    const found = await this.#read(transaction, "WarmAgents", ["Owner"], [id]);
    return found !== undefined && (owner === undefined || found.Owner === owner);
  }

  /** How many agents there are, warm ones too. */
  async #agents(transaction: Transaction): Promise<number> {
    const [rows] = await transaction.run({
      sql: `SELECT (SELECT COUNT(*) FROM ServerSessions WHERE Status != 'FAILED')
                 + (SELECT COUNT(*) FROM WarmAgents) AS Agents`,
      json: true,
      gaxOptions: this.#call,
    });
    return Number((rows[0] as unknown as { Agents: number }).Agents);
  }

  /** The epoch of the key's last session that is gone; 0: there was none. */
  async #lastEpoch(transaction: Transaction, key: SessionKey): Promise<number> {
    const row = await this.#row(transaction, "ServerEpochs", ["Epoch"], key);
    return Number(row?.Epoch ?? 0);
  }

  async #query(sql: string, params: Record<string, string | string[]>): Promise<Row[]> {
    const [rows] = await this.#within(
      this.#timeoutMs,
      this.#database.run({ sql, params, json: true, gaxOptions: this.#call }),
    );
    return rows as Row[];
  }

  /** {@link readWrite}, after the others of this process whose turn it is before. */
  async #transaction<T extends { happened: boolean }>(
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

  /** Waits for the library, but not longer than `timeoutMs`, and makes its errors ours. */
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

/** The columns that are a session's key, in its order, with their values. */
function keyColumns(
  { userId, repoHash, serverId }: SessionKey,
): { UserId: string; RepoHash: string; ServerId: string } {
  return { UserId: userId, RepoHash: repoHash, ServerId: serverId };
}

/** The library, ready for a project. It sends nothing yet. */
async function connect(name: string, projectId: string): Promise<Spanner> {
  const { Spanner } = await loadSpanner().catch((cause) => {
    throw new RbsError(
      `The session store spanner:${name} needs the library @google-cloud/spanner, which cannot be loaded ` +
        `(${sentence(cause)}): run \`deno task compile\` again where there is a network.`,
      { cause },
    );
  });
  // The other way to retry, which is the default, also repeats reads of aborted transactions, after two seconds each. It
  // is an option of the calls below that SpannerOptions does not name.
  const retries = { gaxServerStreamingRetries: true };
  try {
    return new Spanner({ projectId, disableBuiltInMetrics: true, ...retries });
  } catch (cause) {
    throw failure(name, cause); // SPANNER_EMULATOR_HOST is no "HOST:PORT".
  }
}

function failure(name: string, cause: unknown): RbsError {
  // The library's own deadline hides what it ran into.
  const [hidden = cause] = (cause as { errors?: unknown[] } | undefined)?.errors ?? [];
  const message = sentence(hidden).replace(/[.:\s]+$/, "");
  const code = (cause as { code?: unknown } | undefined)?.code;
  const store = `The session store spanner:${name}`;
  if (code === Code.NOT_FOUND && !message.includes("Session not found")) {
    return new RbsError(`${store} is not there (${message}): create the database, or name another with --store.`, {
      cause,
      culprit: "caller",
    });
  }
  if (code === Code.PERMISSION_DENIED || code === Code.UNAUTHENTICATED || /credentials/i.test(message)) {
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
