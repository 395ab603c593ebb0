/**
 * The keys of a machine, in `keys/` of the state directory (0700):
 *
 *   ca.crt           the authorities that are trusted
 *   user.pem         for the programs of this machine's user: private key, certificate and those above it
 *   operator.pem     the same for an operator, if there is one on this machine
 *   orchestrator.pem, authority.pem   the same of an orchestrator and of its own authority, where they run here
 *
 * Key and certificate are in one file, so that a new pair replaces the old one in one step.
 */
import { X509Certificate } from "node:crypto";
import { join } from "node:path";
import { RbsError, sentence } from "../base/errors.ts";
import { foreignOwner } from "../base/owners.ts";
import { randomToken } from "../base/state_directory.ts";
import { subjectUris } from "./certificate.ts";
import type { Credentials } from "./credentials.ts";
import { type Identity, parseSpiffeUri } from "./spiffe.ts";

/** Whose credentials the directory contains. */
export type Holder = "user" | "operator" | "orchestrator";

/** The directory with the keys. */
export function keyDirectory(state: string): string {
  return join(state, "keys");
}

/** The file with the key and the certificate of `holder`. */
export function holderFile(state: string, holder: Holder): string {
  return join(keyDirectory(state), `${holder}.pem`);
}

/** The file with the trusted authorities. */
export function authoritiesFile(state: string): string {
  return join(keyDirectory(state), "ca.crt");
}

/** Credentials with the content of their certificate. */
export interface HeldCredentials extends Credentials {
  readonly identity: Identity;
  readonly notBefore: Date;
  readonly notAfter: Date;
}

/** Reads the credentials of `holder`. Throws an RbsError with a remedy if they are missing or unusable. */
export function readCredentials(state: string, holder: Holder = "user"): HeldCredentials {
  const file = holderFile(state, holder);
  const authorities = readSecret(authoritiesFile(state));
  const text = readSecret(file);
  const certificate = text.match(/-----BEGIN CERTIFICATE-----.*-----END CERTIFICATE-----\n?/s)?.[0];
  const privateKey = text.match(/-----BEGIN PRIVATE KEY-----.*?-----END PRIVATE KEY-----\n?/s)?.[0];
  const damaged = (cause?: unknown) =>
    new RbsError(
      `${file} does not hold a private key and a certificate of RBS: remove it, then run \`jbazel login\` or start the ` +
        `orchestrator of this machine again.`,
      { cause, culprit: "caller" },
    );
  if (!certificate || !privateKey) throw damaged();
  try {
    const { raw, validFromDate, validToDate } = new X509Certificate(certificate);
    const uris = subjectUris(raw);
    const trustDomain = /^spiffe:\/\/([^/]+)\//.exec(uris[0] ?? "")?.[1];
    const identity = trustDomain && uris.length === 1 ? parseSpiffeUri(trustDomain, uris[0]) : undefined;
    if (!trustDomain || identity?.kind !== holder) throw new RangeError("another holder");
    return {
      certificate,
      privateKey,
      authorities,
      trustDomain,
      identity,
      notBefore: validFromDate,
      notAfter: validToDate,
    };
  } catch (cause) {
    throw damaged(cause);
  }
}

/** Reads the holder's credentials. Throws an RbsError also if their certificate is not valid now. */
export function readValidCredentials(state: string, holder: Holder = "user"): HeldCredentials {
  const credentials = readCredentials(state, holder);
  const now = Date.now();
  if (now > credentials.notAfter.getTime()) {
    throw new RbsError(
      `The certificate in ${holderFile(state, holder)} expired at ${credentials.notAfter.toISOString()}: run ` +
        `\`jbazel login\` again, or start the orchestrator of this machine, which renews it.`,
      { culprit: "caller" },
    );
  }
  if (now < credentials.notBefore.getTime()) {
    throw new RbsError(
      `The certificate in ${holderFile(state, holder)} is valid from ${credentials.notBefore.toISOString()} on, and ` +
        `this machine's clock says ${new Date(now).toISOString()}: set it right.`,
      { culprit: "caller" },
    );
  }
  return credentials;
}

/** The user id in a user's credentials. Throws a TypeError for others. */
export function userOf({ identity }: HeldCredentials): string {
  if (identity.kind !== "user") throw new TypeError("not a user's credentials");
  return identity.userId;
}

/** The operator's name. Throws a TypeError if the credentials are not an operator's. */
export function operatorOf({ identity }: HeldCredentials): string {
  if (identity.kind !== "operator") throw new TypeError("not an operator's credentials");
  return identity.name;
}

/** Replaces the credentials of `holder`. Throws an RbsError. */
export function writeCredentials(state: string, holder: Holder, credentials: Credentials): void {
  makeKeyDirectory(state);
  replaceSecret(authoritiesFile(state), credentials.authorities);
  replaceSecret(holderFile(state, holder), credentials.privateKey + credentials.certificate);
}

/** Makes the directory (0700). Throws an RbsError. */
export function makeKeyDirectory(state: string): void {
  const directory = keyDirectory(state);
  try {
    Deno.mkdirSync(directory, { recursive: true, mode: 0o700 });
    const owner = foreignOwner(Deno.statSync(directory).uid);
    if (owner) {
      throw new RbsError(
        `The keys in ${directory} are not this user's: the folder belongs to ${owner}; use another state directory.`,
        { culprit: "caller" },
      );
    }
    Deno.chmodSync(directory, 0o700);
  } catch (cause) {
    if (cause instanceof RbsError) throw cause;
    throw unwritable(directory, cause);
  }
}

/** Replaces a file (0600), completely or not at all. Throws an RbsError. */
export function replaceSecret(file: string, text: string): void {
  const fresh = `${file}.${randomToken()}`;
  try {
    Deno.writeTextFileSync(fresh, text, { mode: 0o600, createNew: true });
    Deno.renameSync(fresh, file);
  } catch (cause) {
    removeIfThere(fresh);
    throw unwritable(file, cause);
  }
}

/**
 * Creates a file (0600) unless it exists, completely or not at all.
 * @returns the file's content, which another process may have written
 */
export function createSecret(file: string, text: string): string {
  const fresh = `${file}.${randomToken()}`;
  try {
    Deno.writeTextFileSync(fresh, text, { mode: 0o600, createNew: true });
    // A link to a complete file appears completely or not at all, and never replaces another file.
    Deno.linkSync(fresh, file);
  } catch (cause) {
    if (!(cause instanceof Deno.errors.AlreadyExists)) throw unwritable(file, cause);
  } finally {
    removeIfThere(fresh);
  }
  return readSecret(file);
}

/** Reads a file that nobody else may own or read. Throws an RbsError with a remedy. */
export function readSecret(file: string): string {
  let text: string, mode: number, owner: string | undefined;
  try {
    text = Deno.readTextFileSync(file);
    const found = Deno.statSync(file);
    mode = found.mode ?? 0;
    owner = foreignOwner(found.uid);
  } catch (cause) {
    throw new RbsError(
      cause instanceof Deno.errors.NotFound
        ? `There is no key at ${file} yet: start the orchestrator on this machine (orchestrator install), run ` +
          `\`jbazel login\` for one elsewhere, or set RBS_STATE_DIR.`
        : `The key ${file} cannot be read (${sentence(cause)}): make it readable for this user.`,
      { cause, culprit: "caller" },
    );
  }
  if (owner) {
    throw new RbsError(
      `The key ${file} belongs to ${owner}, so this user must not use it: run this as that user, or name another key ` +
        `or state directory.`,
      { culprit: "caller" },
    );
  }
  if ((mode & 0o077) !== 0) {
    throw new RbsError(
      `The key ${file} can be read by other users (mode ${
        (mode & 0o777).toString(8)
      }), so it cannot be trusted any more: ` +
        `run \`chmod 600\` on it if nobody else has used this machine, or remove it and make a new one.`,
      { culprit: "caller" },
    );
  }
  return text;
}

function removeIfThere(file: string): void {
  try {
    Deno.removeSync(file);
  } catch (e) {
    if (!(e instanceof Deno.errors.NotFound)) throw e;
  }
}

function unwritable(file: string, cause: unknown): RbsError {
  return new RbsError(`The key ${file} cannot be written (${sentence(cause)}): check the state directory.`, { cause });
}
