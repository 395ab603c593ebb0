import "reflect-metadata"; // what @peculiar/x509 is built on, and leaves to us to load
import * as x509 from "@peculiar/x509"; // makes certificates and reads requests, which neither Deno nor node:crypto can
import { Buffer } from "node:buffer";
import { createPrivateKey, randomBytes, X509Certificate } from "node:crypto";
import { RbsError, sentence } from "../../proto/base/errors.ts";
import { certificateNames } from "../../proto/identity/certificate.ts";
import type { Credentials } from "../../proto/identity/credentials.ts";
import { type Identity, spiffeUri } from "../../proto/identity/spiffe.ts";
import { Code, RpcError } from "../../proto/transport/rpc/client.ts";
import { SERVER_NAMES } from "../../proto/transport/tls/channel_credentials.ts";

const HOUR_MS = 3600_000;
const DAY_MS = 24 * HOUR_MS;
/** How far another machine's clock may be behind ours. Milliseconds. */
const CLOCK_LEEWAY_MS = 5 * 60_000;
/** What a certificate of our own authority lives. Whoever can read its key can make a new one, so it need not be short. */
const AUTHORITY_MS = 3650 * DAY_MS;
/** The longest request that is looked at, in bytes; one with a P-256 key has about 200. */
const REQUEST_MAX = 4096;

/**
 * What certificates live, in milliseconds. An agent's: an hour, for it runs other people's code, and renews by itself.
 * A user's: 30 days, for it renews by itself as well, but a laptop may lie in a drawer over a holiday. The
 * orchestrator's: the same, since it can make itself a new one at any time. An operator's: a week, for it is about everybody's
 * sessions, and whoever can run `orchestrator enrol` has a new one in a minute.
 */
export const LIFETIME_MS: Readonly<Record<Identity["kind"], number>> = {
  agent: HOUR_MS,
  user: 30 * DAY_MS,
  orchestrator: 30 * DAY_MS,
  operator: 7 * DAY_MS,
};

const P256 = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };

/** A certificate authority as text. */
export interface AuthorityFiles {
  /** Its certificate first, then those above it, the root last. PEM. */
  readonly certificate: string;
  /** PEM (PKCS #8). A secret. */
  readonly privateKey: string;
}

/** Says by certificates who is who. */
export class CertificateAuthority {
  readonly #issuer: x509.X509Certificate;
  /** The issuer's name as its own certificate writes it: whoever checks a certificate of ours compares the bytes. */
  readonly #name: x509.Name;
  /** What the issuer calls its key, if it says so; OpenSSL wants to find that in what the key has signed. */
  readonly #keyId: x509.AuthorityKeyIdentifierExtension;
  readonly #key: CryptoKey;
  /** Those between a certificate of ours and the root, and the root: its SHA-256 is what a new user knows us by. */
  readonly #chain: string;
  /** What must be trusted for its certificates to count: the root, as PEM. */
  readonly authorities: string;
  readonly trustDomain: string;

  private constructor(
    chain: readonly x509.X509Certificate[],
    keyId: x509.AuthorityKeyIdentifierExtension,
    key: CryptoKey,
    trustDomain: string,
  ) {
    this.#issuer = chain[0];
    this.#name = nameOf(chain[0]);
    this.#keyId = keyId;
    this.#key = key;
    this.#chain = chain.map((certificate) => pem(certificate)).join("");
    this.authorities = pem(chain[chain.length - 1]);
    this.trustDomain = trustDomain;
  }

  /** Makes a new authority. */
  static async create(): Promise<AuthorityFiles> {
    const keys = await newKeys();
    const certificate = await x509.X509CertificateGenerator.createSelfSigned({
      serialNumber: serialNumber(),
      name: "CN=RBS certificate authority",
      notBefore: new Date(Date.now() - CLOCK_LEEWAY_MS),
      notAfter: new Date(Date.now() + AUTHORITY_MS),
      signingAlgorithm: P256,
      keys,
      extensions: [
        new x509.BasicConstraintsExtension(true, 0, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
        await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
      ],
    });
    return { certificate: pem(certificate), privateKey: await pkcs8(keys.privateKey) };
  }

  /**
   * An authority from its files. Throws an RbsError if they are none, do not belong together or have expired.
   *
   * @param from What the message calls them.
   */
  static async load(
    { certificate, privateKey }: AuthorityFiles,
    trustDomain: string,
    from: string,
  ): Promise<CertificateAuthority> {
    const wrong = (why: string, cause?: unknown) =>
      new RbsError(`${from} cannot be used as certificate authority: ${why}.`, { cause, culprit: "caller" });
    let chain: x509.X509Certificate[];
    let key: CryptoKey;
    try {
      chain = x509.PemConverter.decode(certificate).map((der) => new x509.X509Certificate(der));
      key = await importKey(privateKey);
    } catch (cause) {
      throw wrong(`they must be PEM, a certificate and its key (${sentence(cause)})`, cause);
    }
    if (chain.length === 0) throw wrong("there is no certificate in them");
    const node = new X509Certificate(chain[0].toString("pem"));
    if (!node.checkPrivateKey(createPrivateKey(privateKey))) throw wrong("the key is not the certificate's");
    const constraints = chain[0].getExtension(x509.BasicConstraintsExtension);
    if (!constraints?.ca) throw wrong("its certificate may not sign others (basicConstraints)");
    const names = chain.map(({ rawData }) => certificateNames(new Uint8Array(rawData)));
    for (const [at, { issuer }] of names.entries()) {
      // The root's issuer is the root itself.
      const above = Math.min(at + 1, chain.length - 1);
      const signer = new X509Certificate(chain[above].toString("pem")).publicKey;
      const signed = new X509Certificate(chain[at].toString("pem")).verify(signer);
      if (signed && Buffer.compare(issuer, names[above].subject) === 0) continue;
      throw wrong(
        above === at
          ? "the last certificate must be the root, which signs itself"
          : `${chain[at].subject} was not issued by the next certificate, ${chain[above].subject}`,
      );
    }
    if (Buffer.compare(names[0].subject, new Uint8Array(nameOf(chain[0]).toArrayBuffer())) !== 0) {
      throw wrong("its name is not written as X.509 wants it (DER), so that no certificate could repeat it");
    }
    const now = Date.now();
    for (const { subject, notAfter, notBefore } of chain) {
      if (notAfter.getTime() <= now) throw wrong(`${subject} expired at ${notAfter.toISOString()}`);
      if (notBefore.getTime() > now) throw wrong(`${subject} is not valid before ${notBefore.toISOString()}`);
    }
    const ownKeyId = chain[0].getExtension(x509.SubjectKeyIdentifierExtension)?.keyId;
    const keyId = ownKeyId
      ? new x509.AuthorityKeyIdentifierExtension(ownKeyId)
      : await x509.AuthorityKeyIdentifierExtension.create(chain[0].publicKey);
    return new CertificateAuthority(chain, keyId, key, trustDomain);
  }

  /**
   * A certificate for `identity`, with those up to the root: PEM.
   *
   * @param request What the holder sent (PKCS #10, DER): it must be signed with the key that is to be certified. Nothing
   *   but the key is taken from it. Throws an RpcError with INVALID_ARGUMENT.
   */
  async certify(request: Uint8Array, identity: Identity, lifetimeMs = LIFETIME_MS[identity.kind]): Promise<string> {
    return await this.#issue(await requestedKey(request), identity, lifetimeMs);
  }

  /** Credentials with a key that is made here: for whoever shares this machine with the authority. */
  async newCredentials(identity: Identity, lifetimeMs = LIFETIME_MS[identity.kind]): Promise<Credentials> {
    const keys = await newKeys();
    return {
      certificate: await this.#issue(keys.publicKey, identity, lifetimeMs),
      privateKey: await pkcs8(keys.privateKey),
      authorities: this.authorities,
      trustDomain: this.trustDomain,
    };
  }

  async #issue(publicKey: CryptoKey, identity: Identity, lifetimeMs: number): Promise<string> {
    const now = Date.now();
    const names: x509.JsonGeneralName[] = [{ type: "url", value: spiffeUri(this.trustDomain, identity) }];
    const usages = [x509.ExtendedKeyUsage.clientAuth];
    if (identity.kind === "agent" || identity.kind === "orchestrator") {
      // Addresses need not stand in it: clients ask for this name, whatever they connect to.
      names.push({ type: "dns", value: SERVER_NAMES[identity.kind] });
      usages.push(x509.ExtendedKeyUsage.serverAuth);
    }
    const certificate = await x509.X509CertificateGenerator.create({
      serialNumber: serialNumber(),
      // Who it is stands in the SPIFFE URI, and only there.
      subject: "O=RBS",
      issuer: this.#name,
      notBefore: new Date(now - CLOCK_LEEWAY_MS),
      notAfter: new Date(Math.min(now + lifetimeMs, this.#issuer.notAfter.getTime())),
      signingKey: this.#key,
      signingAlgorithm: { ...this.#key.algorithm, hash: "SHA-256" } as never,
      publicKey,
      extensions: [
        new x509.BasicConstraintsExtension(false, undefined, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
        new x509.ExtendedKeyUsageExtension(usages),
        new x509.SubjectAlternativeNameExtension(names),
        this.#keyId,
      ],
    });
    return pem(certificate) + this.#chain;
  }
}

/** The subject of a certificate, to be repeated. As a text it would be written anew, in another way. */
function nameOf(certificate: x509.X509Certificate): x509.Name {
  return new x509.Name(certificateNames(new Uint8Array(certificate.rawData)).subject as Uint8Array<ArrayBuffer>);
}

/** The key of a request whose sender has proved to hold it. Throws an RpcError. */
async function requestedKey(der: Uint8Array): Promise<CryptoKey> {
  const refuse = (why: string, cause?: unknown) =>
    new RpcError(Code.INVALID_ARGUMENT, `The certificate request cannot be granted: ${why}.`, cause);
  if (der.length > REQUEST_MAX) throw refuse(`it has ${der.length} bytes, and at most ${REQUEST_MAX} are allowed`);
  let key: CryptoKey;
  let signed: boolean;
  try {
    const request = new x509.Pkcs10CertificateRequest(der as Uint8Array<ArrayBuffer>);
    const { name, namedCurve } = request.publicKey.algorithm as EcKeyAlgorithm;
    if (name !== "ECDSA" || namedCurve !== "P-256") throw new RangeError("another kind of key");
    key = await request.publicKey.export(P256, ["verify"]);
    signed = await request.verify();
  } catch (cause) {
    throw refuse("it is not a PKCS #10 request with an ECDSA key on P-256", cause);
  }
  if (!signed) throw refuse("it is not signed with the key that it wants certified");
  return key;
}

async function newKeys(): Promise<CryptoKeyPair> {
  return await crypto.subtle.generateKey(P256, true, ["sign", "verify"]);
}

/** 128 random bits, without a sign. */
function serialNumber(): string {
  const bytes = randomBytes(17);
  // A first byte that is neither zero (DER has none) nor negative, before the random ones.
  bytes[0] = 1;
  return bytes.toString("hex");
}

function pem(certificate: x509.X509Certificate): string {
  return certificate.toString("pem").trimEnd() + "\n";
}

async function pkcs8(key: CryptoKey): Promise<string> {
  return x509.PemConverter.encode(await crypto.subtle.exportKey("pkcs8", key), "PRIVATE KEY") + "\n";
}

/** The key of an authority: ECDSA on P-256 or P-384, or RSA. */
async function importKey(text: string): Promise<CryptoKey> {
  const key = createPrivateKey(text);
  const der = key.export({ format: "der", type: "pkcs8" }) as Uint8Array<ArrayBuffer>;
  if (key.asymmetricKeyType === "rsa") {
    return await crypto.subtle.importKey("pkcs8", der, { name: "RSASSA-PKCS1-v1_5", hash: "SHA-256" }, false, ["sign"]);
  }
  const curves: Record<string, string> = { prime256v1: "P-256", secp384r1: "P-384" };
  const namedCurve = curves[key.asymmetricKeyDetails?.namedCurve ?? ""];
  if (key.asymmetricKeyType !== "ec" || !namedCurve) {
    throw new RangeError("its key must be RSA, or ECDSA on P-256 or P-384");
  }
  return await crypto.subtle.importKey("pkcs8", der, { name: "ECDSA", namedCurve }, false, ["sign"]);
}
