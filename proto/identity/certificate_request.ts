/**
 * Makes a key and a certificate request (PKCS #10, RFC 2986). Written by hand, since the request contains only the key,
 * and a library for it would add a quarter of a second to an agent's start.
 */
import { Buffer } from "node:buffer";
import { generateKeyPairSync, sign } from "node:crypto";

/** ecdsa-with-SHA256, 1.2.840.10045.4.3.2, as an AlgorithmIdentifier. */
const ECDSA_WITH_SHA256 = Buffer.from("300a06082a8648ce3d040302", "hex");
/** Version 0; an empty name. */
const VERSION = Buffer.from("020100", "hex"), NO_NAME = Buffer.from("3000", "hex");
/** [0]: no attributes. */
const NO_ATTRIBUTES = Buffer.from("a000", "hex");

/** A new key and its certificate request. */
export interface NewKey {
  /** PEM (PKCS #8). A secret. */
  readonly privateKey: string;
  /** DER. */
  readonly request: Uint8Array;
}

/** Makes an ECDSA key on P-256. */
export function newKey(): NewKey {
  const keys = generateKeyPairSync("ec", { namedCurve: "prime256v1" });
  const publicKey = keys.publicKey.export({ type: "spki", format: "der" });
  const wanted = sequence(VERSION, NO_NAME, publicKey, NO_ATTRIBUTES);
  const signature = sign("sha256", wanted, keys.privateKey);
  return {
    privateKey: keys.privateKey.export({ type: "pkcs8", format: "pem" }) as string,
    request: sequence(wanted, ECDSA_WITH_SHA256, element(0x03, Buffer.of(0), signature)),
  };
}

function sequence(...parts: Uint8Array[]): Buffer {
  return element(0x30, ...parts);
}

/** One element of DER. */
function element(tag: number, ...parts: Uint8Array[]): Buffer {
  const content = Buffer.concat(parts);
  const { length } = content;
  const header = length < 0x80
    ? [tag, length]
    : length < 0x100
    ? [tag, 0x81, length]
    : [tag, 0x82, length >> 8, length];
  return Buffer.concat([Buffer.from(header), content]);
}
