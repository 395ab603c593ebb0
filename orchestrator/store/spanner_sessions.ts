import type { Transaction } from "@google-cloud/spanner";
import { type Moment, momentOf, type SharedChanges } from "./change_poller.ts";
import { ALL_COLUMNS, changedColumns, type Row, startColumns, toSession } from "./rows.ts";
import { keyText, type Session, type SessionKey, type SessionStatus } from "./session.ts";
import type { Expected, SessionChange, SessionStore } from "./session_store.ts";
import type { SpannerDatabase } from "./spanner_database.ts";
import { hasLease } from "./spanner_leases.ts";
import { ALL_AGENTS, hasRoom } from "./spanner_limits.ts";
import { takeWarm } from "./spanner_warm_agents.ts";
import { type SessionEvent, transition } from "./state_machine.ts";

/** The result of a transition. */
interface Outcome {
  readonly happened: boolean;
  /** The moment afterwards. */
  readonly moment: Moment;
  /** The session afterwards; for an event that leads to NONE, before it. */
  readonly row?: Row;
}

/** The {@link SessionStore} of a SpannerStore; its transactions also read leases and warm agents. */
export class SpannerSessions implements SessionStore {
  readonly #database: SpannerDatabase;
  readonly #changes: SharedChanges<SessionKey>;

  constructor(database: SpannerDatabase) {
    this.#database = database;
    this.#changes = database.changes({ text: keyText, look: (keys) => this.#look(keys) });
  }

  async get(key: SessionKey): Promise<Session | undefined> {
    const sql = `SELECT ${ALL_COLUMNS.join(", ")} FROM ServerSessions
       WHERE UserId = @userId AND RepoHash = @repoHash AND ServerId = @serverId`;
    const { userId, repoHash, serverId } = key;
    const [row] = await this.#database.query(sql, { userId, repoHash, serverId });
    const session = row && toSession(row);
    this.#changes.show(key, momentOf(session));
    return session;
  }

  async list(userId?: string): Promise<Session[]> {
    const rows = await this.#database.query(
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
        this.#database.transaction<Outcome>(
          expected.limits || expected.claim ? ALL_AGENTS : keyText(expected),
          async (transaction) => {
            const found = await this.#row(transaction, "ServerSessions", ALL_COLUMNS, expected);
            const moment = momentOf(found && toSession(found));
            const isExpected = moment.status === expected.state && (!found || moment.epoch === expected.epoch) &&
              (!found || expected.holder === undefined || found.Holder === expected.holder);
            if (!isExpected) return { happened: false, moment };
            if (change.holder && !await hasLease(this.#database, transaction, change.holder)) {
              return {
                happened: false,
                moment,
              };
            }
            if (ofOrphans && await hasLease(this.#database, transaction, String(found?.Holder))) {
              return { happened: false, moment };
            }
            if (expected.limits && !await hasRoom(this.#database, transaction, expected, expected.limits)) {
              return { happened: false, moment };
            }
            if (to === "NONE") {
              transaction.deleteRows("ServerSessions", [Object.values(key)]);
              transaction.upsert("ServerEpochs", { ...key, Epoch: moment.epoch });
              return { happened: true, moment: momentOf(undefined), row: found };
            }
            const before = found ? moment.epoch : await this.#lastEpoch(transaction, expected);
            const claimed = expected.claim && await takeWarm(this.#database, transaction, expected.claim);
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
    const { touched } = await this.#database.transaction(keyText(key), async (transaction) => {
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

  watch(key: SessionKey, listener: () => void): () => void {
    return this.#changes.watch(key, listener);
  }

  async #look(keys: readonly SessionKey[]): Promise<Moment[]> {
    const rows = await this.#database.query(
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

  /** The epoch of the key's last session; 0 if there was none. */
  async #lastEpoch(transaction: Transaction, key: SessionKey): Promise<number> {
    const row = await this.#row(transaction, "ServerEpochs", ["Epoch"], key);
    return Number(row?.Epoch ?? 0);
  }

  async #row(
    transaction: Transaction,
    table: string,
    columns: readonly string[],
    key: SessionKey,
  ): Promise<Row | undefined> {
    return await this.#database.read(transaction, table, columns, Object.values(keyColumns(key)));
  }
}

/** The columns of a session's key, in its order, with their values. */
function keyColumns(
  { userId, repoHash, serverId }: SessionKey,
): { UserId: string; RepoHash: string; ServerId: string } {
  return { UserId: userId, RepoHash: repoHash, ServerId: serverId };
}
