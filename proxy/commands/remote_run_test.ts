import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { ExecuteRequestSchema, ExecuteResponseSchema } from "../../proto/contract/gen/rbs/v1/command_pb.ts";
import { type ServerCall, Status, StatusError } from "../../proto/transport/grpc/calls.ts";
import { Connection } from "../../proto/transport/grpc/channel.ts";
import { requestMessages } from "../../proto/transport/grpc/messages.ts";
import type { Listener } from "../../proto/transport/listener.ts";
import { listenForCalls } from "../../proto/transport/grpc/server.ts";
import { encodeFields } from "../../proto/base/protobuf_fields.ts";
import { TestAuthority } from "../../proto/testing/certificates.ts";
import { eventually } from "../../tests/support/eventually.ts";
import type { TlsClientOptions } from "../../proto/transport/tls/client.ts";
import { TlsListener } from "../../proto/transport/tls/listener.ts";
import { type RemoteCommand, runRemotely } from "./remote_run.ts";
import { TestLink } from "../testing/link.ts";

/** A command at an agent that numbers its responses, keeps them all, and says `total` of them. */
class NumberedAgent implements Disposable {
  readonly server;
  /** The `received` of each start. */
  readonly starts: number[] = [];
  acknowledged = 0;
  cancels = 0;
  said = 0;
  /** What each response holds. */
  size = 1000;
  readonly #calls = new Set<ServerCall>();

  constructor(readonly total: number, at: string | Listener = "127.0.0.1") {
    this.server = listenForCalls(
      at,
      async (stream, _, call) => {
        this.#calls.add(call);
        call.gone.addEventListener("abort", () => this.#calls.delete(call));
        for await (const bytes of requestMessages(stream, 1 << 20)) {
          const { message } = fromBinary(ExecuteRequestSchema, bytes);
          if (message.case === "acknowledge") this.acknowledged = Number(message.value);
          if (message.case === "cancel") this.cancels++;
          if (message.case !== "start") continue;
          this.starts.push(Number(message.value.received));
          for (let i = this.starts.at(-1)! + 1; i <= this.said; i++) call.write(this.#response(i));
        }
        call.end();
      },
      () => {},
      { keepAlive: true },
    );
  }

  /** The calls that are open. */
  get calls(): number {
    return this.#calls.size;
  }

  /** Says the next `count` things to whoever listens. */
  say(count: number): void {
    for (; count > 0 && this.said < this.total; count--) {
      const response = this.#response(++this.said);
      for (const call of this.#calls) call.write(response);
    }
  }

  #response(i: number): Uint8Array {
    const run = encodeFields([[2, Buffer.alloc(this.size, i)], [4, i === this.total], [6, "remote id"]]);
    return toBinary(
      ExecuteResponseSchema,
      create(ExecuteResponseSchema, { sequence: BigInt(i), message: { case: "runResponse", value: run } }),
    );
  }

  [Symbol.dispose](): void {
    this.server.close();
  }
}

/** A command through a link, and what it said. */
function running(
  agent: { server: { port: number } },
  { tls, ...options }: Partial<RemoteCommand> & { tls?: TlsClientOptions } = {},
) {
  const link = new TestLink(agent.server.port);
  const connection = new Connection("127.0.0.1", link.port, { keepAlive: true, tls });
  const cancelled = new AbortController(), gone = new AbortController();
  const seen: number[] = [], said: string[] = [];
  const outcome = runRemotely({
    id: "0f0f",
    request: Buffer.from("request"),
    link: { name: "the agent", connection, synced: false, missingInstallBase: "", headers: () => ({}) },
    headers: {},
    cancelled: cancelled.signal,
    gone: gone.signal,
    isCurrent: () => true,
    say: (text) => void said.push(text),
    onResponse: (response) => {
      seen.push(response[response.indexOf(0x12) + 3]);
      return undefined;
    },
    onOutputs: () => {},
    onNamed: () => undefined,
    ...options,
  });
  return {
    link,
    connection,
    cancelled,
    gone,
    seen,
    said,
    outcome,
    [Symbol.dispose]() {
      connection.close();
      link[Symbol.dispose]();
    },
  };
}

const authority = await TestAuthority.make();
const AGENT = { kind: "agent", agentId: "a".repeat(32) } as const;
const ann = await authority.identify({ kind: "user", userId: "ann" });
const agentCredentials = await authority.identify(AGENT);

/** A way to the agent. */
interface Way {
  listen(): Promise<string | Listener>;
  tls?: TlsClientOptions;
}

const PLAIN: Way = { listen: () => Promise.resolve("127.0.0.1") };
const SECURE: Way = {
  listen: () => TlsListener.listen({ hostname: "127.0.0.1", credentials: agentCredentials }),
  tls: { credentials: () => ann, expected: AGENT },
};

/** A promise that holds in plain text and by TLS alike. */
function testBoth(name: string, body: (way: Way) => Promise<void>): void {
  Deno.test(name, () => body(PLAIN));
  Deno.test(`by TLS, ${name}`, () => body(SECURE));
}

const upTo = (n: number) => Array.from({ length: n }, (_, i) => i + 1);

testBoth("a link that is cut again and again loses no response and doubles none", async (way) => {
  using agent = new NumberedAgent(50, await way.listen());
  using run = running(agent, { tls: way.tls });
  await eventually(() => agent.starts.length === 1);
  for (let cut = 0; agent.said < 50; cut++) {
    agent.say(7);
    // In the middle of a response, and in the middle of nothing.
    run.link.cutAt = run.link.received + (cut % 2 === 0 ? 3_333 : 1);
    await eventually(() => agent.starts.length > cut + 1 || agent.said === 50);
  }
  assert.deepEqual(await run.outcome, { kind: "finished" });
  assert.deepEqual(run.seen, upTo(50));
  assert.ok(agent.starts.length > 3, `${agent.starts}`);
});

testBoth(
  "a peer that falls silent is noticed within 10 s, and the command goes on over a new connection",
  async (way) => {
    using agent = new NumberedAgent(4, await way.listen());
    using run = running(agent, { tls: way.tls });
    await eventually(() => agent.starts.length === 1);
    agent.say(2);
    await eventually(() => run.seen.length === 2);
    const began = performance.now();
    run.link.silence();
    agent.say(1);
    // The first connection stays dead; whoever connects anew gets through.
    setTimeout(() => run.link.heal(), 5_000);
    await eventually(() => agent.starts.length === 2, "the proxy comes back", 20_000);
    assert.ok(performance.now() - began < 10_000, `${performance.now() - began} ms`);
    agent.say(1);
    assert.deepEqual(await run.outcome, { kind: "finished" });
    assert.deepEqual(run.seen, upTo(4));
  },
);

Deno.test("what has arrived is acknowledged soon, and at the end at once", async () => {
  using agent = new NumberedAgent(3);
  using run = running(agent);
  await eventually(() => agent.starts.length === 1);
  agent.say(2);
  await eventually(() => agent.acknowledged === 2);
  agent.say(1);
  await run.outcome;
  await eventually(() => agent.acknowledged === 3);
});

testBoth("an agent that is gone in mid-command breaks it; one that never had it is stale", async (way) => {
  const agent = new NumberedAgent(3, await way.listen());
  using run = running(agent, { tls: way.tls });
  await eventually(() => agent.starts.length === 1);
  agent.say(1);
  await eventually(() => run.seen.length === 1);
  const { port } = run.link;
  run.link[Symbol.dispose]();
  agent[Symbol.dispose]();
  const outcome = await run.outcome;
  assert.equal(outcome.kind, "broken");
  assert.match((outcome as { why: string }).why, /^The agent at the agent was lost in mid-command \(.*refused.*\)\.$/);
  const connection = new Connection("127.0.0.1", port, { tls: way.tls });
  using other = running({ server: { port } }, {
    link: { name: "nobody", connection, synced: false, missingInstallBase: "", headers: () => ({}) },
  });
  assert.equal((await other.outcome).kind, "stale");
});

testBoth("Ctrl-C while the agent cannot be reached ends the command, and reaches the agent later", async (way) => {
  using agent = new NumberedAgent(3, await way.listen());
  using run = running(agent, { tls: way.tls });
  await eventually(() => agent.starts.length === 1);
  agent.say(1);
  await eventually(() => run.seen.length === 1);
  run.link.down();
  run.cancelled.abort();
  assert.deepEqual(await run.outcome, { kind: "cancelled" });
  assert.match(run.said.join(""), /interrupted; the agent at the agent cannot be reached just now/);
  assert.equal(agent.cancels, 0);
  run.link.heal();
  await eventually(() => agent.cancels > 0, "the cancel arrives", 20_000);
  agent.say(2);
});

Deno.test("an agent that leaves a response out, or says one twice, is not believed", async () => {
  for (const sequence of [0n, 2n]) {
    const server = listenForCalls("127.0.0.1", async (stream, _, call) => {
      for await (const _ of requestMessages(stream, 1 << 20)) {
        call.write(toBinary(
          ExecuteResponseSchema,
          create(ExecuteResponseSchema, {
            sequence,
            message: { case: "runResponse", value: new Uint8Array([0x20, 1]) },
          }),
        ));
        break;
      }
    }, () => {});
    using run = running({ server });
    const outcome = await run.outcome;
    assert.match((outcome as { why: string }).why, /sent what is no response \(response \d came where 1 was due\)/);
    server.close();
  }
});

Deno.test("a command whose response this machine cannot take is given up at the agent, too", async () => {
  const failures: Partial<RemoteCommand>[] = [
    { onResponse: () => Promise.reject(new Error("the disk is full")) },
    {
      onResponse: () => {
        throw new Error("the disk is full");
      },
    },
  ];
  for (const failure of failures) {
    using agent = new NumberedAgent(5);
    using run = running(agent, failure);
    const failed = assert.rejects(run.outcome, /the disk is full/);
    await eventually(() => agent.starts.length === 1);
    assert.equal(agent.calls, 1);
    agent.say(1);
    await failed;
    // While the connection is still there.
    await eventually(() => agent.calls === 0);
  }
});

Deno.test("an agent that runs nothing says why: another epoch, or another workspace", async () => {
  for (const reason of ["epoch", "generation", "changed"]) {
    const refusal = new StatusError(Status.FAILED_PRECONDITION, "no", { "rbs-reason": reason });
    const server = listenForCalls("127.0.0.1", () => Promise.reject(refusal), () => {});
    using run = running({ server });
    assert.deepEqual(await run.outcome, {
      ...{ kind: "stale", why: "no", generation: reason !== "epoch", changed: reason === "changed" },
    });
    server.close();
  }
});

Deno.test("an agent that can have no Bazel server says why, before anything was run", async () => {
  const refusal = new StatusError(Status.INTERNAL, "It is another version.", { "rbs-reason": "no-server" });
  const server = listenForCalls("127.0.0.1", () => Promise.reject(refusal), () => {});
  using run = running({ server });
  assert.deepEqual(await run.outcome, { kind: "no server", why: "It is another version." });
  server.close();
});

Deno.test("an agent that is another's, or that does not take us, is asked for anew and not tried for half an hour", async () => {
  using agent = new NumberedAgent(3, await SECURE.listen());
  const other = await TestAuthority.make();
  const stranger = { ...await other.identify({ kind: "user", userId: "ann" }), authorities: authority.certificate };
  const cases: [TlsClientOptions, RegExp][] = [
    [
      { credentials: () => ann, expected: { kind: "agent", agentId: "b".repeat(32) } },
      /it is not spiffe:.*b\/agent that/,
    ],
    [
      { credentials: () => stranger, expected: AGENT },
      /the peer does not accept this side's certificate, which is not of/,
    ],
    [{ credentials: () => ({ ...ann, privateKey: "" }), expected: AGENT }, /The certificate, its private key or/],
  ];
  for (const [tls, why] of cases) {
    using run = running(agent, { tls });
    const outcome = await run.outcome;
    assert.equal(outcome.kind, "stale");
    assert.match((outcome as { why: string }).why, why);
  }
  assert.deepEqual(agent.starts, []);
});

Deno.test("an agent that has a new certificate in mid-command goes on, and takes connections that are made anew", async () => {
  const listener = await TlsListener.listen({ hostname: "127.0.0.1", credentials: agentCredentials });
  using agent = new NumberedAgent(30, listener);
  let own = ann;
  using run = running(agent, { tls: { credentials: () => own, expected: AGENT } });
  await eventually(() => agent.starts.length === 1);
  agent.say(10);
  // Both sides get a new key from a new authority.
  const next = await TestAuthority.make();
  listener.replaceCredentials(await next.identify(AGENT));
  own = await next.identify({ kind: "user", userId: "ann" });
  agent.say(10);
  await eventually(() => run.seen.length === 20);
  assert.equal(agent.starts.length, 1, "on the same connection");
  run.link.cut();
  await eventually(() => agent.starts.length === 2);
  agent.say(10);
  assert.deepEqual(await run.outcome, { kind: "finished" });
  assert.deepEqual(run.seen, upTo(30));
});
