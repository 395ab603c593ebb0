import { join } from "node:path";
import { randomToken } from "../../proto/base/state_directory.ts";

/** How long a result stays valid, even if there is no region. Milliseconds. */
const LASTS_MS = 86_400_000;
/** How long a request waits for a lookup; a cloud answers faster. Milliseconds. */
const PATIENCE_MS = 50;

/** Options of {@link wantedRegion}. */
export interface RegionOptions {
  /** Contains the file `region.json`. Absolute path. */
  readonly stateDirectory: string;
  /** Asks the cloud, see cloud_metadata.ts. Must not reject. @default only a known region is used */
  readonly lookUp?: () => Promise<string | undefined>;
  /** Milliseconds since 1970. @default Date.now */
  readonly now?: () => number;
}

interface Known {
  /** Empty if there is none. */
  readonly region: string;
  /** Milliseconds since 1970. */
  readonly at: number;
}

/** Lookups in progress, by file; one is enough. */
const underWay = new Map<string, Promise<string>>();

/**
 * The region to request from the orchestrator: RBS_REGION, else this cloud machine's region, else "". The cloud is
 * asked once a day, whatever it answers. A request waits at most 50 ms; a later answer is for the next request. Never
 * rejects.
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

/** Errors are ignored: the cloud is then asked again. */
function write(file: string, known: Known): void {
  try {
    const fresh = `${file}.${randomToken()}`;
    Deno.writeTextFileSync(fresh, JSON.stringify(known) + "\n", { mode: 0o600, createNew: true });
    Deno.renameSync(fresh, file);
  } catch {
    // Other users of that directory report it.
  }
}
