/** Certificates for tests: an authority that certifies whatever a test wants, right or wrong. */
import "reflect-metadata"; // what @peculiar/x509 is built on, and leaves to us to load
import * as x509 from "@peculiar/x509"; // makes certificates, which neither Deno nor node:crypto can
import type { Credentials } from "../identity/credentials.ts";
import { type Identity, spiffeUri } from "../identity/spiffe.ts";

const ALGORITHM = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
/** Ten minutes: nobody's clock is that far off. Milliseconds. */
const LEEWAY_MS = 600_000;

const USAGES = { server: x509.ExtendedKeyUsage.serverAuth, client: x509.ExtendedKeyUsage.clientAuth };

/** The trust domain of {@link TestAuthority}. */
export const TRUST_DOMAIN = "rbs.test";
/** The DNS name in the certificate of each agent, whatever its address. */
export const AGENT_NAME = "agent.rbs.internal";

/** What a certificate of a test says. */
export interface CertificateOptions {
  /** SAN URIs. @default none */
  uris?: readonly string[];
  /** SAN DNS names. @default AGENT_NAME */
  names?: readonly string[];
  /** @default ten minutes ago */
  notBefore?: Date;
  /** @default in an hour */
  notAfter?: Date;
  /** @default both, as each program is a client of one and the server of another */
  usages?: readonly (keyof typeof USAGES)[];
}

/** A certificate authority. */
export class TestAuthority {
  readonly #keys: CryptoKeyPair;
  readonly #root: x509.X509Certificate;

  private constructor(keys: CryptoKeyPair, root: x509.X509Certificate) {
    this.#keys = keys;
    this.#root = root;
  }

  /** An authority with a key of its own. Two of the same name are still two. @param lifetimeMs From now. */
  static async make(name = "RBS test authority", lifetimeMs = 365 * 24 * 3600_000): Promise<TestAuthority> {
    const keys = await newKeys();
    const root = await x509.X509CertificateGenerator.createSelfSigned({
      name: `CN=${name}`,
      notBefore: new Date(Date.now() - LEEWAY_MS),
      notAfter: new Date(Date.now() + lifetimeMs),
      signingAlgorithm: ALGORITHM,
      keys,
      extensions: [
        new x509.BasicConstraintsExtension(true, 0, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
        await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
      ],
    });
    return new TestAuthority(keys, root);
  }

  /** Its own certificate, as PEM. */
  get certificate(): string {
    return this.#root.toString("pem");
  }

  /** Credentials with a new key. They trust this authority. */
  async certify(options: CertificateOptions): Promise<Credentials> {
    const keys = await newKeys();
    return {
      certificate: await this.#issue(keys.publicKey, options),
      privateKey: x509.PemConverter.encode(await crypto.subtle.exportKey("pkcs8", keys.privateKey), "PRIVATE KEY"),
      authorities: this.certificate,
      trustDomain: TRUST_DOMAIN,
    };
  }

  /** A certificate for the key of a request (PKCS #10, DER), as PEM. */
  async certifyRequest(request: Uint8Array, identity: Identity, options: CertificateOptions = {}): Promise<string> {
    const { publicKey } = new x509.Pkcs10CertificateRequest(request as Uint8Array<ArrayBuffer>);
    const key = await publicKey.export(ALGORITHM, ["verify"]);
    return await this.#issue(key, { uris: [spiffeUri(TRUST_DOMAIN, identity)], ...options });
  }

  async #issue(publicKey: CryptoKey, options: CertificateOptions): Promise<string> {
    const { uris = [], names = [AGENT_NAME] } = options;
    const certificate = await x509.X509CertificateGenerator.create({
      subject: "CN=RBS test",
      issuer: this.#root.subject,
      notBefore: options.notBefore ?? new Date(Date.now() - LEEWAY_MS),
      notAfter: options.notAfter ?? new Date(Date.now() + 3600_000),
      signingKey: this.#keys.privateKey,
      signingAlgorithm: ALGORITHM,
      publicKey,
      extensions: [
        new x509.BasicConstraintsExtension(false, undefined, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
        new x509.ExtendedKeyUsageExtension(
          (options.usages ?? ["server", "client"] as const).map((usage) => USAGES[usage]),
        ),
        await x509.AuthorityKeyIdentifierExtension.create(this.#keys.publicKey),
        ...uris.length + names.length > 0
          ? [
            new x509.SubjectAlternativeNameExtension([
              ...uris.map((value) => ({ type: "url" as const, value })),
              ...names.map((value) => ({ type: "dns" as const, value })),
            ]),
          ]
          : [],
      ],
    });
    return certificate.toString("pem");
  }

  /** Credentials of a holder in {@link TRUST_DOMAIN}. */
  identify(identity: Identity, options: CertificateOptions = {}): Promise<Credentials> {
    return this.certify({ uris: [spiffeUri(TRUST_DOMAIN, identity)], ...options });
  }
}

async function newKeys(): Promise<CryptoKeyPair> {
  return await crypto.subtle.generateKey(ALGORITHM, true, ["sign", "verify"]);
}
