/** How streams and connections end early. */

/**
 * How a connection was lost.
 * - "closed": this side or the peer closed it in order.
 * - "reset": it broke, for example because a NAT or VPN on the way dropped it. The kernel of a peer that died says the
 *   same if the peer had not read everything.
 * - "silent": one side no longer heard from the other. The side that gives up says so in a GOAWAY, which arrives when
 *   the link works again. Without the GOAWAY the other side would take the following end for an orderly one.
 */
export type Loss = "closed" | "reset" | "silent";

/** A stream ended early. */
export class StreamError extends Error {
  override readonly name = "StreamError";
  /**
   * @param code An HTTP/2 error code.
   * @param refused The peer has certainly not processed the stream.
   * @param lost How the connection was lost, if it was.
   */
  constructor(readonly code: number, message: string, readonly refused = false, readonly lost?: Loss) {
    super(message);
  }
}

/** The peer broke the rules of HTTP/2, or sends too much: the connection ends. */
export class ConnectionError extends Error {
  /** @param code The HTTP/2 error code for the GOAWAY. */
  constructor(readonly code: number, message: string) {
    super(message);
  }
}
