import { join } from "node:path";
import { randomToken } from "../../proto/base/state_directory.ts";

/** What was found lasts for a day, also that there is nothing to be found. Milliseconds. */
const LASTS_MS = 86_400_000;
/** A lookup gets so long before the request is sent without it: a cloud's answer takes less. Milliseconds. */
const PATIENCE_MS = 50;

/** What {@link wantedRegion} works with. */
export interface RegionOptions {
  /** Holds the file `region.json`. Absolute. */
  readonly stateDirectory: string;
  /** Asks the cloud, see cloud_metadata.ts. Never rejects. Without it only what is known already counts. */
  readonly lookUp?: () => Promise<string | undefined>;
  /** Milliseconds since 1970. @default Date.now */
  readonly now?: () => number;
}

interface Known {
  /** Empty: none. */
  readonly region: string;
  /** Milliseconds since 1970. */
  readonly at: number;
}

/** Lookups that are under way, by state directory: one is enough. */
const underWay = new Map<string, Promise<string>>();

/**
 * The region to ask the orchestrator for: what RBS_REGION says, else the region of the cloud machine that this is, else
 * "". The cloud is asked once a day, whatever it answers, and holds up nobody for longer than 50 ms: an answer that comes
 * later is for the next request. Never rejects.
 */
export async function wantedRegion({ stateDirectory, lookUp, now = Date.now }: RegionOptions): Promise<string> {
  const explicit = Deno.env.get("RBS_REGION");
  if (explicit !== undefined) return explicit;
  const file = join(stateDirectory, "region.json");
  const known = read(file);
  const age = now() - (known?.at ?? 0);
  if (known && age >= 0 && age < LASTS_MS) return known.region;
  if (!lookUp) return known?.region ?? "";
  let found = underWay.get(file);
  if (!found) {
    found = lookUp().then((region = "") => {
      write(file, { region, at: now() });
      underWay.delete(file);
      return region;
    });
    underWay.set(file, found);
  }
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<string>((resolve) => timer = setTimeout(() => resolve(known?.region ?? ""), PATIENCE_MS));
  try {
    return await Promise.race([found, late]);
  } finally {
    clearTimeout(timer);
  }
}

function read(file: string): Known | undefined {
  try {
    const { region, at } = JSON.parse(Deno.readTextFileSync(file));
    return typeof region === "string" && /^[a-z0-9-]{0,63}$/.test(region) && typeof at === "number"
      ? { region, at }
      : undefined;
  } catch {
    return undefined;
  }
}

/** A state directory that cannot be written is no reason to fail: the cloud is asked again. */
function write(file: string, known: Known): void {
  try {
    const fresh = `${file}.${randomToken()}`;
    Deno.writeTextFileSync(fresh, JSON.stringify(known) + "\n", { mode: 0o600, createNew: true });
    Deno.renameSync(fresh, file);
  } catch {
    // Said by whatever else needs that directory.
  }
}
