import { createHash } from "node:crypto";
import { join } from "node:path";
import { exists } from "../../proto/base/files.ts";
import { randomToken } from "../../proto/base/state_directory.ts";

/** What {@link machineId} works with. */
export interface MachineOptions {
  /** The user's state directory on this machine. Absolute. */
  readonly stateDirectory: string;
  /** @default what RBS_MACHINE_ID says */
  readonly explicit?: string;
  /** @default this machine's */
  readonly hostName?: string;
  /** What the system says of itself. @default the content of /etc/machine-id, or nothing */
  readonly systemId?: string;
}

/**
 * Tells this machine from all others on which the user may have a workspace of the same path: RBS_MACHINE_ID, or random
 * digits that are kept in the state directory.
 *
 * There is one file for each host name and system id, so that an image or a home folder that was copied elsewhere has an id
 * of its own there, and two machines that share a home folder do not take turns in making each other's void. A state
 * directory that cannot be written is no reason to fail: then host name and system id have to do. Never throws.
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
    // The first of several wins. A file that holds something else is replaced.
    if (exists(file)) Deno.renameSync(fresh, file);
    else linkOrLose(fresh, file);
  } catch {
    return read(file) ?? system;
  }
  return read(file) ?? system;
}

/** Lowercase hex digits of SHA-256. No part can be taken for two. */
export function hexDigest(...parts: string[]): string {
  return createHash("sha256").update(parts.join("\0"), "utf8").digest("hex");
}

/** Gives the file its name, unless another has it, and takes the former one away. */
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
