import { createHash } from "node:crypto";
import { join } from "node:path";
import { exists } from "../../proto/base/files.ts";
import { randomToken } from "../../proto/base/state_directory.ts";

/** Options of {@link machineId}. */
export interface MachineOptions {
  /** The user's state directory on this machine. Absolute. */
  readonly stateDirectory: string;
  /** @default the value of RBS_MACHINE_ID */
  readonly explicit?: string;
  /** @default this machine's */
  readonly hostName?: string;
  /** The system's own id. @default the content of /etc/machine-id, or nothing */
  readonly systemId?: string;
}

/**
 * Distinguishes this machine from others on which the user may have a workspace with the same path: RBS_MACHINE_ID, or
 * random digits kept in the state directory.
 *
 * There is one file per host name and system id. So a copied image or home directory gets its own id, and two machines
 * with a shared home directory do not invalidate each other's. If the state directory cannot be written, host name and
 * system id are used. Never throws.
 */
export function machineId({ stateDirectory, explicit, hostName, systemId }: MachineOptions): string {
  const given = explicit ?? Deno.env.get("RBS_MACHINE_ID");
  if (given) return given;
  const system = hexDigest(hostName ?? ownHostName(), systemId ?? ownSystemId());
  const folder = join(stateDirectory, "machines");
  const file = join(folder, system.slice(0, 16));
  const known = read(file);
  if (known) return known;
  const own = randomToken();
  const fresh = `${file}.${own}`;
  try {
    Deno.mkdirSync(folder, { recursive: true, mode: 0o700 });
    Deno.writeTextFileSync(fresh, `${own}\n`, { mode: 0o600, createNew: true });
    // The first of several wins. A file with other content is replaced.
    if (exists(file)) Deno.renameSync(fresh, file);
    else linkOrLose(fresh, file);
  } catch {
    return read(file) ?? system;
  }
  return read(file) ?? system;
}

/** SHA-256 as lowercase hex digits. The parts are separated, so that their boundaries count. */
export function hexDigest(...parts: string[]): string {
  return createHash("sha256").update(parts.join("\0"), "utf8").digest("hex");
}

/** Links the new file to its final name unless that exists, and removes the old name. */
function linkOrLose(fresh: string, file: string): void {
  try {
    Deno.linkSync(fresh, file);
  } catch (e) {
    if (!(e instanceof Deno.errors.AlreadyExists)) throw e;
  } finally {
    Deno.removeSync(fresh);
  }
}

function read(file: string): string | undefined {
  try {
    return /^([0-9a-f]{32})\n$/.exec(Deno.readTextFileSync(file))?.[1];
  } catch {
    return undefined;
  }
}

function ownHostName(): string {
  try {
    return Deno.hostname();
  } catch {
    return "";
  }
}

function ownSystemId(): string {
  try {
    return Deno.readTextFileSync("/etc/machine-id").trim();
  } catch {
    return "";
  }
}
