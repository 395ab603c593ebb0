import { X509Certificate } from "node:crypto";
import { RbsError } from "../../proto/base/errors.ts";
import { OrchestratorAddresses } from "../../proto/base/orchestrator_addresses.ts";
import { discoverAuthority, fingerprint } from "../../proto/enrolment/discovery.ts";
import { enrol } from "../../proto/enrolment/enrolment.ts";
import { readInvitation } from "../../proto/enrolment/invitation.ts";
import { certificateIdentity } from "../../proto/identity/certificate.ts";
import type { Credentials } from "../../proto/identity/credentials.ts";
import {
  authoritiesFile,
  holderFile,
  operatorOf,
  readCredentials,
  readSecret,
  userOf,
  writeCredentials,
} from "../../proto/identity/key_directory.ts";
import { orchestratorError } from "../session/orchestrator_error.ts";
import { usage } from "./settings.ts";

/** Input of {@link runLogin}. */
export interface LoginContext {
  /** Absolute path. */
  stateDirectory: string;
  /** Reads the token: a line that was typed or piped in. Undefined if there is none. */
  readToken(): Promise<string | undefined>;
  say(line: string): void;
}

/**
 * Enrols this machine's user, or an operator, at an orchestrator: makes a key, and gets a certificate for a token of
 * `orchestrator enrol`. Throws an RbsError.
 * @returns the exit code
 */
export async function runLogin({ stateDirectory, readToken, say }: LoginContext): Promise<number> {
  const typed = (await readToken() ?? "").trim();
  if (typed === "") {
    throw usage(
      "login: no token was given: ask the orchestrator's operator for the line that `orchestrator enrol NAME` prints, and " +
        "give it on standard input.",
    );
  }
  const invitation = readInvitation(typed);
  if (!invitation) {
    throw usage(
      "login: that is not a token: ask the orchestrator's operator for the line that `orchestrator enrol NAME` prints, and " +
        "give it on standard input.",
    );
  }
  const { address, trustDomain, token, operator } = invitation;
  const holder = operator ? "operator" : "user";
  const authorities = await discoverAuthority(address, invitation.fingerprint);
  if (operator) refuseOtherAuthority(stateDirectory, invitation.fingerprint);
  let credentials: Credentials;
  try {
    credentials = await enrol({ address }, { authorities, trustDomain }, token);
  } catch (e) {
    throw orchestratorError(e, new OrchestratorAddresses(address));
  }
  const { raw } = new X509Certificate(credentials.certificate);
  if (certificateIdentity(raw, trustDomain)?.kind !== holder) {
    throw new RbsError("login: the orchestrator has certified something else than the token says: ask for a new one.");
  }
  // Trust only the authority that the token names, whatever the answer says.
  writeCredentials(stateDirectory, holder, { ...credentials, authorities });
  const held = readCredentials(stateDirectory, holder);
  const until = held.notAfter.toISOString().slice(0, 10);
  say(
    operator
      ? `You are operator ${operatorOf(held)} to the orchestrator at ${address}, until ${until}; ` +
        "`jbazel status --all-users` renews that by itself."
      : `You are ${userOf(held)} to the orchestrator at ${address}, until ${until}; builds renew that by themselves.`,
  );
  say(`The key is ${holderFile(stateDirectory, holder)}. Set RBS_ORCHESTRATOR_ADDR=${address}.`);
  return 0;
}

/** Refuses to put an operator's key beside a user's who trusts another authority: there is one file of what is trusted. */
function refuseOtherAuthority(state: string, fingerprintOfOperators: string): void {
  let trusted: string;
  try {
    readCredentials(state);
    trusted = readSecret(authoritiesFile(state));
  } catch (e) {
    // There is no user's key that could be of use.
    if (e instanceof RbsError) return;
    throw e;
  }
  if (fingerprint(new X509Certificate(trusted).raw) === fingerprintOfOperators) return;
  throw usage(
    `login: the user's key in ${state} is for another orchestrator, and would not work any more: give the operator's key a ` +
      "directory of its own, --state-dir.",
  );
}
