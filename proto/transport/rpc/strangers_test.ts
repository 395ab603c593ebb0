/** What strangers, and those who are known, cost a server of our own services, by attack: it answers others meanwhile. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { connect } from "node:tls";
import { Identity as IdentityService } from "../../contract/gen/rbs/v1/identity_pb.ts";
import { Orchestrator } from "../../contract/gen/rbs/v1/orchestrator_pb.ts";
import { Http2Connection } from "../http2/connection.ts";
import type { Stream } from "../http2/stream.ts";
import { encodeFrame, Flag, FrameType, PREFACE, settingsFrame } from "../http2/frames.ts";
import { encodeHeaders } from "../http2/hpack.ts";
import type { Credentials } from "../../identity/credentials.ts";
import { callHeaders, readCall, Status } from "../grpc/calls.ts";
import { createRpcClient } from "./client.ts";
import { ORCHESTRATOR_NAME } from "../../testing/keys.ts";
import { RawPeer } from "../../testing/pipe.ts";
import { HTTP_2 } from "../tls/settings.ts";
import { SocketTransport } from "../tls/socket_transport.ts";
import { LineReader } from "../../base/line_reader.ts";

/** What the server may grow by while it is attacked. Some of it is garbage, and what an honest caller costs. */
const MAX_GROWTH = 64 << 20;
/** What is sent at once. */
const CHUNK_BYTES = 16 << 10;
const ISSUE = "/rbs.v1.Identity/IssueCertificate";
const HEARTBEAT = "/rbs.v1.Orchestrator/Heartbeat";

type Known = Credentials | Pick<Credentials, "authorities" | "trustDomain">;

/** See testing/rpc_victim.ts. */
class Victim implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #said: LineReader;
  #before = 0;
  #most = 0;
  port = 0;
  stranger!: Known;
  ann!: Credentials;
  bob!: Credentials;

  private constructor() {
    this.#child = new Deno.Command(Deno.execPath(), {
      args: ["run", "--quiet", "--allow-all", new URL("../../testing/rpc_victim.ts", import.meta.url).pathname],
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    this.#said = new LineReader(this.#child.stdout);
  }

  static async start(): Promise<Victim> {
    const victim = new Victim();
    const said = await victim.#said.next() ?? assert.fail("the server ended");
    Object.assign(victim, JSON.parse(said));
    // What a first call needs is no growth.
    for (let i = 0; i < 100; i++) await victim.heartbeat();
    await victim.login();
    victim.#before = victim.#most = victim.#memory();
    return victim;
  }

  #memory(): number {
    return 1024 * Number(/^VmRSS:\s+(\d+) kB/m.exec(Deno.readTextFileSync(`/proc/${this.#child.pid}/status`))![1]);
  }

  /** By how much it has grown at the most, as far as it was looked at. */
  get growth(): number {
    this.#most = Math.max(this.#most, this.#memory());
    return this.#most - this.#before;
  }

  /** A user's call, on a connection of its own. */
  async heartbeat(credentials: Credentials = this.bob): Promise<void> {
    const tls = { credentials, expected: { kind: "orchestrator" } } as const;
    using client = createRpcClient(Orchestrator, `127.0.0.1:${this.port}`, { tls });
    assert.equal((await client.heartbeat({}, { timeoutMs: 20_000 })).intervalSeconds, 7);
  }

  /** An honest stranger's call. */
  async login(): Promise<void> {
    const tls = { credentials: this.stranger, expected: { kind: "orchestrator" } } as const;
    using client = createRpcClient(IdentityService, `127.0.0.1:${this.port}`, { tls });
    const request = { token: "good", certificateRequest: new Uint8Array(300) };
    assert.equal((await client.issueCertificate(request, { timeoutMs: 20_000 })).certificate, "a certificate");
  }

  /** Runs an attack to its end, while honest callers are answered. */
  async endures(attack: Promise<unknown>, most = MAX_GROWTH): Promise<void> {
    let over = false;
    const ended = attack.finally(() => over = true);
    ended.catch(() => {/* thrown below */});
    do {
      await Promise.all([this.heartbeat(), this.login()]);
      const { growth } = this;
      assert(growth < most, `it has grown by ${growth >> 20} MB`);
    } while (!over);
    await ended;
    await Promise.all([this.heartbeat(), this.login()]);
  }

  /** A connection after its handshake, with nothing said. */
  async connect(credentials: Known = this.stranger): Promise<SocketTransport> {
    const { authorities: ca } = credentials;
    const own = "certificate" in credentials ? { cert: credentials.certificate, key: credentials.privateKey } : {};
    const socket = connect({
      port: this.port,
      host: "127.0.0.1",
      servername: ORCHESTRATOR_NAME,
      ALPNProtocols: [HTTP_2],
      ca,
      ...own,
    });
    const transport = new SocketTransport(socket);
    await new Promise((resolve, reject) => socket.on("secureConnect", resolve).on("error", reject));
    return transport;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#child.stdin.close().catch(() => {});
    this.#said.close();
    await this.#child.status;
  }
}

function test(promise: string, fn: (victim: Victim) => Promise<void>): void {
  Deno.test({
    name: `strangers: ${promise}`,
    fn: async () => {
      await using victim = await Victim.start();
      await fn(victim);
    },
    // gRPC's channels close a moment after they are told to.
    sanitizeOps: false,
    sanitizeResources: false,
  });
}

const times = <T>(count: number, make: (i: number) => T) => Array.from({ length: count }, (_, i) => make(i));

/** A body of one message, short of its last byte. */
function shortOfAByte(bytes: number): Buffer {
  const body = Buffer.alloc(5 + bytes - 1, 1);
  body[0] = 0;
  body.writeUInt32BE(bytes, 1);
  return body;
}

/** How long nothing moves before an attack has come to an end against the peer's windows. Milliseconds. */
const STALLED_MS = 1_000;

/** Sends to its end what a peer takes, or until it is stalled. Resolves with how many bytes that were. */
async function sendAll(
  connection: Http2Connection,
  path: string,
  bodies: Buffer[],
  watch: (stream: Stream) => void = () => {},
): Promise<number> {
  let sent = 0;
  const all = Promise.all(bodies.map(async (body) => {
    const stream = connection.request(callHeaders("localhost", path));
    watch(stream);
    for (let at = 0; at < body.length && !stream.localClosed; at += CHUNK_BYTES) {
      const chunk = body.subarray(at, at + CHUNK_BYTES);
      await Promise.race([stream.write(chunk), stream.closed]);
      if (!stream.localClosed) sent += chunk.length;
    }
  }));
  const stalled = (async () => {
    for (let before = -1; before < sent;) {
      before = sent;
      await new Promise((resolve) => setTimeout(resolve, STALLED_MS));
    }
  })();
  await Promise.race([connection.closed, all, stalled]);
  return sent;
}

test("requests that lack their last byte are not gathered", async (victim) => {
  await victim.endures(Promise.all(times(6, async () => {
    const connection = new Http2Connection(await victim.connect(), { role: "client" });
    const sent = await sendAll(connection, ISSUE, times(8, () => shortOfAByte(4 << 20)));
    assert(sent < 4 << 20, `${sent} bytes were taken`);
    connection.close();
  })));
});

test("nor are they of a caller that does not keep to the windows", async (victim) => {
  await victim.endures(Promise.all(times(3, async () => {
    const peer = new RawPeer(await victim.connect());
    const head = encodeHeaders(callHeaders("localhost", ISSUE));
    const data = shortOfAByte(4 << 20);
    const requests = times(6, (i) => [
      encodeFrame(FrameType.HEADERS, Flag.END_HEADERS, 2 * i + 1, head),
      ...times(256, (j) => encodeFrame(FrameType.DATA, 0, 2 * i + 1, data.subarray(j << 14, (j + 1) << 14))),
    ]);
    let whole = false;
    const sent = (async () => {
      await peer.send(PREFACE, settingsFrame([]));
      for (const frames of requests.flat()) await peer.send(frames);
      whole = true;
    })().catch(() => {});
    await Promise.race([sent, peer.goaway()]);
    assert(!whole, "all was taken");
    peer.transport.close();
  })));
});

/** One header of 4 kB, named 12,000 times in 12 kB. */
function bomb(): Buffer {
  const value = Buffer.alloc(4000, "v");
  // A literal that goes into the table (RFC 7541, 6.2.1), then its index there.
  const literal = [Buffer.from([0x40, 1]), Buffer.from("x"), Buffer.from([0x7f, 0xa1, 0x1e]), value];
  return Buffer.concat([encodeHeaders(callHeaders("localhost", ISSUE)), ...literal, Buffer.alloc(12_000, 0xbe)]);
}

test("a header that is named again and again costs its caller the connection", async (victim) => {
  await victim.endures(Promise.all(times(20, async () => {
    const peer = new RawPeer(await victim.connect());
    await peer.send(PREFACE, settingsFrame([]));
    await peer.send(encodeFrame(FrameType.HEADERS, Flag.END_HEADERS, 1, bomb()));
    assert.notEqual(await peer.goaway(), undefined);
    peer.transport.close();
  })));
});

test("of calls that have headers only, no connection gets many", async (victim) => {
  const head = encodeHeaders(callHeaders("localhost", ISSUE));
  await victim.endures(Promise.all(times(10, async () => {
    const peer = new RawPeer(await victim.connect());
    const streams = times(5_000, (i) => encodeFrame(FrameType.HEADERS, Flag.END_HEADERS, 2 * i + 1, head));
    const sent = peer.send(PREFACE, settingsFrame([]), ...streams).catch(() => {});
    await peer.goaway(); // or the end without one
    peer.transport.close();
    await sent;
  })));
});

test("what one who is known holds is bounded as well, and is no other's trouble", async (victim) => {
  const connection = new Http2Connection(await victim.connect(victim.ann), { role: "client" });
  let refused = 0;
  const watch = (stream: Stream) =>
    void readCall(stream, () => {}).then(({ code }) => refused += Number(code === Status.RESOURCE_EXHAUSTED));
  // More of it is garbage here, since much is taken and refused.
  await victim.endures(sendAll(connection, HEARTBEAT, times(8, () => shortOfAByte(4 << 20)), watch), 2 * MAX_GROWTH);
  assert(refused > 0, "all of it is held");
  assert(refused < 8, "nothing is held");
  connection.close();
  await victim.heartbeat(victim.ann);
});
