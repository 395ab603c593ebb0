import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { TestAuthority, TRUST_DOMAIN } from "../testing/certificates.ts";
import { random } from "../testing/pipe.ts";
import { certificateIdentity, subjectUris } from "./certificate.ts";
import type { Identity } from "./spiffe.ts";

const authority = await TestAuthority.make();
const der = (pem: string) => new X509Certificate(pem).raw;

Deno.test("certificate: it says who its holder is", async () => {
  const identities: Identity[] = [
    { kind: "orchestrator" },
    { kind: "user", userId: "jürg" },
    { kind: "user", userId: "x".repeat(300) },
    { kind: "agent", agentId: "0".repeat(32) },
  ];
  for (const identity of identities) {
    const { certificate } = await authority.identify(identity);
    assert.deepEqual(certificateIdentity(der(certificate), TRUST_DOMAIN), identity);
    assert.equal(certificateIdentity(der(certificate), "another.test"), undefined);
  }
});

Deno.test("certificate: one that names nobody, or two, is nobody's", async () => {
  const ann = "spiffe://rbs.test/user/ann";
  const cases = [
    { uris: [] },
    { uris: [], names: [] },
    { uris: [ann, "spiffe://rbs.test/orchestrator"] },
    { uris: [ann, ann] },
    { uris: [ann, "https://example.test/"] },
    { uris: ["https://example.test/"] },
    { uris: [`${ann}\0`] },
    // In the text that node:tls makes of a certificate, this is a URI.
    { uris: [], names: [`agent.rbs.internal, URI:${ann}`] },
  ];
  for (const options of cases) {
    const { certificate } = await authority.certify(options);
    assert.deepEqual(subjectUris(der(certificate)), options.uris);
    assert.equal(certificateIdentity(der(certificate), TRUST_DOMAIN), undefined, JSON.stringify(options));
  }
  assert.equal(certificateIdentity(der(authority.certificate), TRUST_DOMAIN), undefined);
});

Deno.test("certificate: bytes that are none are nobody's, however they are broken", async () => {
  const ann = { kind: "user", userId: "ann" } as const;
  const whole = der((await authority.identify(ann)).certificate);
  for (let length = 0; length < whole.length; length++) {
    assert.equal(certificateIdentity(whole.subarray(0, length), TRUST_DOMAIN), undefined, `${length} bytes`);
  }
  assert.equal(certificateIdentity(new Uint8Array([...whole, 0]), TRUST_DOMAIN), undefined);
  const below = random(7);
  for (let i = 0; i < 20_000; i++) {
    const broken = Uint8Array.from(whole);
    for (let n = below(4); n >= 0; n--) broken[below(broken.length)] = below(256);
    // It may still name ann, or nobody, or another user if the broken byte is one of the name: TLS checks the signature.
    const identity = certificateIdentity(broken, TRUST_DOMAIN);
    assert.ok(identity === undefined || identity.kind === "user", JSON.stringify(identity));
  }
});
