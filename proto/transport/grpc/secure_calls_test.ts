/** Calls over mutual TLS behave like calls in plain text. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import type { Stream } from "../http2/stream.ts";
import type { Headers } from "../http2/hpack.ts";
import type { Identity } from "../../identity/spiffe.ts";
import { TestAuthority } from "../../testing/certificates.ts";
import { random } from "../../testing/pipe.ts";
import { eventually } from "../../../tests/support/eventually.ts";
import { TlsListener } from "../tls/listener.ts";
import { type ServerCall, Status, StatusError, unaryRequest } from "./calls.ts";
import { Connection } from "./channel.ts";
import { requestMessages } from "./messages.ts";
import { listenForCalls } from "./server.ts";

const AGENT = { kind: "agent", agentId: "a".repeat(32) } as const;
const MB = 1 << 20;

const authority = await TestAuthority.make();
const agent = await authority.identify(AGENT);

/** A server, and a maker of connections to it. */
async function listen(serve: (stream: Stream, headers: Headers, call: ServerCall) => Promise<void>) {
  const listener = await TlsListener.listen({ hostname: "127.0.0.1", credentials: agent });
  const server = listenForCalls(listener, serve, () => {}, { keepAlive: true });
  const connections: Connection[] = [];
  return {
    async connect(identity: Identity, expected: Identity = AGENT): Promise<Connection> {
      const credentials = await authority.identify(identity);
      const tls = { credentials: () => credentials, expected };
      const connection = new Connection("127.0.0.1", server.port, { keepAlive: true, tls });
      connections.push(connection);
      return connection;
    },
    async [Symbol.asyncDispose]() {
      for (const connection of connections) connection.close();
      server.close();
      await new Promise((resolve) => setTimeout(resolve, 10));
    },
  };
}

Deno.test("by TLS, each call knows who calls, on connections that are open at the same time", async () => {
  await using server = await listen(async (stream, _, call) => {
    await unaryRequest(stream, 100);
    call.write(new TextEncoder().encode(JSON.stringify(call.caller.identity)));
    call.end();
  });
  const identities: Identity[] = [{ kind: "user", userId: "ann" }, { kind: "user", userId: "bob" }, {
    kind: "orchestrator",
  }];
  const connections = await Promise.all(identities.map((identity) => server.connect(identity)));
  for (let i = 0; i < 9; i++) {
    const answer = await connections[i % 3].unary("/s/Who", new Uint8Array());
    assert.deepEqual(JSON.parse(new TextDecoder().decode(answer.data)), identities[i % 3]);
  }
});

Deno.test("by TLS, a call to another than the expected is UNAUTHENTICATED, and nobody gets it", async () => {
  let calls = 0;
  await using server = await listen((_stream, _, call) => {
    calls++;
    call.end();
    return Promise.resolve();
  });
  const connection = await server.connect({ kind: "user", userId: "ann" }, {
    kind: "agent",
    agentId: "b".repeat(32),
  });
  const { code, message } = await connection.unary("/s/M", new Uint8Array());
  assert.equal(code, Status.UNAUTHENTICATED);
  assert.match(message, /^it is not spiffe:/);
  await assert.rejects(connection.call("/s/M"), (e) => e instanceof StatusError && e.code === Status.UNAUTHENTICATED);
  assert.equal(calls, 0);
});

Deno.test("by TLS, 100 MB go each way at the same time, and arrive as they were", async () => {
  const below = random(3);
  const piece = Uint8Array.from({ length: MB }, () => below(256));
  /** Piece `i` is the random one, turned by `i`. */
  const pieceOf = (i: number) => {
    const turned = new Uint8Array(MB);
    turned.set(piece.subarray(i));
    turned.set(piece.subarray(0, i), MB - i);
    return turned;
  };
  const sent = createHash("sha256");
  for (let i = 0; i < 100; i++) sent.update(pieceOf(i));
  const expected = sent.digest("hex");
  const send = async (write: (message: Uint8Array) => Promise<void> | undefined) => {
    for (let i = 0; i < 100; i++) await write(pieceOf(i));
  };
  const take = async (messages: AsyncIterable<Uint8Array>) => {
    const hash = createHash("sha256");
    for await (const message of messages) hash.update(message);
    return hash.digest("hex");
  };
  let atServer = "";
  await using server = await listen(async (stream, _, call) => {
    [atServer] = await Promise.all([
      take(requestMessages(stream, 2 * MB)),
      send((message) => call.write(message)),
    ]);
    call.end();
  });
  const call = await (await server.connect({ kind: "user", userId: "ann" })).call("/s/Both");
  const [atClient] = await Promise.all([
    take(call.responses()),
    send((message) => call.send(message)).then(() => call.end()),
  ]);
  assert.equal(atClient, expected);
  assert.equal(atServer, expected);
});

Deno.test("by TLS, a message of 60 MB goes each way", async () => {
  await using server = await listen(async (stream, _, call) => {
    for await (const message of requestMessages(stream, 64 * MB)) await call.write(message);
    call.end();
  });
  const call = await (await server.connect({ kind: "user", userId: "ann" })).call("/s/Echo");
  const message = new Uint8Array(60 * MB);
  for (let i = 0; i < message.length; i += 4097) message[i] = i;
  void call.send(message);
  call.end();
  for await (const echo of call.responses()) assert.ok(echo.equals(message));
});

Deno.test("by TLS, a reader that pauses holds the writer back within the stream's window, and others go on", async () => {
  const written = { down: 0, up: 0 };
  let resume = () => {};
  const paused = new Promise<void>((resolve) => resume = resolve);
  await using server = await listen(async (stream, headers, call) => {
    if (headers[":path"] === "/s/Down") {
      for (; written.down < 100; written.down++) await call.write(new Uint8Array(MB));
    } else if (headers[":path"] === "/s/Up") {
      for await (const _ of requestMessages(stream, 2 * MB)) await paused;
    } else call.write((await unaryRequest(stream, 100)).slice());
    call.end();
  });
  const connection = await server.connect({ kind: "user", userId: "ann" });
  const down = await connection.call("/s/Down"), up = await connection.call("/s/Up");
  down.end();
  const sending = (async () => {
    for (; written.up < 100; written.up++) await up.send(new Uint8Array(MB));
    up.end();
  })();
  let before = -1;
  // No event tells that both are held back: nothing more has been sent at a second look.
  await eventually(async () => {
    const now = written.down + written.up;
    await new Promise((resolve) => setTimeout(resolve, 200));
    const still = now === before;
    before = now;
    return still;
  });
  assert.ok(written.down < 20 && written.up < 20, JSON.stringify(written));
  assert.equal((await connection.unary("/s/Echo", new Uint8Array([1, 2]))).data.length, 2);
  resume();
  let bytes = 0;
  for await (const message of down.responses()) bytes += message.length;
  assert.equal(bytes, 100 * MB);
  await sending;
  for await (const _ of up.responses());
});
