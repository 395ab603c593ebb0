/** A program's own certificate, and the authorities that it trusts. */
export interface Credentials {
  /** The certificate, followed by those between it and the authority, as PEM. */
  readonly certificate: string;
  /** The certificate's private key, as PEM (PKCS #8). A secret. */
  readonly privateKey: string;
  /** The trusted authorities' certificates, as PEM. */
  readonly authorities: string;
  /** The trust domain of its peers, see spiffe.ts. */
  readonly trustDomain: string;
}
