/** An attacker's connections: bytes as they are, and HTTP/2 that keeps to the peer's windows and to nothing else. */
import { Buffer } from "node:buffer";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import {
  encodeFrame,
  Flag,
  FRAME_HEADER_BYTES,
  frameHeader,
  FrameType,
  PREFACE,
  Setting,
  settingsFrame,
} from "../../../proto/transport/http2/frames.ts";
import { encodeHeaders } from "../../../proto/transport/http2/hpack.ts";
import { callHeaders } from "../../../proto/transport/grpc/calls.ts";

/** A port to attack. */
export interface Target {
  port: number;
  /** A method that this port has: "/package.Service/Method". */
  path: string;
  /** How its TLS is spoken; undefined: it is plain text. */
  tls?: {
    authorities: string;
    /** The name that its certificate has. */
    serverName: string;
    /** Whose the attacker is, as PEM. @default none */
    certificate?: string;
    privateKey?: string;
  };
}

const HOST = "127.0.0.1";
/** Attackers are at another address than honest callers. */
const FROM = "127.0.0.2";
/** The largest frame that each peer takes, in bytes. */
const FRAME_MAX = 16_384;
/** What each window is at first, in bytes. */
const WINDOW = 65_535;

/** A connection. */
export class Wire implements Disposable {
  readonly #socket: Socket;
  /** Resolves when the connection has ended, however. */
  readonly closed: Promise<void>;
  isClosed = false;
  onData: (bytes: Buffer) => void = () => {};

  private constructor(socket: Socket) {
    this.#socket = socket;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.closed = promise;
    socket.on("error", () => {});
    socket.on("close", () => {
      this.isClosed = true;
      resolve();
    });
    socket.on("data", (bytes: Buffer) => this.onData(bytes));
  }

  /** Connects by TCP alone. Rejects when nobody takes the connection. */
  static open({ port }: Target): Promise<Wire> {
    return Wire.#opened(connect({ host: HOST, port, localAddress: FROM }), "connect");
  }

  /** Connects as the port is spoken with: in TLS, where it has TLS. */
  static openSecure(target: Target): Promise<Wire> {
    if (!target.tls) return Wire.open(target);
    const { authorities, serverName, certificate, privateKey } = target.tls;
    const socket = connectTls({
      ...{ host: HOST, port: target.port, localAddress: FROM, servername: serverName, ca: authorities },
      ...{ cert: certificate, key: privateKey, ALPNProtocols: ["h2"] },
      // Who is attacked says the port.
      checkServerIdentity: () => undefined,
    });
    return Wire.#opened(socket, "secureConnect");
  }

  static async #opened(socket: Socket, event: "connect" | "secureConnect"): Promise<Wire> {
    const wire = new Wire(socket);
    const open = new Promise<boolean>((resolve) => socket.once(event, () => resolve(true)));
    if (!await Promise.race([open, wire.closed])) throw new Error("the connection was refused");
    socket.setNoDelay(true);
    return wire;
  }

  /** Resolves when the connection takes more, or has ended. */
  async write(bytes: Uint8Array): Promise<void> {
    if (this.isClosed) throw new Error("the connection has ended");
    if (this.#socket.write(bytes)) return;
    await Promise.race([new Promise((resolve) => this.#socket.once("drain", resolve)), this.closed]);
  }

  [Symbol.dispose](): void {
    this.#socket.destroy();
  }
}

let hello: Promise<Buffer> | undefined;

/** The first record of an honest client, which may be sent as often as one likes. */
export function wholeHello(target: Target): Promise<Buffer> {
  return hello ??= new Promise((resolve, reject) => {
    const server = createServer((socket) => {
      socket.once("data", (bytes: Buffer) => {
        resolve(Buffer.from(bytes));
        socket.destroy();
        server.close();
      });
    });
    server.on("error", reject);
    server.listen(0, HOST, () => {
      const { port } = server.address() as AddressInfo;
      Wire.openSecure({ ...target, port }).catch(() => {});
    });
  });
}

/** A connection on which HTTP/2 is spoken. */
export class Http2Wire implements Disposable {
  readonly wire: Wire;
  readonly #target: Target;
  #rest: Buffer = Buffer.alloc(0);
  #nextStream = 1;
  #window = WINDOW;
  #initialWindow = WINDOW;
  /** What is left of the window of each stream that is being written to. */
  readonly #streams = new Map<number, number>();
  #changed = Promise.withResolvers<void>();

  private constructor(wire: Wire, target: Target) {
    this.wire = wire;
    this.#target = target;
    wire.onData = (bytes) => this.#receive(bytes);
    void wire.closed.then(() => this.#wake());
  }

  /** Connects and says the preface. */
  static async open(target: Target): Promise<Http2Wire> {
    const it = new Http2Wire(await Wire.openSecure(target), target);
    await it.wire.write(Buffer.concat([PREFACE, settingsFrame([])]));
    return it;
  }

  /** The headers of a call, as a block. */
  block(): Uint8Array {
    return encodeHeaders(callHeaders("localhost", this.#target.path));
  }

  /** The id of a new stream. */
  stream(): number {
    const id = this.#nextStream;
    this.#nextStream += 2;
    return id;
  }

  /** A frame that begins a call, and the id of its stream. */
  call(block: Uint8Array = this.block(), flags: number = Flag.END_HEADERS): { id: number; frame: Buffer } {
    const id = this.stream();
    return { id, frame: encodeFrame(FrameType.HEADERS, flags, id, block) };
  }

  /** Writes frames, with back-pressure. */
  write(frames: Uint8Array): Promise<void> {
    return this.wire.write(frames);
  }

  /**
   * Begins a call whose one message has `size` bytes, and sends all of it but for the last byte, as the windows allow.
   * Resolves when that is done, or the peer does not want the stream.
   */
  async unfinished(size: number): Promise<void> {
    const { id, frame } = this.call();
    this.#streams.set(id, this.#initialWindow);
    await this.write(frame);
    const message = Buffer.alloc(5);
    message.writeUInt32BE(size, 1);
    let left = message.length + size - 1, prefix: Uint8Array = message;
    while (left > 0 && !this.wire.isClosed) {
      const room = this.#streams.get(id);
      if (room === undefined) return;
      const length = Math.min(left, room, this.#window, FRAME_MAX);
      if (length < Math.max(1, prefix.length)) {
        await this.#changed.promise;
        continue;
      }
      const body = Buffer.alloc(length);
      body.set(prefix);
      prefix = new Uint8Array(0);
      left -= length;
      this.#window -= length;
      this.#streams.set(id, room - length);
      await this.write(Buffer.concat([frameHeader(length, FrameType.DATA, 0, id), body]));
    }
  }

  #receive(bytes: Buffer): void {
    this.#rest = this.#rest.length ? Buffer.concat([this.#rest, bytes]) : bytes;
    let at = 0;
    while (this.#rest.length - at >= FRAME_HEADER_BYTES) {
      const length = this.#rest.readUIntBE(at, 3);
      if (this.#rest.length - at < FRAME_HEADER_BYTES + length) break;
      const payload = this.#rest.subarray(at + FRAME_HEADER_BYTES, at + FRAME_HEADER_BYTES + length);
      this.#frame(this.#rest[at + 3], this.#rest[at + 4], this.#rest.readUInt32BE(at + 5) & 0x7fffffff, payload);
      at += FRAME_HEADER_BYTES + length;
    }
    this.#rest = this.#rest.subarray(at);
  }

  #frame(type: number, flags: number, id: number, payload: Buffer): void {
    switch (type) {
      case FrameType.SETTINGS:
        if (flags & Flag.ACK) return;
        for (let at = 0; at + 6 <= payload.length; at += 6) {
          if (payload.readUInt16BE(at) === Setting.INITIAL_WINDOW_SIZE) this.#initial(payload.readUInt32BE(at + 2));
        }
        void this.#answer(encodeFrame(FrameType.SETTINGS, Flag.ACK, 0, new Uint8Array(0)));
        break;
      case FrameType.PING:
        if (!(flags & Flag.ACK)) void this.#answer(encodeFrame(FrameType.PING, Flag.ACK, 0, payload));
        break;
      case FrameType.WINDOW_UPDATE: {
        const more = payload.readUInt32BE(0);
        if (id === 0) this.#window += more;
        else if (this.#streams.has(id)) this.#streams.set(id, this.#streams.get(id)! + more);
        break;
      }
      case FrameType.RST_STREAM:
        this.#streams.delete(id);
        break;
      case FrameType.HEADERS:
        if (flags & Flag.END_STREAM) this.#streams.delete(id);
        break;
    }
    this.#wake();
  }

  #initial(size: number): void {
    for (const [id, left] of this.#streams) this.#streams.set(id, left + size - this.#initialWindow);
    this.#initialWindow = size;
  }

  async #answer(frame: Uint8Array): Promise<void> {
    await this.write(frame).catch(() => {});
  }

  #wake(): void {
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
  }

  [Symbol.dispose](): void {
    this.wire[Symbol.dispose]();
  }
}
