import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import { join } from "node:path";
import { RbsError } from "./errors.ts";

/** The orchestrator's default address: "host:port". */
export const DEFAULT_ORCHESTRATOR_ADDR = "localhost:50051";

/**
 * The state directory, with sessions, storage and keys: `RBS_STATE_DIR`, else `rbs` in `XDG_STATE_HOME`, else
 * `~/.local/state/rbs`. Absolute. Reads the environment. Throws an RbsError for a relative path.
 */
export function stateDirectory(): string {
  const explicit = Deno.env.get("RBS_STATE_DIR");
  const base = Deno.env.get("XDG_STATE_HOME") || join(Deno.env.get("HOME") || ".", ".local/state");
  const directory = explicit || join(base, "rbs");
  if (!directory.startsWith("/")) {
    throw new RbsError(
      `RBS_STATE_DIR must be an absolute path, but it is ${JSON.stringify(directory)}; set it or HOME.`,
      { culprit: "caller", exitCode: 2 },
    );
  }
  return directory;
}

/** The user of local mode: the operating system's user name. */
export function localUserId(): string {
  return Deno.env.get("USER") || Deno.env.get("LOGNAME") || `uid-${Deno.uid() ?? 0}`;
}

/** 128 random bits as 32 lowercase hex digits: session ids, tokens, cookies. */
export function randomToken(): string {
  return randomBytes(16).toString("hex");
}

/** Compares two secrets in constant time. Undefined equals nothing. */
export function sameSecret(expected: string, given: string | undefined): boolean {
  const digest = (s: string) => createHash("sha256").update(s).digest();
  return given !== undefined && timingSafeEqual(digest(expected), digest(given));
}

/** The token of an `authorization: Bearer …` value. */
export function bearer(authorization: string | undefined): string | undefined {
  return /^Bearer (\S+)$/i.exec(authorization ?? "")?.[1];
}
