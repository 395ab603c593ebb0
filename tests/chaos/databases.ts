/** New databases for the runs. */
import { join } from "node:path";
import { SpannerStore } from "../../orchestrator/store/spanner_store.ts";
import { SqliteStore } from "../../orchestrator/store/sqlite_store.ts";
import { SpannerEmulator } from "../../orchestrator/testing/spanner_emulator.ts";
import { tempDirSync } from "../support/temp_dir.ts";
import type { Store } from "../../orchestrator/store/store.ts";

/** A database for one run. */
export interface Database extends AsyncDisposable {
  /** Opens it once more. */
  open(): Promise<Store> | Store;
  /** Its full name on Spanner; undefined: it is a file. */
  readonly spanner?: string;
}

/** Makes one. */
export type NewDatabase = () => Promise<Database>;

/** SQLite files. */
export const sqliteDatabase: NewDatabase = () => {
  const temp = tempDirSync();
  return Promise.resolve({
    open: () => SqliteStore.open(join(temp.path, "s.sqlite")),
    [Symbol.asyncDispose]: () => Promise.resolve(temp[Symbol.dispose]()),
  });
};

/** Databases of an emulator. */
export function spannerDatabase(emulator: SpannerEmulator): NewDatabase {
  return async () => {
    const name = await emulator.newDatabase();
    return {
      open: () => SpannerStore.open(name),
      spanner: name,
      [Symbol.asyncDispose]: () => emulator.dropDatabase(name),
    };
  };
}
