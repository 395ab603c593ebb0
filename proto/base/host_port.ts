/** Addresses as users and flags write them: "HOST:PORT", with IPv6 addresses in brackets. */

/** A parsed address. */
export interface HostPort {
  /** A name or an IP address, v6 without brackets. May be empty. */
  host: string;
  port: number;
}

/** Parses "HOST:PORT"; undefined if it is malformed. */
export function parseHostPort(address: string): HostPort | undefined {
  const at = /^(?:\[(?<ip6>[^\]]*)\]|(?<host>[^:]*)):(?<port>\d{1,5})$/.exec(address)?.groups;
  const port = Number(at?.port);
  return at && port <= 0xffff ? { host: at.ip6 ?? at.host, port } : undefined;
}

/** Formats "HOST:PORT". */
export function formatHostPort(host: string, port: number): string {
  return `${host.includes(":") ? `[${host}]` : host}:${port}`;
}
