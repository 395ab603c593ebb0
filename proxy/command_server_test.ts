import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { ErrorCode } from "../proto/http2/frames.ts";
import { Status } from "../proto/relay/calls.ts";
import { encodeFields } from "../proto/relay/wire.ts";
import { eventually } from "../proto/testing/pipe.ts";
import { startCommandServer } from "./command_server.ts";
import type { Commands } from "./commands.ts";
import { BazelClient } from "./testing/agent.ts";

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
