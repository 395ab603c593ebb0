/** New databases for the runs. */
import { join } from "node:path";
import { SpannerSessionStore } from "../../orchestrator/sessions/spanner_store.ts";
import { SqliteSessionStore } from "../../orchestrator/sessions/sqlite_store.ts";
import { SpannerEmulator } from "../../orchestrator/testing/spanner_emulator.ts";
import { tempDirectory } from "../../orchestrator/testing/temp.ts";
import type { RunOptions } from "./run.ts";

/** SQLite files. */
export const sqliteDatabase: RunOptions["newDatabase"] = () => {
  const temp = tempDirectory();
  return Promise.resolve({
    open: () => SqliteSessionStore.open(join(temp.path, "s.sqlite")),
    [Symbol.asyncDispose]: () => Promise.resolve(temp[Symbol.dispose]()),
  });
};

/** Databases of an emulator. */
export function spannerDatabase(emulator: SpannerEmulator): RunOptions["newDatabase"] {
  return async () => {
    const name = await emulator.newDatabase();
    return { open: () => SpannerSessionStore.open(name), [Symbol.asyncDispose]: () => emulator.dropDatabase(name) };
  };
}
