/**
 * Keeps HTTP/2 GOAWAY frames away from node:http2, which in Deno does not survive them.
 *
 * Why: a GOAWAY closes a session without streams, and node:http2 then destroys it from inside of the frame's callback.
 * Deno frees nghttp2's session there and then, while nghttp2 is about to walk over its streams for that same frame: the
 * process aborts in `find_stream_on_goaway_func`, or in free(). Each ordinary client says GOAWAY when it closes, so each
 * could end a server (https://github.com/denoland/deno/issues/36788, seen in Deno 2.9.6). This file can go when that is
 * fixed in the oldest Deno that we run on.
 *
 * What is lost: "no new streams, please" in advance. For us a connection is over when its socket closes, which follows.
 */
import { Buffer } from "node:buffer";
import { Duplex } from "node:stream";

/** What a client sends before its first frame (RFC 9113, 3.4). */
const PREFACE = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "latin1");

/** A frame's header is 24 bits of payload length, 8 of type, 8 of flags and 32 of stream id (RFC 9113, 4.1). */
const HEADER_BYTES = 9;
/** The part of the header that decides: length and type. */
const VERDICT_BYTES = 4;
const GOAWAY = 0x7;

/**
 * Follows one direction of an HTTP/2 connection, cut anywhere, and leaves GOAWAY frames out. It keeps at most the three
 * bytes of a header cut before its type; everything else passes at once and uncopied.
 */
export class GoawayScanner {
  #prefaceSeen: number;
  readonly #verdict = new Uint8Array(VERDICT_BYTES);
  #verdictBytes = 0;
  /** Bytes to come of the current frame whose fate is known. */
  #frameLeft = 0;
  #dropping = false;

  /** @param from Whose bytes these are: a client's begin with the preface. */
  constructor(from: "client" | "server") {
    this.#prefaceSeen = from === "client" ? 0 : PREFACE.length;
  }

  /** @returns the parts to pass on, in order. @throws {TypeError} if a client does not begin with HTTP/2's preface. */
  scan(chunk: Uint8Array): Uint8Array[] {
    const passed: Uint8Array[] = [];
    let at = 0;
    /** Where the bytes begin that pass but are not in `passed` yet. */
    let from = 0;
    const flush = (to: number) => {
      if (from < to) passed.push(chunk.subarray(from, to));
    };
    while (at < chunk.length && this.#prefaceSeen < PREFACE.length) {
      if (chunk[at++] !== PREFACE[this.#prefaceSeen++]) throw new TypeError("the peer does not speak HTTP/2");
    }
    while (at < chunk.length) {
      if (this.#frameLeft === 0) {
        const earlier = this.#verdictBytes;
        const start = at;
        while (this.#verdictBytes < VERDICT_BYTES && at < chunk.length) {
          this.#verdict[this.#verdictBytes++] = chunk[at++];
        }
        if (this.#verdictBytes < VERDICT_BYTES) {
          flush(start);
          from = at;
          break;
        }
        const [high, middle, low, type] = this.#verdict;
        this.#verdictBytes = 0;
        this.#frameLeft = (high << 16 | middle << 8 | low) + HEADER_BYTES - VERDICT_BYTES;
        this.#dropping = type === GOAWAY;
        if (this.#dropping) flush(start);
        else if (earlier > 0) passed.push(this.#verdict.slice(0, earlier));
      }
      const end = Math.min(at + this.#frameLeft, chunk.length);
      this.#frameLeft -= end - at;
      at = end;
      if (this.#dropping) from = at;
    }
    flush(at);
    return passed;
  }
}

/**
 * Bytes that may wait for the reader: 64 times the window that node:http2 gives a connection (64 KiB, which grpc-js leaves
 * as it is), since headers and pings are in no window. A connection whose reader lets more come together is given up.
 *
 * It is not held back instead: see MAX_HELD of tls/socket_transport.ts. Nor is there a need, since node:http2 takes what
 * comes as it comes.
 */
const MAX_HELD = 4 << 20;

/**
 * A server's side of a connection without GOAWAY frames, in neither direction: the peer may be a Deno, too. Sits on
 * whatever carries the plain HTTP/2 bytes, be it a TCP or a TLS socket, and owns it.
 *
 * It emits no errors: a broken socket, a peer that does not speak HTTP/2, and one that sends more than is read, only close
 * it.
 */
export class GoawayFilter extends Duplex {
  /** The peer's address, in the way of net.Socket: HTTP/2 servers ask their connection for it. */
  readonly remoteAddress: string | undefined;
  readonly remotePort: number | undefined;
  readonly #socket: Duplex;
  readonly #received = new GoawayScanner("client");
  readonly #sent = new GoawayScanner("server");

  /** @param name Stands for the peer's address where it is given: what a server of HTTP/2 calls the connection. */
  constructor(socket: Duplex & { remoteAddress?: string; remotePort?: number }, name?: string) {
    super();
    this.#socket = socket;
    // Taken now, because a closed socket has forgotten them.
    this.remoteAddress = name ?? socket.remoteAddress;
    this.remotePort = socket.remotePort;
    socket.on("data", (chunk: Uint8Array) => this.#receive(chunk));
    socket.on("end", () => this.push(null));
    socket.on("error", () => {}); // "close" follows
    socket.on("close", () => {
      // What the peer sent last may still be on its way to the reader.
      if (socket.readableEnded && !this.readableEnded) this.once("end", () => this.destroy());
      else this.destroy();
    });
  }

  #receive(chunk: Uint8Array): void {
    let passed: Uint8Array[];
    try {
      passed = this.#received.scan(chunk);
    } catch {
      this.destroy();
      return;
    }
    for (const part of passed) this.push(part);
    if (this.readableLength > MAX_HELD) this.destroy();
  }

  override _read(): void {} // what comes is pushed, asked for or not

  override _write(chunk: Uint8Array, _encoding: string, done: () => void): void {
    let more = true;
    for (const part of this.#sent.scan(chunk)) more = this.#socket.write(part);
    if (more) done();
    else this.#socket.once("drain", done);
  }

  override _final(done: () => void): void {
    this.#socket.end(done);
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#socket.destroy();
    done(error);
  }
}
