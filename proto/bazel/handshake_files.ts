/**
 * The files by which a Bazel client finds its server, in `server/` of the output base:
 *
 *     command_port                    "127.0.0.1:PORT"      read by 2.1 and 4.2
 *     request_cookie, response_cookie hex text              read by 2.1 and 4.2
 *     server_info.rawproto            all of these, and pid read by 6 and later
 *     server.pid.txt                  decimal               written by the client's `daemonize`
 */

/** The files that the server writes. */
export const HANDSHAKE_FILES = ["server_info.rawproto", "command_port", "request_cookie", "response_cookie"];

/** The secrets by which a client and its server recognize each other. */
export interface Cookies {
  /** Sent by the client with each call. */
  requestCookie: string;
  /** Sent by the server with each response. */
  responseCookie: string;
}

/**
 * The address in `command_port` or `server_info.rawproto`, always a loopback address. Undefined if it is malformed.
 */
export function serverAddress(text: string): { host: "127.0.0.1" | "::1"; port: number } | undefined {
  const match = /^(?:\[(?:::1|0:0:0:0:0:0:0:1)\]|(127\.0\.0\.1)):(\d{1,5})$/.exec(text);
  const port = Number(match?.[2]);
  if (!match || port < 1 || port > 0xffff) return undefined;
  return { host: match[1] ? "127.0.0.1" : "::1", port };
}
