/**
 * The Spanner library, loaded only when a store is on Spanner: it is 90 MB, and takes a third of a second to start.
 */
import type * as Library from "@google-cloud/spanner";

/** What the library uses by default, and emulators up to (at least) that of June 2025 lack: it fails on them. */
const NEWER_THAN_THE_EMULATOR = [
  "GOOGLE_CLOUD_SPANNER_MULTIPLEXED_SESSIONS",
  "GOOGLE_CLOUD_SPANNER_MULTIPLEXED_SESSIONS_PARTITIONED_OPS",
  "GOOGLE_CLOUD_SPANNER_MULTIPLEXED_SESSIONS_FOR_RW",
];

/** Loads the library, set up for the emulator when SPANNER_EMULATOR_HOST names one. */
export async function loadSpanner(): Promise<typeof Library> {
  if (Deno.env.get("SPANNER_EMULATOR_HOST")) {
    // What the user has set stays as it is.
    for (const name of NEWER_THAN_THE_EMULATOR) if (!Deno.env.get(name)) Deno.env.set(name, "false");
    // Or else the library asks the network whether this machine is one of Google's.
    if (!Deno.env.get("METADATA_SERVER_DETECTION")) Deno.env.set("METADATA_SERVER_DETECTION", "none");
  }
  // A CommonJS package: its default export is all of it, also where a launcher imports it (see tools/packages.ts).
  const { default: library } = await import("@google-cloud/spanner") as unknown as { default: typeof Library };
  return library;
}
