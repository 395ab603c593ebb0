/** Whether whom a client has reached is whom it wants, and how the text of a failed connection says so. */
import { certificateIdentity } from "../../identity/certificate.ts";
import { type Identity, spiffeUri } from "../../identity/spiffe.ts";

/** What {@link mismatch} and {@link trustFailure} know each other by, in a message that passes through grpc-js. */
const NOT_EXPECTED = "it is not ";

/**
 * What is wrong with the peer whose certificate this is; undefined: it is whom we expect.
 *
 * @param der The certificate's bytes.
 */
export function mismatch(der: Uint8Array | undefined, trustDomain: string, expected: Identity): Error | undefined {
  const found = der && certificateIdentity(der, trustDomain);
  const wanted = spiffeUri(trustDomain, expected);
  const uri = found && spiffeUri(trustDomain, found);
  if (uri === wanted) return undefined;
  return new Error(`${NOT_EXPECTED}${wanted} that answers there, but ${uri ?? `nobody of ${trustDomain}`}`);
}

/**
 * Why there is no trust between the two ends, if that is what the text of a failed connection says: one clause for a
 * person. Undefined for all else, such as nobody who listens.
 */
export function trustFailure(details: string): string | undefined {
  const at = details.indexOf(NOT_EXPECTED);
  if (at >= 0) return details.slice(at).replace(/ Resolution note:.*$/s, "").replace(/[.\s]+$/, "");
  if (/wrong version number|InvalidContentType/i.test(details)) {
    return "what listens there does not speak TLS, so it is no RBS of this version";
  }
  const why = /((?:self.signed|unable to (?:verify|get)|certificate (?:has|is)|CERT_|invalid peer certificate)[^.]*)/i
    .exec(details)?.[1];
  return why && `its certificate is not valid, or not of the authority that this side trusts (${why.trim()})`;
}
