/**
 * The invitation that `orchestrator enrol` prints and `jbazel login` takes: the orchestrator's address, the authority's
 * fingerprint, and a token for one certificate. One word: `rbs1.` and base64url of JSON. A secret.
 */
import { Buffer } from "node:buffer";

/** The content of an invitation. */
export interface Invitation {
  /** "host:port". */
  readonly address: string;
  /** SHA-256 of the authority's certificate (DER), as hex. */
  readonly fingerprint: string;
  readonly trustDomain: string;
  readonly token: string;
  /** The certificate will be an operator's. @default a user's */
  readonly operator?: boolean;
}

/** The fifth part of an operator's. A jbazel from before there were operators does not take it for a user's. */
const OPERATOR = "operator";

const PREFIX = "rbs1.";

/** Encodes an invitation as one word. */
export function writeInvitation({ address, fingerprint, trustDomain, token, operator }: Invitation): string {
  const parts = [address, fingerprint, trustDomain, token, ...operator ? [OPERATOR] : []];
  return PREFIX + Buffer.from(JSON.stringify(parts)).toString("base64url");
}

/** Decodes an invitation; undefined if `word` is malformed. */
export function readInvitation(word: string): Invitation | undefined {
  if (!/^rbs1\.[\w-]{1,4000}$/.test(word)) return undefined;
  let parts: unknown;
  try {
    parts = JSON.parse(Buffer.from(word.slice(PREFIX.length), "base64url").toString());
  } catch {
    return undefined;
  }
  if (!Array.isArray(parts) || parts.some((part) => typeof part !== "string")) return undefined;
  const [address = "", fingerprint = "", trustDomain = "", token = "", ...more] = parts as string[];
  const operator = more.length === 1 && more[0] === OPERATOR;
  if (more.length > 0 && !operator) return undefined;
  const isRight = /^(?:[^\s:/]+|\[[0-9a-fA-F:.]+\]):\d{1,5}$/.test(address) && /^[0-9a-f]{64}$/.test(fingerprint) &&
    /^[a-z0-9._-]{1,255}$/.test(trustDomain) && token !== "";
  return isRight ? { address, fingerprint, trustDomain, token, ...operator && { operator } } : undefined;
}
