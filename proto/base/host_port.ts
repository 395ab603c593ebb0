/** Addresses as people and flags write them: "HOST:PORT", an IPv6 address in brackets. */

/** An address taken apart. */
export interface HostPort {
  /** A name or an IP address, v6 without brackets. May be empty. */
  host: string;
  port: number;
}

/** Undefined for what is no HOST:PORT. */
export function parseHostPort(address: string): HostPort | undefined {
  const at = /^(?:\[(?<ip6>[^\]]*)\]|(?<host>[^:]*)):(?<port>\d{1,5})$/.exec(address)?.groups;
  const port = Number(at?.port);
  return at && port <= 0xffff ? { host: at.ip6 ?? at.host, port } : undefined;
}

/** "HOST:PORT". */
export function formatHostPort(host: string, port: number): string {
  return `${host.includes(":") ? `[${host}]` : host}:${port}`;
}
