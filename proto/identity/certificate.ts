/**
 * Who a certificate says its holder is.
 *
 * Read from its DER bytes, and not from what node:tls makes a text of ("URI:…, DNS:…"): in a text, a name that was
 * chosen well looks like two. Only that is read which is needed; whether the certificate is valid, and whose it is, TLS
 * has found out before.
 */
import { type Identity, parseSpiffeUri } from "./spiffe.ts";

/** ASN.1 tags, as they stand in DER. */
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
 * The identity of a certificate's holder: it must have exactly one URI, which must be that of an identity in the trust
 * domain. Undefined for all else, bytes that are no certificate included.
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

/** The URIs in a certificate's subjectAltName. Throws a RangeError if its bytes are no certificate. */
export function subjectUris(der: Uint8Array): string[] {
  const [certificate] = elements(der, 1);
  // Certificate: the part that is signed, algorithm, signature. Of the part: … and, last, the extensions.
  const signed = elements(expect(certificate, Tag.SEQUENCE))[0];
  const extensions = elements(expect(signed, Tag.SEQUENCE)).filter(({ tag }) => tag === Tag.EXTENSIONS);
  if (extensions.length === 0) return [];
  if (extensions.length > 1) throw new RangeError("a certificate with extensions twice");
  const [list] = elements(extensions[0].bytes, 1);
  const uris: string[] = [];
  let found = false;
  for (const extension of elements(expect(list, Tag.SEQUENCE))) {
    // Its OID, perhaps whether it is critical, its value.
    const parts = elements(expect(extension, Tag.SEQUENCE));
    if (parts.length < 2) throw new RangeError("an extension without a value");
    if (hex(expect(parts[0], Tag.OID)) !== SUBJECT_ALT_NAME) continue;
    if (found) throw new RangeError("a certificate with two subjectAltName");
    found = true;
    const [names] = elements(expect(parts[parts.length - 1], Tag.OCTET_STRING), 1);
    for (const { tag, bytes } of elements(expect(names, Tag.SEQUENCE))) {
      // Latin-1, so that no byte is lost: what is not ASCII is no URI of ours.
      if (tag === Tag.URI) uris.push(Array.from(bytes, (b) => String.fromCharCode(b)).join(""));
    }
  }
  return uris;
}

/** Whom a certificate names, and who says so: each name (RDNSequence) as the DER that stands there, to the last byte. */
export interface CertificateNames {
  readonly issuer: Uint8Array;
  readonly subject: Uint8Array;
}

/**
 * A certificate's two names. TLS compares them as bytes, and one name can be written in several ways (as UTF8String, as
 * PrintableString, …), so that whoever passes a name on must pass on these. Throws a RangeError if the bytes are no
 * certificate.
 */
export function certificateNames(der: Uint8Array): CertificateNames {
  const [certificate] = elements(der, 1);
  const parts = elements(expect(elements(expect(certificate, Tag.SEQUENCE))[0], Tag.SEQUENCE));
  // The version may be left out. Then: serial number, algorithm, issuer, validity, subject.
  const at = parts[0]?.tag === Tag.VERSION ? 3 : 2;
  expect(parts[at], Tag.SEQUENCE);
  expect(parts[at + 2], Tag.SEQUENCE);
  return { issuer: parts[at].whole, subject: parts[at + 2].whole };
}

interface Element {
  tag: number;
  /** With its tag and length. */
  whole: Uint8Array;
  /** Without. */
  bytes: Uint8Array;
}

/** DER's elements, one after the other, to the last byte; with `count`, so many. */
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
