import { RbsError } from "../../proto/base/errors.ts";
import { discoverAuthority } from "../../proto/enrolment/discovery.ts";
import { enrol } from "../../proto/enrolment/enrolment.ts";
import { readInvitation } from "../../proto/enrolment/invitation.ts";
import { holderFile, readCredentials, userOf, writeCredentials } from "../../proto/identity/key_directory.ts";
import { orchestratorError } from "./orchestrator_session.ts";
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
 * Enrols this machine's user at an orchestrator: makes a key, and gets a certificate for a token of `orchestrator
 * enrol`. Throws an RbsError.
 * @returns the exit code
 */
export async function runLogin({ stateDirectory, readToken, say }: LoginContext): Promise<number> {
  const typed = (await readToken() ?? "").trim();
  if (typed === "") {
    throw usage(
      "login: no token was given: ask the orchestrator's operator for the line that `orchestrator enrol USER` prints, and " +
        "give it on standard input.",
    );
  }
  const invitation = readInvitation(typed);
  if (!invitation) {
    throw usage(
      "login: that is not a token: ask the orchestrator's operator for the line that `orchestrator enrol USER` prints, and " +
        "give it on standard input.",
    );
  }
  const { address, fingerprint, trustDomain, token } = invitation;
  const authorities = await discoverAuthority(address, fingerprint);
  let credentials;
  try {
    credentials = await enrol({ address }, { authorities, trustDomain }, token);
  } catch (e) {
    throw orchestratorError(e, address);
  }
  // Trust only the authority that the token names, whatever the answer says.
  writeCredentials(stateDirectory, "user", { ...credentials, authorities });
  const held = readCredentials(stateDirectory);
  if (held.identity.kind !== "user") throw new RbsError("login: the orchestrator has certified something else.");
  say(
    `You are ${userOf(held)} to the orchestrator at ${address}, until ${held.notAfter.toISOString().slice(0, 10)}; ` +
      `builds renew that by themselves.`,
  );
  say(`The key is ${holderFile(stateDirectory, "user")}. Set RBS_ORCHESTRATOR_ADDR=${address}.`);
  return 0;
}
