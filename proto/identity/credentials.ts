/** What a program proves its identity with, and by which it knows others. */
export interface Credentials {
  /** Its certificate, then those between it and the authority, as PEM. */
  readonly certificate: string;
  /** The certificate's private key, as PEM (PKCS #8). A secret. */
  readonly privateKey: string;
  /** The certificates of the authorities that it trusts, as PEM. */
  readonly authorities: string;
  /** The domain of which its peers must be, see spiffe.ts. */
  readonly trustDomain: string;
}
