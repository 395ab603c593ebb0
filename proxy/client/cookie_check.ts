/**
 * Looks for the cookie in the first bytes of a request, so that nothing is gathered for somebody who does not know it. In
 * every request of Bazel's command server it is field 1, and a client sends fields in the order of their numbers.
 */
import { Buffer } from "node:buffer";
import { scanFields, textValue, WireError } from "../../proto/base/protobuf_fields.ts";
import { sameSecret } from "../../proto/base/state_directory.ts";

/** Where in a request the cookie must have come to its end, in bytes. */
const MOST = 4 << 10;
/** What stands in front of a gRPC message: flags, and its length. */
const PREFIX = 5;

/** See the file's head. */
export class CookieCheck {
  readonly #cookie: string;
  #seen: Buffer = Buffer.alloc(0);
  #shown?: boolean;

  /** @param cookie The right one. */
  constructor(cookie: string) {
    this.#cookie = cookie;
  }

  /**
   * Looks at the next bytes of a call, from its gRPC prefix on, which stay the caller's. Throws a {@link WireError} on what
   * is no message.
   *
   * @returns whether the request shows the cookie; undefined while that cannot be said
   */
  push(chunk: Uint8Array): boolean | undefined {
    if (this.#shown !== undefined) return this.#shown;
    this.#seen = Buffer.concat([this.#seen, chunk.subarray(0, MOST - this.#seen.length)]);
    if (this.#seen.length < PREFIX) return undefined;
    const end = PREFIX + this.#seen.readUInt32BE(1);
    const message = this.#seen.subarray(PREFIX, end);
    let cookie: string | undefined;
    try {
      scanFields(message, (f) => {
        if (f.number === 1 && f.wireType === 2) cookie ??= textValue(message, f);
      });
    } catch (e) {
      // Cut short it may be, while more is to come.
      if (!(e instanceof WireError) || this.#seen.length >= end) throw e;
    }
    if (cookie === undefined && this.#seen.length < Math.min(end, MOST)) return undefined;
    this.#seen = Buffer.alloc(0);
    return this.#shown = sameSecret(this.#cookie, cookie);
  }
}
