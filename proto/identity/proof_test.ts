import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { TRUST_DOMAIN } from "../testing/certificates.ts";
import { testAuthority } from "../testing/keys.ts";
import { identify } from "./proof.ts";

Deno.test("a certificate proves who it names, and nobody else; nothing proves nothing", async () => {
  const authority = await testAuthority();
  const shown = async (uri: string) => {
    const { certificate } = await authority.certify({ uris: [uri] });
    return identify({ kind: "certificate", der: new X509Certificate(certificate).raw }, TRUST_DOMAIN);
  };
  assert.deepEqual(await shown(`spiffe://${TRUST_DOMAIN}/user/ann`), { identity: { kind: "user", userId: "ann" } });
  for (const uri of ["spiffe://other.test/user/ann", `spiffe://${TRUST_DOMAIN}/janitor/ann`]) {
    assert.deepEqual(await shown(uri), { stranger: `its certificate names nobody of ${TRUST_DOMAIN}` });
  }
  assert.deepEqual(identify({ kind: "certificate", der: new Uint8Array(9) }, TRUST_DOMAIN), {
    stranger: `its certificate names nobody of ${TRUST_DOMAIN}`,
  });
  assert.deepEqual(identify({ kind: "nothing", why: "it is silent" }, TRUST_DOMAIN), { stranger: "it is silent" });
});
