import { resolve } from "node:path";
import { SpannerStore } from "./spanner_store.ts";
import { SqliteStore } from "./sqlite_store.ts";
import type { Store } from "./store.ts";

/** Where sessions are kept. */
export type StoreLocation =
  /** A file; absolute. */
  | { readonly kind: "sqlite"; readonly file: string }
  /** "projects/P/instances/I/databases/D". */
  | { readonly kind: "spanner"; readonly database: string };

/** What {@link parseStoreLocation} understands. */
export const STORE_SYNTAX = "sqlite:PATH or spanner:projects/PROJECT/instances/INSTANCE/databases/DATABASE";

/** Reads `--store`. @returns undefined when it is not {@link STORE_SYNTAX} */
export function parseStoreLocation(text: string): StoreLocation | undefined {
  const [, kind, rest] = /^(sqlite|spanner):(.+)$/s.exec(text) ?? [];
  if (kind === "sqlite") return { kind, file: resolve(rest) };
  if (kind === "spanner" && SPANNER_DATABASE.test(rest)) return { kind, database: rest };
  return undefined;
}

// The names that Spanner allows, but for its lengths.
const SPANNER_DATABASE = /^projects\/[a-z0-9.:-]+\/instances\/[a-z0-9-]+\/databases\/[a-z0-9_-]+$/;

/** Opens the store at a location. Throws an RbsError when it cannot be used. */
export async function openStore(location: StoreLocation): Promise<Store> {
  if (location.kind === "sqlite") return SqliteStore.open(location.file);
  return await SpannerStore.open(location.database);
}
