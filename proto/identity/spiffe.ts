/**
 * Identities as SPIFFE URIs: the only URI in the subjectAltName of an RBS certificate. Source of the form:
 * https://github.com/spiffe/spiffe, standards/SPIFFE-ID.md.
 */

/** The holder of a certificate. */
export type Identity =
  /** A developer. */
  | { readonly kind: "user"; readonly userId: string }
  /**
   * The agent of one session. `agentId` is the agent's own id, 32 lowercase hex digits, in the URI's session segment.
   */
  | { readonly kind: "agent"; readonly agentId: string }
  | { readonly kind: "orchestrator" }
  /** A person who may see and end the sessions of all users. It is nobody's user: an operator who builds has two certificates. */
  | { readonly kind: "operator"; readonly name: string };

/** Maximum length of a SPIFFE ID, in bytes. */
const SPIFFE_ID_MAX = 2048;
/** The form of a trust domain: lower-case letters, digits, dots, dashes and underscores. */
const TRUST_DOMAIN = /^[a-z0-9._-]{1,255}$/;

/** The URI of `identity` in `trustDomain`. A name may be any text: it is escaped. */
export function spiffeUri(trustDomain: string, identity: Identity): string {
  if (!TRUST_DOMAIN.test(trustDomain)) throw new TypeError(`${JSON.stringify(trustDomain)} is no trust domain.`);
  return `spiffe://${trustDomain}${path(identity)}`;
}

function path(identity: Identity): string {
  switch (identity.kind) {
    case "user":
      return `/user/${escaped(identity.userId)}`;
    case "agent":
      return `/session/${identity.agentId}/agent`;
    case "orchestrator":
      return "/orchestrator";
    case "operator":
      return `/operator/${escaped(identity.name)}`;
  }
}

/** For messages, and to count by: within a sentence. */
export function identityName(identity: Identity): string {
  switch (identity.kind) {
    case "user":
      return `user ${JSON.stringify(identity.userId)}`;
    case "agent":
      return `the agent of session ${identity.agentId}`;
    case "orchestrator":
      return "the orchestrator";
    case "operator":
      return `operator ${JSON.stringify(identity.name)}`;
  }
}

/**
 * The identity for a URI of `trustDomain`; undefined if it is not one of RBS's. Each identity has exactly one URI:
 * other spellings (other case, an unnecessary escape) are refused.
 */
export function parseSpiffeUri(trustDomain: string, uri: string): Identity | undefined {
  if (uri.length > SPIFFE_ID_MAX) return undefined;
  const prefix = `spiffe://${trustDomain}/`;
  if (!uri.startsWith(prefix)) return undefined;
  const parts = uri.slice(prefix.length).split("/");
  const identity = identityOf(parts);
  return identity && spiffeUri(trustDomain, identity) === uri ? identity : undefined;
}

function identityOf(parts: string[]): Identity | undefined {
  if (parts.length === 1 && parts[0] === "orchestrator") return { kind: "orchestrator" };
  if (parts.length === 2 && parts[0] === "user" && parts[1] !== "") {
    const userId = unescaped(parts[1]);
    return userId === undefined ? undefined : { kind: "user", userId };
  }
  if (parts.length === 2 && parts[0] === "operator" && parts[1] !== "") {
    const name = unescaped(parts[1]);
    return name === undefined ? undefined : { kind: "operator", name };
  }
  if (parts.length === 3 && parts[0] === "session" && parts[2] === "agent" && /^[0-9a-f]{32}$/.test(parts[1])) {
    return { kind: "agent", agentId: parts[1] };
  }
  return undefined;
}

/**
 * A path segment of a SPIFFE ID contains only letters, digits, dots, dashes and underscores, without percent-encoding.
 * So every other byte of the UTF-8, and the underscore itself, becomes `_` and two hex digits.
 */
function escaped(text: string): string {
  const segment = Array.from(new TextEncoder().encode(text), (byte) => {
    const character = String.fromCharCode(byte);
    return /[A-Za-z0-9.-]/.test(character) ? character : `_${byte.toString(16).padStart(2, "0")}`;
  }).join("");
  // Readers of paths give these two a special meaning.
  return segment === "." || segment === ".." ? segment.replaceAll(".", "_2e") : segment;
}

function unescaped(segment: string): string | undefined {
  if (!/^(?:[A-Za-z0-9.-]|_[0-9a-f]{2})+$/.test(segment)) return undefined;
  const bytes = Array.from(
    segment.matchAll(/_([0-9a-f]{2})|(.)/g),
    ([, hex, character]) => hex === undefined ? character.charCodeAt(0) : parseInt(hex, 16),
  );
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(bytes));
  } catch {
    return undefined;
  }
}
