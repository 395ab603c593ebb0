import { resolve } from "node:path";
import { SpannerStore } from "./spanner_store.ts";
import { SqliteStore } from "./sqlite_store.ts";
import type { Store } from "./store.ts";

/** The location of a store. */
export type StoreLocation =
  /** Absolute path of a file. */
  | { readonly kind: "sqlite"; readonly file: string }
  /** "projects/P/instances/I/databases/D". */
  | { readonly kind: "spanner"; readonly database: string };

/** The syntax of {@link parseStoreLocation}. */
export const STORE_SYNTAX = "sqlite:PATH or spanner:projects/PROJECT/instances/INSTANCE/databases/DATABASE";

/** Parses `--store`. @returns undefined if it is not {@link STORE_SYNTAX} */
export function parseStoreLocation(text: string): StoreLocation | undefined {
  const [, kind, rest] = /^(sqlite|spanner):(.+)$/s.exec(text) ?? [];
  if (kind === "sqlite") return { kind, file: resolve(rest) };
  if (kind === "spanner" && SPANNER_DATABASE.test(rest)) return { kind, database: rest };
  return undefined;
}

// The names that Spanner allows, without its limits on length.
const SPANNER_DATABASE = /^projects\/[a-z0-9.:-]+\/instances\/[a-z0-9-]+\/databases\/[a-z0-9_-]+$/;

/** Opens the store at a location. Throws an RbsError if it cannot be used. */
export async function openStore(location: StoreLocation): Promise<Store> {
  if (location.kind === "sqlite") return SqliteStore.open(location.file);
  return await SpannerStore.open(location.database);
}
