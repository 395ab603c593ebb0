import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import { join } from "node:path";
import { RbsError, sentence } from "./errors.ts";

/** Where clients look for the orchestrator unless they are told otherwise: "host:port". */
export const DEFAULT_ORCHESTRATOR_ADDR = "localhost:50051";

/**
 * The state directory: sessions, storage and keys. `RBS_STATE_DIR`, else `rbs` in `XDG_STATE_HOME`, else
 * `~/.local/state/rbs`. Absolute. Reads the environment.
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

/** The user that local mode works for: `RBS_USER_ID`, else the name of the operating system's user. */
export function localUserId(): string {
  return Deno.env.get("RBS_USER_ID") || Deno.env.get("USER") || Deno.env.get("LOGNAME") || `uid-${Deno.uid() ?? 0}`;
}

/** The file with the token by which the programs of one machine know each other in local mode. */
export function localTokenFile(state: string): string {
  return join(state, "keys", "local.token");
}

/** Reads the local token. Throws an RbsError that says what to do when there is none yet. */
export function readLocalToken(state: string): string {
  const file = localTokenFile(state);
  try {
    return Deno.readTextFileSync(file).trim();
  } catch (cause) {
    throw new RbsError(
      cause instanceof Deno.errors.NotFound
        ? `There is no key at ${file} yet: start the orchestrator (orchestrator --local-mode), or set RBS_STATE_DIR to its state directory.`
        : `The key ${file} cannot be read (${sentence(cause)}): make it readable for this user.`,
      { cause, culprit: "caller" },
    );
  }
}

/** Reads the local token, and makes it on first use (0600, in a 0700 directory). One that others can read is no secret. */
export function ensureLocalToken(state: string): string {
  const file = localTokenFile(state);
  try {
    Deno.mkdirSync(join(state, "keys"), { recursive: true, mode: 0o700 });
    // Hard-linking a finished file makes it appear whole or not at all, and never replaces another's.
    const fresh = `${file}.${randomToken()}`;
    Deno.writeTextFileSync(fresh, randomToken() + "\n", { mode: 0o600, createNew: true });
    try {
      Deno.linkSync(fresh, file);
    } catch (e) {
      if (!(e instanceof Deno.errors.AlreadyExists)) throw e;
    } finally {
      Deno.removeSync(fresh);
    }
  } catch (cause) {
    throw new RbsError(`The key ${file} cannot be written (${sentence(cause)}): check the state directory.`, { cause });
  }
  const mode = Deno.statSync(file).mode ?? 0;
  if ((mode & 0o077) !== 0) {
    throw new RbsError(
      `The key ${file} can be read by other users (mode ${
        (mode & 0o777).toString(8)
      }): remove it, and it is made anew.`,
      { culprit: "caller" },
    );
  }
  return readLocalToken(state);
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
