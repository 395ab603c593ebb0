import { DatabaseSync, type SQLInputValue, type StatementSync } from "node:sqlite";
import { RbsError, sentence } from "../../proto/base/errors.ts";
import { machineOf, type Session, type SessionKey, type SessionStatus } from "./session.ts";
import { changedColumns, type Row, startColumns, toLease, toSession } from "./rows.ts";
import { type Moment, momentOf, SharedChanges } from "./change_poller.ts";
import { type SessionEvent, transition } from "./state_machine.ts";
import { SqliteIdentities } from "./sqlite_identities.ts";
import type { IdentityStore } from "./identity_store.ts";
import type { AgentLimits } from "./agent_limits.ts";
import type { OrchestratorLease } from "./lease_store.ts";
import type { Expected, SessionChange, Store } from "./store.ts";
import { claimedColumns } from "./rows.ts";
import { toWarmAgent } from "./rows.ts";
import { warmColumns } from "./rows.ts";
import { type WarmAgent, type WarmChange, type WarmClaim } from "./warm_agent_store.ts";

/** The statements that lead from each schema version to the next one; `PRAGMA user_version` counts them. */
const MIGRATIONS = [
  `CREATE TABLE BuildSessions (
     UserId TEXT NOT NULL,
     RepoHash TEXT NOT NULL,
     SessionId TEXT NOT NULL,
     PodIP TEXT NOT NULL,
     Status TEXT NOT NULL CHECK (Status IN ('PENDING', 'READY', 'STOPPING', 'FAILED')),
     Epoch INTEGER NOT NULL,
     AgentPort INTEGER NOT NULL,
     CommandPort INTEGER NOT NULL,
     ComputeService TEXT NOT NULL,
     ProcessId TEXT NOT NULL,
     Region TEXT NOT NULL,
     StartupOptionsHash TEXT NOT NULL,
     StartupOptions TEXT NOT NULL,
     SourcePath TEXT NOT NULL,
     StorageDirectory TEXT NOT NULL,
     AccessToken TEXT NOT NULL,
     ControlToken TEXT NOT NULL,
     Warnings TEXT NOT NULL,
     SamePaths INTEGER NOT NULL,
     Failure TEXT NOT NULL,
     FailureTransient INTEGER NOT NULL,
     CreatedAt INTEGER NOT NULL,
     LastHeartbeat INTEGER NOT NULL,
     PRIMARY KEY (UserId, RepoHash)
   ) STRICT, WITHOUT ROWID;
   -- The highest epoch of keys whose session is gone: a fencing token must never be given out twice.
   CREATE TABLE SessionEpochs (
     UserId TEXT NOT NULL,
     RepoHash TEXT NOT NULL,
     Epoch INTEGER NOT NULL,
     PRIMARY KEY (UserId, RepoHash)
   ) STRICT, WITHOUT ROWID;`,
  `ALTER TABLE BuildSessions ADD COLUMN Synced INTEGER NOT NULL DEFAULT 0;
   ALTER TABLE BuildSessions ADD COLUMN MissingInstallBase TEXT NOT NULL DEFAULT '';`,
  `CREATE TABLE WarmAgents (
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
  `CREATE TABLE EnrolmentTokens (
     TokenHash TEXT NOT NULL PRIMARY KEY,
     Uri TEXT NOT NULL,
     ExpiresAt INTEGER NOT NULL
   ) STRICT, WITHOUT ROWID;
   CREATE TABLE RevokedUsers (
     UserId TEXT NOT NULL PRIMARY KEY,
     RevokedAt INTEGER NOT NULL
   ) STRICT, WITHOUT ROWID;`,
  // Several orchestrators on one file.
  `CREATE TABLE Orchestrators (
     Id TEXT NOT NULL PRIMARY KEY,
     Address TEXT NOT NULL,
     DurationMs INTEGER NOT NULL,
     ExpiresAt INTEGER NOT NULL
   ) STRICT, WITHOUT ROWID;
   ALTER TABLE BuildSessions ADD COLUMN Holder TEXT NOT NULL DEFAULT '';
   ALTER TABLE BuildSessions ADD COLUMN Term INTEGER NOT NULL DEFAULT 0;`,
  // Several servers of a user for one workspace. The names are others, so that an orchestrator of before that still runs
  // on the file hears that its tables are gone, and leaves its agents alone, instead of mixing sessions up.
  `CREATE TABLE ServerSessions (
     UserId TEXT NOT NULL,
     RepoHash TEXT NOT NULL,
     ServerId TEXT NOT NULL,
     SessionId TEXT NOT NULL,
     PodIP TEXT NOT NULL,
     Status TEXT NOT NULL CHECK (Status IN ('PENDING', 'READY', 'STOPPING', 'FAILED')),
     Epoch INTEGER NOT NULL,
     Term INTEGER NOT NULL,
     AgentPort INTEGER NOT NULL,
     CommandPort INTEGER NOT NULL,
     ComputeService TEXT NOT NULL,
     ProcessId TEXT NOT NULL,
     Region TEXT NOT NULL,
     StartupOptionsHash TEXT NOT NULL,
     StartupOptions TEXT NOT NULL,
     SourcePath TEXT NOT NULL,
     StorageDirectory TEXT NOT NULL,
     AccessToken TEXT NOT NULL,
     ControlToken TEXT NOT NULL,
     Warnings TEXT NOT NULL,
     SamePaths INTEGER NOT NULL,
     Synced INTEGER NOT NULL,
     MissingInstallBase TEXT NOT NULL,
     Failure TEXT NOT NULL,
     FailureTransient INTEGER NOT NULL,
     Holder TEXT NOT NULL,
     CreatedAt INTEGER NOT NULL,
     LastHeartbeat INTEGER NOT NULL,
     AdoptedBy TEXT NOT NULL,
     PRIMARY KEY (UserId, RepoHash, ServerId)
   ) STRICT, WITHOUT ROWID;
   CREATE TABLE ServerEpochs (
     UserId TEXT NOT NULL,
     RepoHash TEXT NOT NULL,
     ServerId TEXT NOT NULL,
     Epoch INTEGER NOT NULL,
     PRIMARY KEY (UserId, RepoHash, ServerId)
   ) STRICT, WITHOUT ROWID;
   INSERT INTO ServerSessions
     (UserId, RepoHash, ServerId, SessionId, PodIP, Status, Epoch, Term, AgentPort, CommandPort, ComputeService, ProcessId,
      Region, StartupOptionsHash, StartupOptions, SourcePath, StorageDirectory, AccessToken, ControlToken, Warnings,
      SamePaths, Synced, MissingInstallBase, Failure, FailureTransient, Holder, CreatedAt, LastHeartbeat, AdoptedBy)
     SELECT UserId, RepoHash, '', SessionId, PodIP, Status, Epoch, Term, AgentPort, CommandPort, ComputeService, ProcessId,
       Region, StartupOptionsHash, StartupOptions, SourcePath, StorageDirectory, AccessToken, ControlToken, Warnings,
       SamePaths, Synced, MissingInstallBase, Failure, FailureTransient, Holder, CreatedAt, LastHeartbeat, ''
     FROM BuildSessions;
   INSERT INTO ServerEpochs (UserId, RepoHash, ServerId, Epoch) SELECT UserId, RepoHash, '', Epoch FROM SessionEpochs;
   DROP TABLE BuildSessions;
   DROP TABLE SessionEpochs;`,
];

/**
 * A SessionStore in one SQLite file. Each change is on the disk when its promise resolves (WAL, synchronous FULL).
 * The file holds tokens, so only its owner may read it.
 */
export class SqliteSessionStore implements Store {
  readonly #file: string;
  readonly #database: DatabaseSync;
  readonly #changes = new SharedChanges({ look: (keys) => keys.map((key) => this.#moment(key)) });
  readonly #statements = new Map<string, StatementSync>();
  readonly identities: IdentityStore = new SqliteIdentities((sql, ...values) => this.#all(sql, ...values));

  private constructor(file: string, database: DatabaseSync) {
    this.#file = file;
    this.#database = database;
  }

  /**
   * Opens the store, and makes it when there is none. Throws an RbsError when the file is damaged, of a newer version
   * or not to be written; it is never replaced.
   *
   * @param file Absolute; its directory exists.
   */
  static open(file: string): SqliteSessionStore {
    let database: DatabaseSync | undefined;
    try {
      // Made here, since SQLite would make it readable for others; the -wal and -shm files take over its mode.
      Deno.openSync(file, { read: true, write: true, create: true, mode: 0o600 }).close();
      // One that was made by hand, or copied.
      if (((Deno.statSync(file).mode ?? 0) & 0o077) !== 0) Deno.chmodSync(file, 0o600);
      database = new DatabaseSync(file);
      database.exec("PRAGMA busy_timeout = 5000; PRAGMA synchronous = FULL");
      inTurn(() => database!.exec("PRAGMA journal_mode = WAL"));
      const [check] = database.prepare("PRAGMA quick_check(1)").all();
      if (check?.quick_check !== "ok") throw new Error(String(check?.quick_check));
      migrate(database, file);
      return new SqliteSessionStore(file, database);
    } catch (cause) {
      database?.close();
      throw cause instanceof RbsError ? cause : openFailure(file, cause);
    }
  }

  // The methods are async so that what SQLite throws becomes a rejection, as it is with a store behind a network.

  // deno-lint-ignore require-await
  async get(key: SessionKey): Promise<Session | undefined> {
    const [row] = this.#all(`SELECT * FROM ServerSessions WHERE ${IS_KEY}`, ...values(key));
    const session = row && toSession(row);
    this.#changes.show(key, momentOf(session));
    return session;
  }

  // deno-lint-ignore require-await
  async list(userId?: string): Promise<Session[]> {
    const order = "ORDER BY CreatedAt, UserId, RepoHash, ServerId";
    const rows = userId === undefined
      ? this.#all(`SELECT * FROM ServerSessions ${order}`)
      : this.#all(`SELECT * FROM ServerSessions WHERE UserId = ? ${order}`, userId);
    return rows.map(toSession);
  }

  async transition(expected: Expected, event: SessionEvent, change: SessionChange = {}): Promise<Session | undefined> {
    const { to, raisesEpoch, ofOrphans } = transition(expected.state, event);
    // deno-lint-ignore require-await
    const { session } = await this.#changes.write(expected, async () => {
      const begin = (claimed: Row) =>
        expected.state === "NONE" ? this.#insert(expected, change, claimed) : this.#update(expected, change, claimed, {
          to,
          raise: raisesEpoch ? 1 : 0,
          restart: event === "start",
          ofOrphans,
        });
      const row = to === "NONE"
        ? this.#remove(expected)
        : expected.claim
        ? this.#claim(expected.claim, begin)
        : begin({});
      const session = row && toSession(row);
      const moment = session && to !== "NONE" ? momentOf(session) : this.#moment(expected);
      return { happened: session !== undefined, moment, session };
    });
    return session;
  }

  // deno-lint-ignore require-await
  async touch(key: SessionKey, sessionId: string | undefined, at: number): Promise<boolean> {
    const rows = this.#all(
      `UPDATE ServerSessions SET LastHeartbeat = max(LastHeartbeat, ?)
       WHERE ${IS_KEY} AND SessionId = coalesce(?, SessionId) AND Status IN ('PENDING', 'READY')
       RETURNING 1`,
      at,
      ...values(key),
      sessionId ?? null,
    );
    return rows.length > 0;
  }

  // deno-lint-ignore require-await
  async addWarm(agent: WarmAgent, limits?: AgentLimits): Promise<boolean> {
    const columns = warmColumns(agent);
    const rows = this.#all(
      `INSERT INTO WarmAgents (${Object.keys(columns).join(", ")})
       SELECT ${Object.keys(columns).map(() => "?").join(", ")}
       WHERE ? = 0 OR ${AGENTS}) + (SELECT count(*) FROM WarmAgents) < ? RETURNING 1`,
      ...Object.values(columns),
      limits?.agents ?? 0,
      limits?.agents ?? 0,
    );
    return rows.length > 0;
  }

  // deno-lint-ignore require-await
  async changeWarm(id: string, change: WarmChange, owner?: string): Promise<boolean> {
    const columns = warmColumns(change);
    const set = Object.keys(columns).map((column) => `${column} = ?`).join(", ");
    const sql = `UPDATE WarmAgents SET ${set} WHERE Id = ? AND Owner = coalesce(?, Owner) RETURNING 1`;
    return this.#all(sql, ...Object.values(columns), id, owner ?? null).length > 0;
  }

  // deno-lint-ignore require-await
  async removeWarm(id: string, owner?: string): Promise<boolean> {
    const sql = "DELETE FROM WarmAgents WHERE Id = ? AND Owner = coalesce(?, Owner) RETURNING 1";
    return this.#all(sql, id, owner ?? null).length > 0;
  }

  // deno-lint-ignore require-await
  async listWarm(): Promise<WarmAgent[]> {
    return this.#all("SELECT * FROM WarmAgents ORDER BY CreatedAt, Id").map(toWarmAgent);
  }

  // deno-lint-ignore require-await
  async beginLease(lease: OrchestratorLease): Promise<void> {
    const { id, address, durationMs, expiresAt } = lease;
    this.#all(
      "INSERT INTO Orchestrators (Id, Address, DurationMs, ExpiresAt) VALUES (?, ?, ?, ?)",
      id,
      address,
      durationMs,
      expiresAt,
    );
  }

  // deno-lint-ignore require-await
  async renewLease({ id, expiresAt }: OrchestratorLease): Promise<boolean> {
    return this.#all("UPDATE Orchestrators SET ExpiresAt = ? WHERE Id = ? RETURNING 1", expiresAt, id).length > 0;
  }

  // deno-lint-ignore require-await
  async leases(): Promise<OrchestratorLease[]> {
    return this.#all("SELECT * FROM Orchestrators ORDER BY Id").map(toLease);
  }

  // deno-lint-ignore require-await
  async endLease({ id, expiresAt }: OrchestratorLease): Promise<boolean> {
    return this.#all("DELETE FROM Orchestrators WHERE Id = ? AND ExpiresAt = ? RETURNING 1", id, expiresAt).length > 0;
  }

  watch(key: SessionKey, listener: () => void): () => void {
    return this.#changes.watch(key, listener);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#changes[Symbol.asyncDispose]();
    this.#statements.clear();
    this.#database.close();
  }

  #moment(key: SessionKey): Moment {
    const [row] = this.#all(`SELECT Status, Epoch FROM ServerSessions WHERE ${IS_KEY}`, ...values(key));
    return momentOf(row && { status: row.Status as SessionStatus, epoch: row.Epoch as number });
  }

  #insert(key: Expected, change: SessionChange, claimed: Row): Row | undefined {
    const columns = { ...startColumns(change), ...claimed };
    const room = roomFor(key, key.limits);
    return this.#all(
      `INSERT INTO ServerSessions (UserId, RepoHash, ServerId, Status, Term, Epoch, ${Object.keys(columns).join(", ")})
       SELECT ?, ?, ?, 'PENDING', 1,
         1 + coalesce((SELECT Epoch FROM ServerEpochs WHERE ${IS_KEY}), 0),
         ${Object.keys(columns).map(() => "?").join(", ")}
       WHERE ${room.sql} AND ${HAS_LEASE}
       ON CONFLICT DO NOTHING RETURNING *`,
      ...values(key),
      ...values(key),
      ...Object.values(columns),
      ...room.values,
      columns.Holder,
      columns.Holder,
    )[0];
  }

  #update(
    expected: Expected,
    change: SessionChange,
    claimed: Row,
    { to, raise, restart, ofOrphans }: { to: string; raise: number; restart: boolean; ofOrphans?: true },
  ): Row | undefined {
    const columns = { ...changedColumns(change), ...claimed };
    const room = roomFor(expected, expected.limits);
    const holder = columns.Holder ?? "";
    return this.#all(
      `UPDATE ServerSessions
       SET Status = ?, Epoch = Epoch + ?, Term = ${restart ? "1" : "Term + (Holder <> coalesce(?, Holder))"}
         ${Object.keys(columns).map((column) => `, ${column} = ?`).join("")}
       WHERE ${IS_KEY} AND Epoch = ? AND Status = ? AND Holder = coalesce(?, Holder)
         ${ofOrphans ? "AND NOT EXISTS (SELECT 1 FROM Orchestrators WHERE Id = Holder)" : ""}
         AND ${room.sql} AND ${HAS_LEASE}
       RETURNING *`,
      to,
      raise,
      ...restart ? [] : [columns.Holder ?? null],
      ...Object.values(columns),
      ...values(expected),
      expected.epoch,
      expected.state,
      expected.holder ?? null,
      ...room.values,
      holder,
      holder,
    )[0];
  }

  #remove(expected: Expected): Row | undefined {
    return this.#transaction(() => {
      const [row] = this.#all(
        `DELETE FROM ServerSessions
         WHERE ${IS_KEY} AND Epoch = ? AND Status = ? AND Holder = coalesce(?, Holder) RETURNING *`,
        ...values(expected),
        expected.epoch,
        expected.state,
        expected.holder ?? null,
      );
      if (row) {
        this.#all(
          `INSERT INTO ServerEpochs (UserId, RepoHash, ServerId, Epoch) VALUES (?, ?, ?, ?)
           ON CONFLICT DO UPDATE SET Epoch = excluded.Epoch`,
          ...values(expected),
          expected.epoch,
        );
      }
      return row;
    });
  }

  /** Takes a warm agent, if there is one, and lets `begin` start a session with its columns. */
  #claim({ owner, computeService }: WarmClaim, begin: (claimed: Row) => Row | undefined): Row | undefined {
    return this.#transaction(() => {
      const [agent] = this.#all(
        `DELETE FROM WarmAgents WHERE Id = (
           SELECT Id FROM WarmAgents WHERE Owner = ? AND ComputeService = ? ORDER BY AgentPort = 0, CreatedAt, Id LIMIT 1
         ) RETURNING *`,
        owner,
        computeService,
      );
      return begin(agent ? claimedColumns(agent) : {});
    });
  }

  /** Does all of it, or nothing when `work` throws or has no row. */
  #transaction(work: () => Row | undefined): Row | undefined {
    this.#all("BEGIN IMMEDIATE");
    try {
      const row = work();
      this.#all(row ? "COMMIT" : "ROLLBACK");
      return row;
    } catch (e) {
      if (this.#database.isTransaction) this.#all("ROLLBACK");
      throw e;
    }
  }

  #all(sql: string, ...values: SQLInputValue[]): Row[] {
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
}

/** A condition with the values of a key. */
const IS_KEY = "UserId = ? AND RepoHash = ? AND ServerId = ?";

function values({ userId, repoHash, serverId }: SessionKey): [string, string, string] {
  return [userId, repoHash, serverId];
}

/** How many sessions have an agent; the parenthesis is open for one more condition. */
const AGENTS = "(SELECT count(*) FROM ServerSessions WHERE Status <> 'FAILED'";
/** A condition with one value, given twice: this orchestrator has a lease, or is none. */
const HAS_LEASE = "(? = '' OR EXISTS (SELECT 1 FROM Orchestrators WHERE Id = ?))";

/**
 * A condition: there is room for one more agent of this user, whose second server of a workspace on a machine is not counted.
 */
function roomFor(
  { userId, repoHash, serverId }: SessionKey,
  limits?: AgentLimits,
): { sql: string; values: SQLInputValue[] } {
  const room = { sql: "TRUE", values: [] as SQLInputValue[] };
  if (limits?.agents) {
    room.sql += ` AND ${AGENTS}) < ?`;
    room.values.push(limits.agents);
  }
  if (limits?.agentsPerUser) {
    room.sql += ` AND (
      ${AGENTS} AND UserId = ? AND RepoHash = ? AND substr(ServerId, 1, 8) = ?) = 1
      OR (SELECT coalesce(sum(n - (n > 1)), 0) FROM (
        SELECT count(*) AS n FROM ServerSessions WHERE Status <> 'FAILED' AND UserId = ?
        GROUP BY RepoHash, substr(ServerId, 1, 8))) < ?)`;
    room.values.push(userId, repoHash, machineOf(serverId), userId, limits.agentsPerUser);
  }
  return room;
}

/** Does what SQLite refuses at once while another process does the same, for five seconds at most. */
function inTurn(work: () => void): void {
  for (const until = Date.now() + 5_000;;) {
    try {
      return work();
    } catch (e) {
      if (!/locked|busy/i.test(sentence(e)) || Date.now() > until) throw e;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5 + Math.random() * 20);
    }
  }
}

function migrate(database: DatabaseSync, file: string): void {
  const versionOf = () => Number(database.prepare("PRAGMA user_version").get()?.user_version);
  const version = versionOf();
  if (version > MIGRATIONS.length) {
    throw new RbsError(
      `The session store ${file} was written by a newer orchestrator (schema ${version}, this one knows ` +
        `${MIGRATIONS.length}): use that one, or move the file away to start without sessions.`,
      { culprit: "caller" },
    );
  }
  for (let next = version; next < MIGRATIONS.length; next++) {
    database.exec("BEGIN IMMEDIATE");
    // Unless another orchestrator was faster.
    if (versionOf() === next) database.exec(`${MIGRATIONS[next]}; PRAGMA user_version = ${next + 1}`);
    database.exec("COMMIT");
  }
}

function openFailure(file: string, cause: unknown): RbsError {
  const message = sentence(cause);
  const unreachable = cause instanceof Deno.errors.PermissionDenied || cause instanceof Deno.errors.IsADirectory ||
    /unable to open|readonly|disk I\/O|locked|os error/.test(message);
  return new RbsError(
    unreachable
      ? `The session store ${file} cannot be opened (${message}): make it a file that this user can read and write.`
      : `The session store ${file} is damaged (${message}): move it away (agents that still run end by themselves) ` +
        `and start again.`,
    { cause, culprit: "caller" },
  );
}
