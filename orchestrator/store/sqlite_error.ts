/** Primary result codes of SQLite (https://sqlite.org/rescode.html). */
const BUSY = 5, LOCKED = 6, READONLY = 8, IOERR = 10, FULL = 13, CANTOPEN = 14;

/**
 * The primary result code of what a statement of node:sqlite threw. Undefined if SQLite did not throw it, and for what Deno
 * 2.9.6 gives no code: errors of `new DatabaseSync()` and of `exec()`. So whoever wants to know prepares the statement.
 */
function resultCode(thrown: unknown): number | undefined {
  const { errcode } = (thrown ?? {}) as { errcode?: unknown };
  // The upper bits say more of the same.
  return typeof errcode === "number" ? errcode & 0xff : undefined;
}

/** Whether another connection holds what the statement needs. */
export function isBusy(thrown: unknown): boolean {
  const code = resultCode(thrown);
  return code === BUSY || code === LOCKED;
}

/** Whether the file could not be read or written, so that nothing is known of what is in it. */
export function isUnreachable(thrown: unknown): boolean {
  return isBusy(thrown) || [READONLY, IOERR, FULL, CANTOPEN].includes(resultCode(thrown) ?? 0);
}
