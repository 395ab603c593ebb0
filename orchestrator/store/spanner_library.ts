/** Loads the Spanner library only for a store on Spanner: it is 90 MB, and takes a third of a second to start. */
import type * as Library from "@google-cloud/spanner";

/**
 * Features that the library uses by default, but that emulators lack, at least up to June 2025: the library fails on
 * them.
 */
const NEWER_THAN_THE_EMULATOR = [
  "GOOGLE_CLOUD_SPANNER_MULTIPLEXED_SESSIONS",
  "GOOGLE_CLOUD_SPANNER_MULTIPLEXED_SESSIONS_PARTITIONED_OPS",
  "GOOGLE_CLOUD_SPANNER_MULTIPLEXED_SESSIONS_FOR_RW",
];

/** Loads the library, configured for the emulator if SPANNER_EMULATOR_HOST names one. */
export async function loadSpanner(): Promise<typeof Library> {
  if (Deno.env.get("SPANNER_EMULATOR_HOST")) {
    // The user's settings take precedence.
    for (const name of NEWER_THAN_THE_EMULATOR) if (!Deno.env.get(name)) Deno.env.set(name, "false");
    // Otherwise the library asks the network whether this machine is one of Google's.
    if (!Deno.env.get("METADATA_SERVER_DETECTION")) Deno.env.set("METADATA_SERVER_DETECTION", "none");
  }
  // A CommonJS package: its default export is the whole library, also where a launcher imports it (see
  // tools/packages.ts).
  const { default: library } = await import("@google-cloud/spanner") as unknown as { default: typeof Library };
  return library;
}
