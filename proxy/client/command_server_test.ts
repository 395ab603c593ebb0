import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { encodeFrame, ErrorCode, Flag, FrameType, PREFACE, settingsFrame } from "../../proto/transport/http2/frames.ts";
import { encodeHeaders, HpackDecoder } from "../../proto/transport/http2/hpack.ts";
import { Status } from "../../proto/transport/grpc/calls.ts";
import { encodeFields } from "../../proto/base/protobuf_fields.ts";
import { RawPeer } from "../../proto/testing/pipe.ts";
import { eventually } from "../../tests/support/eventually.ts";
import { startCommandServer } from "./command_server.ts";
import type { Commands } from "../commands/commands.ts";
import { BazelClient } from "../testing/agent.ts";

const cookies = { requestCookie: "ask", responseCookie: "answer" };

/** A command server whose commands are not loaded until the test says so. */
function server() {
  const loaded = Promise.withResolvers<Commands>();
  let pings = 0;
  const listening = startCommandServer(cookies, loaded.promise, () => pings++);
  const client = new BazelClient(listening.port, "ask");
  return {
    load: (commands: Partial<Commands>) => loaded.resolve({ expect() {}, ...commands } as Commands),
    client,
    pings: () => pings,
    async [Symbol.asyncDispose]() {
      client[Symbol.dispose]();
      listening.close();
      await new Promise((r) => setTimeout(r, 0));
    },
  };
}

Deno.test("Ping is answered before the commands are loaded, and Run waits for them", async () => {
  await using s = server();
  const run = await s.client.run(["build"]);
  const ping = await s.client.call("Ping");
  assert.deepEqual([ping.code, ping.data], [0, encodeFields([[1, "answer"]])]);
  await eventually(() => s.pings() === 1);
  assert.deepEqual(run.responses, []);
  s.load({
    run: (message, headers, call) => {
      assert.equal(headers[":path"], "/command_server.CommandServer/Run");
      assert.ok(message.includes("build"));
      call.write(encodeFields([[4, true], [5, 7]]));
      call.end();
      return Promise.resolve();
    },
  });
  assert.equal((await run.ended).exitCode, 7);
});

Deno.test("Cancel is acknowledged before the commands are loaded, and is not forgotten", async () => {
  await using s = server();
  const { code, data } = await s.client.call("Cancel", "id");
  assert.deepEqual([code, data], [0, encodeFields([[1, "answer"]])]);
  const cancelled = Promise.withResolvers<Uint8Array>();
  s.load({ cancel: cancelled.resolve });
  assert.deepEqual(await cancelled.promise, encodeFields([[1, "ask"], [2, "id"]]));
});

Deno.test("a wrong cookie, or none, is refused for every method, and other paths are unknown", async () => {
  await using s = server();
  for (const method of ["Ping", "Run", "Cancel", "Future"]) {
    for (const cookie of ["wrong", "", "ask "]) {
      assert.equal((await s.client.call(method, "", cookie)).code, Status.UNAUTHENTICATED);
    }
  }
  const { code, message } = await s.client.connection.unary("/other.Service/Ping", encodeFields([[1, "ask"]]));
  assert.deepEqual([code, /no method/.test(message)], [Status.UNIMPLEMENTED, true]);
});

Deno.test("requests that are no messages are refused", async () => {
  await using s = server();
  const refused = await s.client.connection.unary("/command_server.CommandServer/Ping", Uint8Array.of(0x0a, 0xff));
  assert.equal(refused.code, Status.INVALID_ARGUMENT);
});

Deno.test("a request of 60 MB passes, one larger than the limit is refused before it is read", async () => {
  await using s = server();
  const large = Buffer.concat([encodeFields([[1, "ask"]]), encodeFields([[2, Buffer.alloc(60 << 20)]])]);
  assert.equal((await s.client.connection.unary("/command_server.CommandServer/Ping", large)).code, 0);
  const stream = await s.client.connection.start("/command_server.CommandServer/Ping", Buffer.alloc(0));
  stream.reset(ErrorCode.CANCEL);
  const raw = stream.connection.request({ ":method": "POST", ":path": "/command_server.CommandServer/Run" });
  let status: string | undefined;
  raw.onHeaders = (headers) => status ??= headers["grpc-status"];
  await raw.write(Buffer.from([0, 5, 0, 0, 0])); // 80 MB, but no byte of them
  await raw.closed;
  assert.equal(status, String(Status.RESOURCE_EXHAUSTED));
});

const RUN = "/command_server.CommandServer/Run";
const headers = (id: number, path = RUN) =>
  encodeFrame(FrameType.HEADERS, Flag.END_HEADERS, id, encodeHeaders({ ":method": "POST", ":path": path }));
const data = (id: number, bytes: Uint8Array, flags = 0) => encodeFrame(FrameType.DATA, flags, id, bytes);

/** The first bytes of a gRPC message that never comes to its end. */
function beginning(length: number, message: Uint8Array): Buffer {
  const prefix = Buffer.alloc(5);
  prefix.writeUInt32BE(length, 1);
  return Buffer.concat([prefix, message]);
}

/** A connection by hand. It reads nothing by itself. */
async function raw(port: number) {
  const tcp = await Deno.connect({ hostname: "127.0.0.1", port });
  const peer = new RawPeer(tcp);
  await peer.send(PREFACE, settingsFrame([]));
  return {
    peer,
    [Symbol.dispose]() {
      try {
        tcp.close();
      } catch { /* closed before */ }
    },
  };
}

/** How much this process has grown at the most while something ran, in bytes. */
async function growth(run: () => Promise<void>): Promise<number> {
  const before = Deno.memoryUsage().rss;
  let most = before;
  const timer = setInterval(() => most = Math.max(most, Deno.memoryUsage().rss), 10);
  try {
    await run();
  } finally {
    clearInterval(timer);
  }
  return most - before;
}

Deno.test("48 requests of 64 MB short of a byte, without the cookie: little is taken, less is kept, and clients go on", async () => {
  await using s = server();
  assert.equal((await s.client.call("Ping")).code, 0);
  const chunk = Buffer.alloc(16_000);
  let sent = 0;
  const grown = await growth(async () => {
    for (let connections = 0; connections < 20; connections++) {
      using attacker = await raw(s.client.port);
      void (async () => {
        while (await attacker.peer.next());
      })();
      const ids = Array.from({ length: 48 }, (_, i) => 2 * i + 1);
      try {
        // One endless field before the cookie.
        const begin = beginning(64 << 20, Buffer.from([0x12, 0xf0, 0xff, 0xff, 0x1f]));
        for (const id of ids) await attacker.peer.send(headers(id), data(id, begin));
        for (let i = 0; i < 100; i++) {
          for (const id of ids) {
            await attacker.peer.send(data(id, chunk));
            sent += chunk.length;
          }
        }
      } catch { /* cut off */ }
      assert.equal((await s.client.call("Ping")).code, 0);
    }
  });
  // What the kernel holds is sent, too: some MB for each connection.
  assert.ok(sent < 20 * (10 << 20), `${sent} bytes were sent`);
  assert.ok(grown < 50 << 20, `the proxy has grown by ${grown} bytes`);
});

Deno.test("connections that say nothing are closed when there are many, cost little, and clients go on", async () => {
  await using s = server();
  const open: Deno.TcpConn[] = [];
  let closed = 0;
  using _ = {
    [Symbol.dispose]() {
      for (const tcp of open) tcp.close();
    },
  };
  const grown = await growth(async () => {
    // Some hundred more than may wait.
    for (let i = 0; i < 3600; i++) {
      const tcp = await Deno.connect({ hostname: "127.0.0.1", port: s.client.port });
      open.push(tcp);
      void (async () => {
        const buffer = new Uint8Array(100);
        while (await tcp.read(buffer).catch(() => null) !== null);
        closed++;
      })();
      if (i % 100 === 0) assert.equal((await s.client.call("Ping")).code, 0);
    }
    using late = new BazelClient(s.client.port, "ask");
    assert.equal((await late.call("Ping")).code, 0);
    await eventually(() => closed >= 400);
  });
  assert.ok(grown < 50 << 20, `the proxy has grown by ${grown} bytes`);
});

Deno.test("a wrong cookie is refused by its own bytes, while the request is still on its way", async () => {
  await using s = server();
  using attacker = await raw(s.client.port);
  await attacker.peer.send(headers(1), data(1, beginning(60 << 20, encodeFields([[1, "wrong"]]))));
  const decoder = new HpackDecoder();
  let status: string | undefined;
  // In the trailers, which are the only headers if nothing was answered before.
  while (status === undefined) {
    const answer = await attacker.peer.nextOf(FrameType.HEADERS);
    assert.ok(answer, "the connection was cut");
    status = decoder.decode(answer.payload)["grpc-status"];
  }
  assert.equal(status, String(Status.UNAUTHENTICATED));
});

Deno.test("who has shown the cookie may send a request of many windows on a new connection, by a method of a newer client", async () => {
  await using s = server();
  const forwarded = Promise.withResolvers<[string, number]>();
  s.load({
    forward: (path, message) => forwarded.resolve([path, message.length]),
  });
  using client = await raw(s.client.port);
  let window = 65_535, connection = 65_535, initial = 65_535, granted = () => {};
  void (async () => {
    for (let frame = await client.peer.next(); frame; frame = await client.peer.next()) {
      if (frame.type === FrameType.WINDOW_UPDATE) {
        if (frame.stream === 0) connection += frame.payload.readUInt32BE();
        else window += frame.payload.readUInt32BE();
      } else if (frame.type === FrameType.SETTINGS && !(frame.flags & Flag.ACK)) {
        const value = frame.payload.readUInt32BE(8); // the second one: the initial window
        window += value - initial;
        initial = value;
      }
      granted();
    }
  })();
  const message = Buffer.concat([encodeFields([[1, "ask"]]), encodeFields([[2, Buffer.alloc(20 << 20)]])]);
  const body = beginning(message.length, message);
  await client.peer.send(headers(1, "/command_server.CommandServer/UpdateTerminalSize"));
  for (let at = 0; at < body.length;) {
    const size = Math.min(16_384, window, connection, body.length - at);
    if (size === 0) {
      await new Promise<void>((resolve) => granted = resolve);
      continue;
    }
    await client.peer.send(
      data(1, body.subarray(at, at + size), at + size === body.length ? Flag.END_STREAM : 0),
    );
    window -= size;
    connection -= size;
    at += size;
  }
  assert.deepEqual(await forwarded.promise, ["/command_server.CommandServer/UpdateTerminalSize", message.length]);
});

Deno.test("a connection is not taken for a command's beginning while there are many of them", async () => {
  await using s = server();
  let expected = 0;
  s.load({ expect: () => void expected++ });
  const open: Disposable[] = [];
  for (let i = 0; i < 50; i++) {
    const attacker = await raw(s.client.port);
    open.push(attacker);
    await attacker.peer.nextOf(FrameType.SETTINGS);
  }
  assert.equal((await s.client.call("Ping")).code, 0);
  for (const attacker of open) attacker[Symbol.dispose]();
  assert.ok(expected <= 5, `${expected} times`);
});
