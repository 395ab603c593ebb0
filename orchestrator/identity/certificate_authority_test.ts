import "reflect-metadata"; // what @peculiar/x509 is built on, and leaves to us to load
import * as x509 from "@peculiar/x509";
import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { RbsError } from "../../proto/base/errors.ts";
import { certificateIdentity, certificateNames } from "../../proto/identity/certificate.ts";
import type { Identity } from "../../proto/identity/spiffe.ts";
import { Identity as IdentityService } from "../../proto/contract/gen/rbs/v1/identity_pb.ts";
import { Code, createRpcClient, RpcError } from "../../proto/transport/rpc/client.ts";
import { RpcServer } from "../../proto/transport/rpc/server.ts";
import { TestAuthority } from "../../proto/testing/certificates.ts";
import { opensslAuthority } from "../testing/openssl_authority.ts";
import { type AuthorityFiles, CertificateAuthority, LIFETIME_MS } from "./certificate_authority.ts";

const P256 = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
const DOMAIN = "rbs.internal";
const ANN: Identity = { kind: "user", userId: "ann" };
const files = await CertificateAuthority.create();
const authority = await CertificateAuthority.load(files, DOMAIN, "here");

/** A request that asks for everything: a subject, names, the right to sign others. */
async function greedyRequest(keys?: CryptoKeyPair, signingKey?: CryptoKey): Promise<Uint8Array> {
  keys ??= await crypto.subtle.generateKey(P256, true, ["sign", "verify"]);
  const request = await x509.Pkcs10CertificateRequestGenerator.create({
    name: "CN=orchestrator",
    keys: { publicKey: keys.publicKey, privateKey: signingKey ?? keys.privateKey },
    signingAlgorithm: P256,
    extensions: [
      new x509.SubjectAlternativeNameExtension([
        { type: "url", value: `spiffe://${DOMAIN}/orchestrator` },
        { type: "dns", value: "orchestrator.rbs.internal" },
      ]),
      new x509.BasicConstraintsExtension(true),
    ],
  });
  return new Uint8Array(request.rawData);
}

Deno.test("a certificate says who its holder is, for how long and for what, and nothing that its request asked for", async () => {
  const serials = new Set<string>();
  const cases: [Identity, string, string[]][] = [
    [ANN, `URI:spiffe://${DOMAIN}/user/ann`, ["clientAuth"]],
    [
      { kind: "agent", agentId: "a".repeat(32) },
      `URI:spiffe://${DOMAIN}/session/${"a".repeat(32)}/agent, DNS:agent.rbs.internal`,
      ["clientAuth", "serverAuth"],
    ],
    [{ kind: "operator", name: "ann" }, `URI:spiffe://${DOMAIN}/operator/ann`, ["clientAuth"]],
    [{ kind: "orchestrator" }, `URI:spiffe://${DOMAIN}/orchestrator, DNS:orchestrator.rbs.internal`, [
      "clientAuth",
      "serverAuth",
    ]],
  ];
  for (const [identity, names, usages] of cases) {
    const now = Date.now();
    const certificate = new X509Certificate(await authority.certify(await greedyRequest(), identity));
    assert.deepEqual(certificateIdentity(certificate.raw, DOMAIN), identity);
    assert.equal(certificate.subjectAltName, names);
    assert.equal(certificate.subject, "O=RBS");
    assert.equal(certificate.ca, false);
    assert(certificate.verify(new X509Certificate(authority.authorities).publicKey));
    const [from, to] = [certificate.validFromDate.getTime() - now, certificate.validToDate.getTime() - now];
    assert(Math.abs(from + 5 * 60_000) < 5_000, String(from));
    assert(Math.abs(to - LIFETIME_MS[identity.kind]) < 5_000, String(to));
    const read = new x509.X509Certificate(certificate.raw as Uint8Array<ArrayBuffer>);
    assert.deepEqual(read.getExtension(x509.KeyUsagesExtension)?.usages, x509.KeyUsageFlags.digitalSignature);
    const oids = { clientAuth: x509.ExtendedKeyUsage.clientAuth, serverAuth: x509.ExtendedKeyUsage.serverAuth };
    assert.deepEqual(
      [...read.getExtension(x509.ExtendedKeyUsageExtension)!.usages],
      usages.map((u) => oids[u as "clientAuth"]),
    );
    assert.match(certificate.serialNumber, /^0?1[0-9A-F]{32}$/i);
    serials.add(certificate.serialNumber);
  }
  assert.equal(serials.size, cases.length);
  assert.deepEqual(LIFETIME_MS.agent, 3600_000);
});

Deno.test("a request is granted only to who holds its key, and only for ECDSA on P-256", async () => {
  const refused = (request: Uint8Array, why: RegExp) =>
    assert.rejects(authority.certify(request, ANN), (e) => {
      assert(e instanceof RpcError, String(e));
      assert.equal(e.code, Code.INVALID_ARGUMENT);
      assert.match(e.message, why);
      return true;
    });
  const [mine, another] = [1, 2].map(() => crypto.subtle.generateKey(P256, true, ["sign", "verify"]));
  await refused(await greedyRequest(await mine, (await another).privateKey), /not signed with the key/);
  const changed = await greedyRequest();
  changed[changed.length - 1] ^= 1;
  await refused(changed, /not signed with the key|not a PKCS #10/);
  await refused(new Uint8Array(0), /not a PKCS #10 request/);
  await refused(new TextEncoder().encode("garbage"), /not a PKCS #10 request/);
  await refused(new Uint8Array(5_000), /it has 5000 bytes/);
  const p384 = await crypto.subtle.generateKey({ name: "ECDSA", namedCurve: "P-384" }, true, ["sign", "verify"]);
  await refused(await greedyRequest(p384), /ECDSA key on P-256/);
});

Deno.test("an authority from outside, between it and its root others, certifies with all that is needed to check it", async () => {
  const keys = await crypto.subtle.generateKey({ name: "ECDSA", namedCurve: "P-384" }, true, ["sign", "verify"]);
  const root = new x509.X509Certificate(files.certificate);
  const rootKey = await crypto.subtle.importKey("pkcs8", x509.PemConverter.decode(files.privateKey)[0], P256, false, [
    "sign",
  ]);
  const make = (ca: boolean, notAfter = Date.now() + 7_200_000) =>
    x509.X509CertificateGenerator.create({
      subject: "CN=between",
      issuer: root.subject,
      notBefore: new Date(Date.now() - 60_000),
      notAfter: new Date(notAfter),
      publicKey: keys.publicKey,
      signingKey: rootKey,
      signingAlgorithm: P256,
      extensions: [new x509.BasicConstraintsExtension(ca, undefined, true)],
    });
  const privateKey = x509.PemConverter.encode(await crypto.subtle.exportKey("pkcs8", keys.privateKey), "PRIVATE KEY");
  const outside = async (ca = true, more = files.certificate, notAfter?: number): Promise<AuthorityFiles> => ({
    certificate: `${(await make(ca, notAfter)).toString("pem")}\n${more}`,
    privateKey,
  });
  const between = await CertificateAuthority.load(await outside(), DOMAIN, "outside");
  assert.equal(between.authorities, files.certificate);
  const chain = x509.PemConverter.decode(await between.certify(await greedyRequest(), ANN)).map((d) =>
    new X509Certificate(new Uint8Array(d))
  );
  assert.equal(chain.length, 3);
  assert(chain[0].verify(chain[1].publicKey) && chain[1].verify(chain[2].publicKey));
  // Never longer than its issuer's own.
  assert(chain[0].validToDate <= chain[1].validToDate);

  const refused = async (given: AuthorityFiles, why: RegExp) =>
    await assert.rejects(CertificateAuthority.load(given, DOMAIN, "outside"), (e) => {
      assert(e instanceof RbsError, String(e));
      assert.match(e.message, /^outside cannot be used as certificate authority: /);
      assert.match(e.message, why);
      assert(!e.message.includes("\n") && !e.message.includes("PRIVATE KEY"));
      return true;
    });
  await refused(await outside(false), /may not sign others/);
  await refused(await outside(true, ""), /the last certificate must be the root/);
  await refused(await outside(true, files.certificate, Date.now() - 1_000), /CN=between expired at/);
  await refused({ ...await outside(), privateKey: files.privateKey }, /the key is not the certificate's/);
  await refused({ certificate: "", privateKey }, /no certificate|must be PEM/);
  await refused({ certificate: files.certificate, privateKey: "nothing" }, /must be PEM/);
  const notAbove = {
    ...await outside(),
    certificate: (await make(true)).toString("pem") + (await CertificateAuthority.create()).certificate,
  };
  await refused(notAbove, /CN=between was not issued by the next certificate, CN=RBS/);
  // The tests' own authority can be loaded as well: nothing depends on who made it.
  assert.match((await TestAuthority.make()).certificate, /BEGIN CERTIFICATE/);
});

/** Distinguished names as `openssl req -subj` takes them, by what is special about them, and which strings hold them. */
const NAMES: [string, string, "default" | "utf8only" | "pkix" | "bmp" | "teletex"][] = [
  ["openssl's defaults", "/CN=RBS", "default"],
  ["UTF8String", "/C=DE/O=J\u00fcrg/CN=RBS", "utf8only"],
  ["PrintableString", "/C=DE/O=Example/CN=RBS", "pkix"],
  ["BMPString", "/O=J\u00fcrg/CN=RBS", "bmp"],
  ["TeletexString", "/O=J\u00fcrg/CN=RBS", "teletex"],
  [
    "several attributes in one part, quotes, spaces and an IA5String",
    '/C=DE/O=Example, "Inc"/OU=a+OU=b+CN=RBS  X /emailAddress=a@b.c',
    "default",
  ],
];

for (const [what, subject, strings] of NAMES) {
  Deno.test(`an authority that openssl made is used by its own name, as its bytes are: ${what}`, async () => {
    const made = await opensslAuthority(subject, strings);
    const loaded = await CertificateAuthority.load(made, DOMAIN, "openssl's");
    const orchestrator = await loaded.newCredentials({ kind: "orchestrator" });
    const { raw } = new X509Certificate(orchestrator.certificate);
    const { subject: own } = certificateNames(new X509Certificate(made.certificate).raw);
    assert.deepEqual(certificateNames(raw).issuer, own);
    // Both ends of TLS believe what it signs.
    const seen: unknown[] = [];
    await using server = new RpcServer({
      address: "127.0.0.1:0",
      credentials: orchestrator,
      authorize: (_, { identity }) => void seen.push(identity),
    }).add(IdentityService, {
      issueCertificate: () => Promise.resolve({ authorities: "it works" }),
      renewCertificate: () => Promise.resolve({}),
    });
    using client = createRpcClient(IdentityService, `127.0.0.1:${await server.listen()}`, {
      tls: { credentials: await loaded.newCredentials(ANN), expected: { kind: "orchestrator" } },
    });
    assert.equal((await client.issueCertificate({})).authorities, "it works");
    assert.deepEqual(seen, [ANN]);
  });
}
