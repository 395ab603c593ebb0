/**
 * Reads a certificate holder's identity.
 *
 * Reads the DER bytes, and not the text that node:tls makes of them ("URI:…, DNS:…"): in the text, a crafted name can
 * look like two. Only the necessary parts are read; TLS has already verified that the certificate is valid and who its
 * holder is.
 */
import { type Identity, parseSpiffeUri } from "./spiffe.ts";

/** ASN.1 tags in DER. */
const Tag = {
  OCTET_STRING: 0x04,
  OID: 0x06,
  SEQUENCE: 0x30,
  VERSION: 0xa0,
  EXTENSIONS: 0xa3,
  /** A GeneralName's uniformResourceIdentifier. */
  URI: 0x86,
} as const;

/** id-ce-subjectAltName, 2.5.29.17. */
const SUBJECT_ALT_NAME = "551d11";

/**
 * The identity of a certificate's holder: the certificate must have exactly one URI, which must be an identity in the
 * trust domain. Undefined for everything else, including malformed certificates.
 *
 * @param der The certificate, X.509 in DER.
 */
export function certificateIdentity(der: Uint8Array, trustDomain: string): Identity | undefined {
  try {
    const uris = subjectUris(der);
    return uris.length === 1 ? parseSpiffeUri(trustDomain, uris[0]) : undefined;
  } catch (e) {
    if (e instanceof RangeError) return undefined;
    throw e;
  }
}

/** The URIs in a certificate's subjectAltName. Throws a RangeError if the certificate is malformed. */
export function subjectUris(der: Uint8Array): string[] {
  const [certificate] = elements(der, 1);
  // Certificate: signed part, algorithm, signature. The signed part ends with the extensions.
  const signed = elements(expect(certificate, Tag.SEQUENCE))[0];
  const extensions = elements(expect(signed, Tag.SEQUENCE)).filter(({ tag }) => tag === Tag.EXTENSIONS);
  if (extensions.length === 0) return [];
  if (extensions.length > 1) throw new RangeError("a certificate with extensions twice");
  const [list] = elements(extensions[0].bytes, 1);
  const uris: string[] = [];
  let found = false;
  for (const extension of elements(expect(list, Tag.SEQUENCE))) {
    // OID, optionally the critical flag, value.
    const parts = elements(expect(extension, Tag.SEQUENCE));
    if (parts.length < 2) throw new RangeError("an extension without a value");
    if (hex(expect(parts[0], Tag.OID)) !== SUBJECT_ALT_NAME) continue;
    if (found) throw new RangeError("a certificate with two subjectAltName");
    found = true;
    const [names] = elements(expect(parts[parts.length - 1], Tag.OCTET_STRING), 1);
    for (const { tag, bytes } of elements(expect(names, Tag.SEQUENCE))) {
      // Latin-1 loses no byte; a URI that is not ASCII is not one of RBS's.
      if (tag === Tag.URI) uris.push(Array.from(bytes, (b) => String.fromCharCode(b)).join(""));
    }
  }
  return uris;
}

/** A certificate's subject and issuer: each name (RDNSequence) as its exact DER bytes. */
export interface CertificateNames {
  readonly issuer: Uint8Array;
  readonly subject: Uint8Array;
}

/**
 * A certificate's two names. TLS compares them as bytes, and a name can be encoded in several ways (as UTF8String, as
 * PrintableString, …), so these exact bytes must be passed on. Throws a RangeError if the certificate is malformed.
 */
export function certificateNames(der: Uint8Array): CertificateNames {
  const [certificate] = elements(der, 1);
  const parts = elements(expect(elements(expect(certificate, Tag.SEQUENCE))[0], Tag.SEQUENCE));
  // The version is optional. Then: serial number, algorithm, issuer, validity, subject.
  const at = parts[0]?.tag === Tag.VERSION ? 3 : 2;
  expect(parts[at], Tag.SEQUENCE);
  expect(parts[at + 2], Tag.SEQUENCE);
  return { issuer: parts[at].whole, subject: parts[at + 2].whole };
}

interface Element {
  tag: number;
  /** Includes tag and length. */
  whole: Uint8Array;
  /** Excludes them. */
  bytes: Uint8Array;
}

/** Splits DER into consecutive elements; with `count`, exactly that many. */
function elements(der: Uint8Array, count?: number): Element[] {
  const found: Element[] = [];
  for (let at = 0; at < der.length;) {
    if (at + 2 > der.length) throw new RangeError("DER that is cut short");
    const from = at;
    const tag = der[at++];
    if ((tag & 0x1f) === 0x1f) throw new RangeError("a tag that no certificate has");
    let length = der[at++];
    if (length & 0x80) {
      const bytes = length & 0x7f;
      if (bytes < 1 || bytes > 3 || at + bytes > der.length) throw new RangeError("a length that no certificate has");
      length = 0;
      for (let i = 0; i < bytes; i++) length = length << 8 | der[at++];
    }
    if (at + length > der.length) throw new RangeError("DER that is cut short");
    const bytes = der.subarray(at, at += length);
    found.push({ tag, whole: der.subarray(from, at), bytes });
  }
  if (count !== undefined && found.length !== count) throw new RangeError(`${found.length} elements, not ${count}`);
  return found;
}

function expect(element: Element | undefined, tag: number): Uint8Array {
  if (element?.tag !== tag) throw new RangeError(`tag ${element?.tag}, not ${tag}`);
  return element.bytes;
}

function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
}
