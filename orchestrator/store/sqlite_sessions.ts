import { type Moment, momentOf, type SharedChanges } from "./change_poller.ts";
import { changedColumns, type Row, startColumns, toSession } from "./rows.ts";
import { keyText, type Session, type SessionKey, type SessionStatus } from "./session.ts";
import type { Expected, SessionChange, SessionStore } from "./session_store.ts";
import type { SqliteDatabase } from "./sqlite_database.ts";
import { HAS_LEASE, IS_ORPHAN } from "./sqlite_leases.ts";
import { roomFor } from "./sqlite_limits.ts";
import { takeWarm } from "./sqlite_warm_agents.ts";
import { type SessionEvent, transition } from "./state_machine.ts";

/** The {@link SessionStore} of a SqliteStore; its transactions also read leases and warm agents. */
export class SqliteSessions implements SessionStore {
  readonly #database: SqliteDatabase;
  readonly #changes: SharedChanges<SessionKey>;

  constructor(database: SqliteDatabase) {
    this.#database = database;
    this.#changes = database.changes({ text: keyText, look: (keys) => keys.map((key) => this.#moment(key)) });
  }

  // The methods are async so that what SQLite throws becomes a rejection, as with a networked store.

  // deno-lint-ignore require-await
  async get(key: SessionKey): Promise<Session | undefined> {
    const [row] = this.#database.run(`SELECT * FROM ServerSessions WHERE ${IS_KEY}`, ...values(key));
    const session = row && toSession(row);
    this.#changes.show(key, momentOf(session));
    return session;
  }

  // deno-lint-ignore require-await
  async list(userId?: string): Promise<Session[]> {
    const order = "ORDER BY CreatedAt, UserId, RepoHash, ServerId";
    const rows = userId === undefined
      ? this.#database.run(`SELECT * FROM ServerSessions ${order}`)
      : this.#database.run(`SELECT * FROM ServerSessions WHERE UserId = ? ${order}`, userId);
    return rows.map(toSession);
  }

  async transition(expected: Expected, event: SessionEvent, change: SessionChange = {}): Promise<Session | undefined> {
    const { to, raisesEpoch, ofOrphans } = transition(expected.state, event);
    // deno-lint-ignore require-await
    const { session } = await this.#changes.write(expected, async () => {
      const begin = (claimed?: Row) =>
        expected.state === "NONE" ? this.#insert(expected, change, claimed) : this.#update(expected, change, claimed, {
          to,
          raise: raisesEpoch ? 1 : 0,
          restart: event === "start",
          ofOrphans,
        });
      const row = to === "NONE"
        ? this.#remove(expected)
        : expected.claim
        ? this.#database.transaction(() => begin(takeWarm(this.#database, expected.claim!)))
        : begin();
      const session = row && toSession(row);
      const moment = session && to !== "NONE" ? momentOf(session) : this.#moment(expected);
      return { happened: session !== undefined, moment, session };
    });
    return session;
  }

  // deno-lint-ignore require-await
  async touch(key: SessionKey, sessionId: string | undefined, at: number): Promise<boolean> {
    const rows = this.#database.run(
      `UPDATE ServerSessions SET LastHeartbeat = max(LastHeartbeat, ?)
       WHERE ${IS_KEY} AND SessionId = coalesce(?, SessionId) AND Status IN ('PENDING', 'READY')
       RETURNING 1`,
      at,
      ...values(key),
      sessionId ?? null,
    );
    return rows.length > 0;
  }

  watch(key: SessionKey, listener: () => void): () => void {
    return this.#changes.watch(key, listener);
  }

  #moment(key: SessionKey): Moment {
    const [row] = this.#database.run(`SELECT Status, Epoch FROM ServerSessions WHERE ${IS_KEY}`, ...values(key));
    return momentOf(row && { status: row.Status as SessionStatus, epoch: row.Epoch as number });
  }

  #insert(key: Expected, change: SessionChange, claimed?: Row): Row | undefined {
    const columns = { ...startColumns(change), ...claimed };
    const room = roomFor(key, key.limits);
    return this.#database.run(
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
    claimed: Row | undefined,
    { to, raise, restart, ofOrphans }: { to: string; raise: number; restart: boolean; ofOrphans?: true },
  ): Row | undefined {
    const columns = { ...changedColumns(change), ...claimed };
    const room = roomFor(expected, expected.limits);
    const holder = columns.Holder ?? "";
    return this.#database.run(
      `UPDATE ServerSessions
       SET Status = ?, Epoch = Epoch + ?, Term = ${restart ? "1" : "Term + (Holder <> coalesce(?, Holder))"}
         ${Object.keys(columns).map((column) => `, ${column} = ?`).join("")}
       WHERE ${IS_KEY} AND Epoch = ? AND Status = ? AND Holder = coalesce(?, Holder)
         ${ofOrphans ? `AND ${IS_ORPHAN}` : ""}
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
    return this.#database.transaction(() => {
      const [row] = this.#database.run(
        `DELETE FROM ServerSessions
         WHERE ${IS_KEY} AND Epoch = ? AND Status = ? AND Holder = coalesce(?, Holder) RETURNING *`,
        ...values(expected),
        expected.epoch,
        expected.state,
        expected.holder ?? null,
      );
      if (row) {
        this.#database.run(
          `INSERT INTO ServerEpochs (UserId, RepoHash, ServerId, Epoch) VALUES (?, ?, ?, ?)
           ON CONFLICT DO UPDATE SET Epoch = excluded.Epoch`,
          ...values(expected),
          expected.epoch,
        );
      }
      return row;
    });
  }
}

/** Condition for a key. */
const IS_KEY = "UserId = ? AND RepoHash = ? AND ServerId = ?";

function values({ userId, repoHash, serverId }: SessionKey): [string, string, string] {
  return [userId, repoHash, serverId];
}
