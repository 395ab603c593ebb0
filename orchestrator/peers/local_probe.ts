import { parseHostPort } from "../../proto/base/host_port.ts";

/**
 * Whether an orchestrator on this machine is gone: nobody listens where it did. Anything but a refused connection (another
 * machine's address, for which there is no permission, too) is no proof.
 *
 * @param address "HOST:PORT"; an IPv6 address in brackets.
 */
export async function isGone(address: string): Promise<boolean> {
  const { host, port } = parseHostPort(address) ?? {};
  if (!host || port === undefined) return false;
  try {
    // An orchestrator at localhost listens on both of its addresses.
    (await Deno.connect({ hostname: host === "localhost" ? "127.0.0.1" : host, port })).close();
    return false;
  } catch (e) {
    return e instanceof Deno.errors.ConnectionRefused;
  }
}
