import { InvalidArgumentError, Option } from "commander";
import { join } from "node:path";
import { parseStoreLocation, STORE_SYNTAX, type StoreLocation } from "../store/store_location.ts";
import type { FlagPart } from "./flag_part.ts";

/** Where sessions are kept. */
export interface StoreFlags {
  readonly store: StoreLocation;
}

/** The flags of the store. */
export const STORE_FLAGS: FlagPart<StoreFlags> = {
  options: () => [
    new Option(
      "--store <where>",
      `where sessions are kept: ${STORE_SYNTAX} (default: sqlite:<state dir>/sessions.sqlite)`,
    )
      .env("RBS_STORE").argParser(location),
  ],
  read: ({ store }, { stateDir }) => ({
    store: store ?? { kind: "sqlite", file: join(stateDir, "sessions.sqlite") },
  }),
};

function location(text: string): StoreLocation {
  const parsed = parseStoreLocation(text);
  if (!parsed) throw new InvalidArgumentError(`it must be ${STORE_SYNTAX}`);
  return parsed;
}
