import { formatHostPort } from "../../proto/base/host_port.ts";
import { RbsError, sentence, systemCode } from "../../proto/base/errors.ts";

/** How often a free port is looked for that is free on both addresses. */
const ATTEMPTS = 10;

/** Whether a port can be had on an address; "absent" when the machine has no such address. */
function probe(hostname: string, port: number): "free" | "taken" | "absent" | Error {
  try {
    Deno.listen({ hostname, port }).close();
    return "free";
  } catch (e) {
    if (e instanceof Deno.errors.AddrInUse) return "taken";
    if (e instanceof Deno.errors.AddrNotAvailable || systemCode(e) === "EAFNOSUPPORT") return "absent";
    return e as Error;
  }
}

/** What can listen at one address, whatever it serves there. */
export interface Listens {
  /** Starts to. Rejects with the system's error. @returns the port */
  listen(): Promise<number>;
  close(): void;
}

/** A listening orchestrator. */
export interface Listening<S extends Listens> {
  port: number;
  servers: S[];
}

/**
 * Listens on an IP address, or on `localhost`: see {@link listenOnLoopback}. Throws an RbsError when the port cannot be
 * had.
 *
 * @param port 0 takes a free one.
 * @param newServer Makes a server for an address, with its services.
 */
export async function listenOn<S extends Listens>(
  host: string,
  port: number,
  newServer: (address: string) => S,
): Promise<Listening<S>> {
  if (host === "localhost") return await listenOnLoopback(port, newServer);
  const free = probe(host, port);
  if (free !== "free") throw unavailable(host, port, free);
  const server = newServer(formatHostPort(host, port));
  try {
    return { port: await server.listen(), servers: [server] };
  } catch (cause) {
    server.close();
    throw unavailable(host, port, cause as Error);
  }
}

/** Throws an RbsError unless it can be listened on a host: an IP address, or `localhost`. */
export function checkHost(host: string): void {
  if (host === "localhost") return;
  const free = probe(host, 0);
  if (free !== "free") throw unavailable(host, 0, free);
}

/**
 * Listens on 127.0.0.1 and, where there is one, on ::1 at the same port, so that `localhost` works however it is
 * resolved. Throws an RbsError when the port cannot be had.
 *
 * @param port 0 takes a free one.
 * @param newServer Makes a server for an address, with its services.
 */
export async function listenOnLoopback<S extends Listens>(
  port: number,
  newServer: (address: string) => S,
): Promise<Listening<S>> {
  for (let attempt = 1;; attempt++) {
    // Looked at first, since node:net does not tell why an address cannot be had.
    const free = probe("127.0.0.1", port);
    if (free !== "free") throw unavailable("localhost", port, free);
    const servers = [newServer(`127.0.0.1:${port}`)];
    try {
      const chosen = await servers[0].listen();
      const other = probe("::1", chosen);
      if (other === "free") {
        servers.push(newServer(`[::1]:${chosen}`));
        await servers[1].listen();
      } else if (other !== "absent") throw unavailable("localhost", chosen, other);
      return { port: chosen, servers };
    } catch (cause) {
      for (const server of servers) server.close();
      if (port === 0 && attempt < ATTEMPTS) continue;
      throw cause instanceof RbsError ? cause : unavailable("localhost", port, cause as Error);
    }
  }
}

function unavailable(host: string, port: number, why: Exclude<ReturnType<typeof probe>, "free">): RbsError {
  if (why === "absent") {
    return new RbsError(`This machine has no address ${host}: name one of its own with --listen.`, {
      culprit: "caller",
    });
  }
  return new RbsError(
    why === "taken"
      ? `Port ${port} is in use on this machine: stop what listens there, or choose another with --port (0 takes a free one).`
      : `Port ${port} of ${host} cannot be listened on (${
        sentence(why)
      }): choose another with --port (0 takes a free one).`,
    { cause: why, culprit: "caller" },
  );
}
