/** A state directory's keys for tests: a machine whose user is known to an orchestrator. */
import { writeCredentials } from "../identity/key_directory.ts";
import type { Credentials } from "../identity/credentials.ts";
import { type CertificateOptions, TestAuthority } from "./certificates.ts";

/** What the certificate of each orchestrator is asked for by, whatever its address. */
export const ORCHESTRATOR_NAME = "orchestrator.rbs.internal";

/** Made once: a key takes its time. */
let authority: Promise<TestAuthority> | undefined;

/** The authority of this process's tests. */
export function testAuthority(): Promise<TestAuthority> {
  return authority ??= TestAuthority.make();
}

/** What an orchestrator of that authority proves itself with. */
export async function orchestratorCredentials(of?: TestAuthority): Promise<Credentials> {
  const issuer = of ?? await testAuthority();
  const credentials = await issuer.identify({ kind: "orchestrator" }, { names: [ORCHESTRATOR_NAME] });
  // As the real one's: with the root.
  return { ...credentials, certificate: `${credentials.certificate}\n${issuer.certificate}\n` };
}

/** Writes the keys of user `userId` into `state`. */
export async function giveUserKeys(
  state: string,
  userId: string,
  options: CertificateOptions = {},
  of?: TestAuthority,
): Promise<void> {
  const credentials = await (of ?? await testAuthority()).identify({ kind: "user", userId }, {
    names: [],
    notAfter: new Date(Date.now() + 30 * 86_400_000),
    ...options,
  });
  writeCredentials(state, "user", credentials);
}
