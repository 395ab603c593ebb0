/** The one place where what a caller shows becomes who it is. */
import type { Caller } from "./access_rules.ts";
import { certificateIdentity } from "./certificate.ts";

/** What a caller shows. A way to prove oneself that comes along is a kind of its own here. */
export type Proof =
  /** A certificate (X.509 in DER) that counts: of the authority, valid now, and its key is the caller's. TLS has seen to it. */
  | { readonly kind: "certificate"; readonly der: Uint8Array }
  /** Nothing, or nothing that counts. `why` is a clause for a message. */
  | { readonly kind: "nothing"; readonly why: string };

/** Who shows this, in a trust domain. Whoever names nobody of it is a stranger. */
export function identify(proof: Proof, trustDomain: string): Caller {
  switch (proof.kind) {
    case "certificate": {
      const identity = certificateIdentity(proof.der, trustDomain);
      return identity ? { identity } : { stranger: `its certificate names nobody of ${trustDomain}` };
    }
    case "nothing":
      return { stranger: proof.why };
  }
}
