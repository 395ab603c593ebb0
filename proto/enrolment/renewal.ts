import { renew } from "./enrolment.ts";
import {
  type HeldCredentials,
  type Holder,
  readValidCredentials,
  writeCredentials,
} from "../identity/key_directory.ts";

/** Whether half of a certificate's life is over. @param now Milliseconds since 1970. */
export function isDue({ notBefore, notAfter }: HeldCredentials, now: number): boolean {
  return now >= (notBefore.getTime() + notAfter.getTime()) / 2;
}

/**
 * Renews the certificate of `holder` in `state` when half of its life is over, and stores the new one there. Throws an
 * RbsError or an RpcError.
 *
 * @param address The orchestrator's "host:port".
 * @returns whether it was due
 */
export async function renewIfDue(state: string, address: string, holder: Holder = "user"): Promise<boolean> {
  const held = readValidCredentials(state, holder);
  if (!isDue(held, Date.now())) return false;
  writeCredentials(state, holder, await renew({ address }, held));
  return true;
}
