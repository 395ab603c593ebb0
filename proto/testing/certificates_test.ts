import { X509Certificate } from "node:crypto";
import assert from "node:assert/strict";
import { TestAuthority } from "./certificates.ts";

Deno.test("certificates: what a test authority certifies says what was asked for", async () => {
  const authority = await TestAuthority.make();
  const notBefore = new Date("2020-01-01T00:00:00Z"), notAfter = new Date("2020-01-02T00:00:00Z");
  const { certificate, privateKey } = await authority.identify({ kind: "user", userId: "ann" }, {
    notBefore,
    notAfter,
  });
  const read = new X509Certificate(certificate);
  assert.equal(read.subjectAltName, "URI:spiffe://rbs.test/user/ann, DNS:agent.rbs.internal");
  assert.equal(Date.parse(read.validFrom), notBefore.getTime());
  assert.equal(Date.parse(read.validTo), notAfter.getTime());
  assert.ok(read.checkIssued(new X509Certificate(authority.certificate)));
  assert.match(privateKey, /^-----BEGIN PRIVATE KEY-----\n/);
});
