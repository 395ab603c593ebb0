/**
 * Checks the cookie in the first bytes of a request, so that nothing is collected for a caller that does not know it.
 * In every request of Bazel's command server the cookie is field 1, and clients send fields in order of their numbers.
 */
import { Buffer } from "node:buffer";
import { scanFields, textValue, WireError } from "../../proto/base/protobuf_fields.ts";
import { sameSecret } from "../../proto/base/state_directory.ts";

/** The cookie must end within this many bytes of a request. */
const MOST = 4 << 10;
/** Length of a gRPC message's prefix: flags and length. */
const PREFIX = 5;

/** Checks the cookie of one request. */
export class CookieCheck {
  readonly #cookie: string;
  #seen: Buffer = Buffer.alloc(0);
  #shown?: boolean;

  /** @param cookie The expected cookie. */
  constructor(cookie: string) {
    this.#cookie = cookie;
  }

  /**
   * Reads the next bytes of a call, from its gRPC prefix on. Does not keep them. Throws a {@link WireError} for a
   * malformed message.
   *
   * @returns whether the request has the cookie; undefined while that is unknown
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
      // An error may mean only that the rest is still missing.
      if (!(e instanceof WireError) || this.#seen.length >= end) throw e;
    }
    if (cookie === undefined && this.#seen.length < Math.min(end, MOST)) return undefined;
    this.#seen = Buffer.alloc(0);
    return this.#shown = sameSecret(this.#cookie, cookie);
  }
}
