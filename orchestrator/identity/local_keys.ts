import { join } from "node:path";
import { RbsError, sentence } from "../../proto/base/errors.ts";
import {
  createSecret,
  type HeldCredentials,
  type Holder,
  keyDirectory,
  makeKeyDirectory,
  readCredentials,
  readSecret,
  writeCredentials,
} from "../../proto/identity/key_directory.ts";
import { type Identity, spiffeUri } from "../../proto/identity/spiffe.ts";
import type { Log } from "../../proto/base/log.ts";
import { type AuthorityFiles, CertificateAuthority } from "./certificate_authority.ts";
import { checkUserName } from "./user_name.ts";

/** The trust domain. Who is in it the authority says, so that one name does for all. */
export const TRUST_DOMAIN = "rbs.internal";

/** An outside authority's files. Absolute. */
export interface OutsideAuthority {
  readonly certificateFile: string;
  readonly keyFile: string;
}

/** How often certificates are looked at. Milliseconds. */
const LOOK_MS = 3600_000;

/** The keys that an orchestrator in local mode sees to: its authority's, its own, and those of the machine's user. */
export class LocalKeys implements Disposable {
  #timer?: ReturnType<typeof setInterval>;

  private constructor(
    readonly state: string,
    readonly userId: string,
    readonly log: Log,
    readonly authority: CertificateAuthority,
    /** The orchestrator's. */
    public credentials: HeldCredentials,
  ) {}

  /** Makes what is missing. Throws an RbsError. */
  static async open(state: string, userId: string, log: Log, outside?: OutsideAuthority): Promise<LocalKeys> {
    checkUserName(userId);
    const authority = await openAuthority(state, outside);
    const credentials = await ensureCredentials(state, authority, { kind: "orchestrator" });
    await ensureCredentials(state, authority, { kind: "user", userId });
    return new LocalKeys(state, userId, log, authority, credentials);
  }

  /**
   * Renews certificates at half their life, from now on.
   *
   * @param renewed Told of the orchestrator's own.
   * @param lookMs How often they are looked at. Milliseconds.
   */
  keepFresh(renewed: (credentials: HeldCredentials) => void, lookMs: number = LOOK_MS): void {
    this.#timer = setInterval(async () => {
      try {
        await ensureCredentials(this.state, this.authority, { kind: "user", userId: this.userId });
        const now = await ensureCredentials(this.state, this.authority, { kind: "orchestrator" });
        if (now.certificate !== this.credentials.certificate) renewed(this.credentials = now);
      } catch (e) {
        this.log(`certificates could not be renewed: ${sentence(e)}`);
      }
    }, lookMs);
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }
}

/**
 * The authority whose files are named, or else the state directory's own, which is made at the first start. Throws an
 * RbsError.
 */
export async function openAuthority(state: string, outside?: OutsideAuthority): Promise<CertificateAuthority> {
  makeKeyDirectory(state);
  if (outside) {
    const { certificateFile, keyFile } = outside;
    const files = { certificate: readCertificate(certificateFile), privateKey: readSecret(keyFile) };
    return await CertificateAuthority.load(files, TRUST_DOMAIN, `${certificateFile} with ${keyFile}`);
  }
  const file = join(keyDirectory(state), "authority.pem");
  let text: string;
  try {
    text = readSecret(file);
  } catch (e) {
    if (!(e instanceof RbsError && e.cause instanceof Deno.errors.NotFound)) throw e;
    const { privateKey, certificate } = await CertificateAuthority.create();
    text = createSecret(file, privateKey + certificate);
  }
  const parts: AuthorityFiles = {
    privateKey: text.slice(0, Math.max(0, text.indexOf("-----BEGIN CERTIFICATE"))),
    certificate: text.slice(Math.max(0, text.indexOf("-----BEGIN CERTIFICATE"))),
  };
  return await CertificateAuthority.load(parts, TRUST_DOMAIN, file);
}

function readCertificate(file: string): string {
  try {
    return Deno.readTextFileSync(file);
  } catch (cause) {
    throw new RbsError(`The certificate ${file} cannot be read (${sentence(cause)}): name another with --ca-cert.`, {
      cause,
      culprit: "caller",
    });
  }
}

/**
 * The credentials of `identity` in the state directory, made anew when there are none, when they are another's or of
 * another authority, or when half of their life is over. Throws an RbsError.
 */
export async function ensureCredentials(
  state: string,
  authority: CertificateAuthority,
  identity: Identity & { kind: Holder },
): Promise<HeldCredentials> {
  const held = usable(state, authority, identity);
  if (held) return held;
  writeCredentials(state, identity.kind, await authority.newCredentials(identity));
  return readCredentials(state, identity.kind);
}

function usable(
  state: string,
  { authorities, trustDomain }: CertificateAuthority,
  identity: Identity & { kind: Holder },
): HeldCredentials | undefined {
  let held: HeldCredentials;
  try {
    held = readCredentials(state, identity.kind);
  } catch (e) {
    if (!(e instanceof RbsError)) throw e;
    return undefined;
  }
  const [begins, ends, now] = [held.notBefore.getTime(), held.notAfter.getTime(), Date.now()];
  const fresh = begins <= now && now < (begins + ends) / 2;
  const ours = held.authorities === authorities && held.trustDomain === trustDomain &&
    spiffeUri(trustDomain, held.identity) === spiffeUri(trustDomain, identity);
  return fresh && ours ? held : undefined;
}
