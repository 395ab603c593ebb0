/**
 * `tls_agent.ts`: a command port in plain text and one by mutual TLS, as a program, for the benchmark. Reads its
 * credentials, as a line of JSON, from standard input, and prints its ports, a {@link Ports}; ends with that input.
 */
import type { Credentials } from "../../proto/identity/credentials.ts";
import { StatusError, unaryRequest } from "../../proto/transport/grpc/calls.ts";
import { requestMessages } from "../../proto/transport/grpc/messages.ts";
import { TlsListener } from "../../proto/transport/tls/listener.ts";
import { type CallHandler, listenForProxy } from "../../agent/commands/command_port.ts";

/** Where it listens. */
export interface Ports {
  plain: number;
  tls: number;
}

/** What /bench.Tls/Down and /bench.Tls/Up carry: so many messages of so many bytes. */
export const MESSAGES = 200, BYTES = 1 << 20;

if (import.meta.main) {
  const handlers: Record<string, CallHandler> = {
    "/bench.Tls/Echo": async (stream, _, call) => {
      call.write((await unaryRequest(stream, 1 << 16)).slice());
      call.end();
    },
    "/bench.Tls/Down": async (_stream, _headers, call) => {
      const message = new Uint8Array(BYTES);
      for (let i = 0; i < MESSAGES; i++) await call.write(message, () => {});
      call.end();
    },
    "/bench.Tls/Up": async (stream, _, call) => {
      for await (const _ of requestMessages(stream, 2 * BYTES, { lends: true }));
      call.end();
    },
  };
  const parts = {
    gate: { admit() {} },
    handlers,
    relay: () => Promise.reject(new StatusError(12, "There is no Bazel here.")),
    onError: (what: string, error: unknown) => console.error(what, error),
  };
  let said = "";
  for await (const text of Deno.stdin.readable.pipeThrough(new TextDecoderStream())) {
    said += text;
    if (!said.endsWith("\n")) continue;
    const credentials: Credentials = JSON.parse(said);
    const listener = await TlsListener.listen({ hostname: "127.0.0.1", credentials });
    const ports = {
      plain: listenForProxy({ ...parts, at: "127.0.0.1" }).port,
      tls: listenForProxy({ ...parts, at: listener }).port,
    };
    console.log(JSON.stringify(ports satisfies Ports));
  }
  Deno.exit(0);
}
