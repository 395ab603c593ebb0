import { fromBinary } from "@bufbuild/protobuf";
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { RbsError } from "../../proto/base/errors.ts";
import { RunRequestSchema } from "../../proto/contract/gen/bazel/v1/command_server_pb.ts";
import { Status, StatusError } from "../../proto/transport/grpc/calls.ts";
import type { Http2Connection } from "../../proto/transport/http2/connection.ts";
import { Connection } from "../../proto/transport/grpc/channel.ts";
import { encodeFields, scanFields, varintValue } from "../../proto/base/protobuf_fields.ts";
import { eventually } from "../../tests/support/eventually.ts";
import { tempDir } from "../../tests/support/temp_dir.ts";
import { startCommandServer } from "../client/command_server.ts";
import { Commands } from "./commands.ts";
import type { AgentLink, LinkWaiter } from "../session/session.ts";
import { BazelClient, obedient, response, type Script, ScriptedAgent } from "../testing/agent.ts";

const cookies = { requestCookie: "ask", responseCookie: "answer" };

/** A session that has the agents that the test gives it. */
class FakeSession {
  /** The agent that is found; undefined: nobody answers. */
  agent: number | undefined;
  /** Of its orchestrator. */
  readonly address = "localhost:50051";
  /** Thrown by {@link link}. */
  error?: Error;
  epoch = 1;
  /** Whether its agents share no disk with us. */
  synced = false;
  readonly waiters: LinkWaiter[] = [];
  readonly losses: string[] = [];
  readonly #made: Connection[] = [];
  #link?: AgentLink;
  #changed = Promise.withResolvers<void>();

  get connected() {
    return this.#link !== undefined;
  }

  /** Something was set. */
  change(): void {
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
  }

  async link(waiter: LinkWaiter): Promise<AgentLink> {
    this.waiters.push(waiter);
    const aborted = new Promise<never>((_, reject) => {
      const abort = () => reject(new RbsError("interrupted"));
      if (waiter.signal.aborted) abort();
      waiter.signal.addEventListener("abort", abort);
    });
    aborted.catch(() => {});
    while (!this.#link) {
      if (this.error) throw this.error;
      if (this.agent === undefined) {
        await Promise.race([this.#changed.promise, aborted]);
        continue;
      }
      const connection = new Connection("127.0.0.1", this.agent);
      this.#made.push(connection);
      const epoch = String(this.epoch);
      this.#link = {
        name: `127.0.0.1:${this.agent}`,
        connection,
        synced: this.synced,
        missingInstallBase: "",
        headers: (from = {}) => ({ "x-custom": from["x-custom"] ?? "", "rbs-epoch": epoch }),
      };
    }
    return this.#link;
  }

  asks(address: string): boolean {
    return address === this.address;
  }

  isCurrent(link: AgentLink): boolean {
    return this.#link === link;
  }

  lost(link: AgentLink, why: string): void {
    this.losses.push(why);
    if (this.#link !== link) return;
    link.connection.retire();
    this.#link = undefined;
  }

  close(): void {
    for (const connection of this.#made) connection.close();
  }
}

/** A proxy with a client and an agent. */
function proxy(script: Script = obedient, connected = true, outputBase = "/ob") {
  const agent = new ScriptedAgent(script);
  const session = new FakeSession();
  if (connected) session.agent = agent.server.port;
  const activity: number[] = [];
  const terminations: number[] = [];
  const commands = new Commands({ outputBase, workspace: "/ws", argv: [] }, cookies, session, {
    onActivity: (n) => void activity.push(n),
    onTermination: () => void terminations.push(performance.now()),
  });
  const server = startCommandServer(cookies, Promise.resolve(commands));
  const client = new BazelClient(server.port, "ask");
  return {
    agent,
    session,
    commands,
    client,
    activity,
    terminations,
    async [Symbol.asyncDispose]() {
      client[Symbol.dispose]();
      server.close();
      session.close();
      agent[Symbol.dispose]();
      await eventually(() => commands.describe().length === 0, "the end of the commands");
    },
  };
}

/** Waits in the agent until it is told to go on, or cancelled. */
function pausing() {
  const go = Promise.withResolvers<void>();
  const script: Script = async (received) => {
    if (received.method === "Cancel") {
      obedient(received);
      return go.resolve();
    }
    received.call.write(response({ commandId: "remote id" }));
    await go.promise;
    received.call.write(response({ finished: true, exitCode: 8 }));
    received.call.end();
  };
  return { script, go: go.resolve };
}

Deno.test("a command's responses come with our cookie and our command id, everything else as it was", async () => {
  await using p = proxy();
  const { responses, stdout, exitCode, end } = await (await p.client.run(["build", "//:all"])).ended;
  assert.deepEqual([stdout, exitCode, end.code], ["build,//:all", 3, 0]);
  assert.deepEqual(new Set(responses.map((r) => r.cookie)), new Set(["answer"]));
  assert.deepEqual(new Set(responses.map((r) => r.commandId).filter(Boolean)).size, 1);
  assert.notEqual(responses[0].commandId, "remote id");
  const sent = fromBinary(RunRequestSchema, p.agent.calls[0].message);
  assert.deepEqual([sent.cookie, sent.clientDescription, String(sent.arg[1])], ["", "pid=1", "//:all"]);
  assert.deepEqual(p.activity, [1, 0]);
  assert.deepEqual(p.terminations, []);
});

Deno.test("fields that no schema of ours knows reach the agent byte for byte, and no client", async () => {
  const unknown = Buffer.from("fa0303c0ffee f90311223344 55667788".replaceAll(" ", ""), "hex");
  await using p = proxy(({ call }) => {
    call.write(Buffer.concat([unknown, response({ commandId: "remote id" }), unknown]));
    call.write(response({ finished: true }));
    call.end();
  });
  const request = p.client.request(["info"]);
  const { stream, ended, responses } = await p.client.run(Buffer.concat([unknown, request, unknown]));
  await ended;
  void stream;
  assert.ok(p.agent.calls[0].message.includes(unknown));
  assert.ok(p.agent.calls[0].message.subarray(-unknown.length).equals(unknown));
  assert.deepEqual(responses.map((r) => r.$unknown), responses.map(() => undefined));
});

Deno.test("the first response, with an id to cancel by, comes before there is any agent", async () => {
  await using p = proxy(obedient, false);
  const { first, ended } = await p.client.run(["build"]);
  const { cookie, commandId } = await first;
  assert.equal(cookie, "answer");
  assert.match(commandId, /^[0-9a-f-]{36}$/);
  assert.deepEqual(p.agent.calls, []);
  await eventually(() => p.session.waiters.length);
  p.session.waiters[0].say("rbs: agent starting 1.0s\n");
  p.session.agent = p.agent.server.port;
  p.session.change();
  const ran = await ended;
  assert.deepEqual([ran.stderr, ran.stdout, ran.exitCode], ["rbs: agent starting 1.0s\n", "build", 3]);
});

Deno.test("a cancel before there is an agent ends the command with 8", async () => {
  await using p = proxy(obedient, false);
  const { first, ended } = await p.client.run(["build"]);
  assert.equal((await p.client.call("Cancel", (await first).commandId)).code, 0);
  const ran = await ended;
  assert.equal(ran.exitCode, 8);
  assert.match(ran.stderr, /^rbs: interrupted/);
  assert.deepEqual(p.agent.calls, []);
});

Deno.test("a cancel reaches the agent before the real server has named the command", async () => {
  const cancelled = Promise.withResolvers<void>();
  await using p = proxy(async (received) => {
    if (received.method === "Cancel") return cancelled.resolve();
    await cancelled.promise;
    received.call.write(response({ commandId: "remote id" }));
    received.call.write(response({ finished: true, exitCode: 8 }));
    received.call.end();
  });
  const { first, ended } = await p.client.run(["build"]);
  await eventually(() => p.agent.calls.length);
  assert.equal((await p.client.call("Cancel", (await first).commandId)).code, 0);
  assert.equal((await ended).exitCode, 8);
  assert.equal(p.agent.of("Cancel").length, 1);
});

Deno.test("a cancel in mid-command is acknowledged at once and sent on once; one for another command is not", async () => {
  await using p = proxy(pausing().script);
  const { first, ended } = await p.client.run(["build"]);
  await eventually(() => p.commands.describe()[0]?.includes("remote id"));
  const strange = await p.client.call("Cancel", "no such command");
  assert.deepEqual([strange.code, strange.data], [0, encodeFields([[1, "answer"]])]);
  const { commandId } = await first;
  await Promise.all([p.client.call("Cancel", commandId), p.client.call("Cancel", commandId)]);
  assert.equal((await ended).exitCode, 8);
  assert.equal(p.agent.of("Cancel").length, 1);
});

Deno.test("a client that is gone cancels its command at the agent, wherever it was", async () => {
  await using p = proxy(pausing().script);
  const { stream } = await p.client.run(["build"]);
  await eventually(() => p.commands.describe()[0]?.includes("remote id"));
  stream.reset();
  await eventually(() => p.agent.of("Run")[0].call.gone.aborted);
  await eventually(() => p.agent.of("Cancel").length === 1);
  await eventually(() => p.commands.describe().length === 0);
  await using waiting = proxy(obedient, false);
  const early = await waiting.client.run(["build"]);
  await early.first;
  early.stream.reset();
  await eventually(() => waiting.commands.describe().length === 0);
  assert.equal(waiting.agent.calls.length, 0);
});

const RESIZE = "/command_server.CommandServer/UpdateTerminalSize";

Deno.test("a method of newer Bazels is answered at once, and forwarded with cookie and command id patched", async () => {
  const { script, go } = pausing();
  await using p = proxy((received) => received.method === "UpdateTerminalSize" ? undefined : script(received));
  const { first, ended } = await p.client.run(["build"]);
  await eventually(() => p.commands.describe()[0]?.includes("remote id"));
  const { commandId } = await first;
  const size = encodeFields([[1, "ask"], [2, commandId], [3, 80], [4, 24], [200, "from the future"]]);
  const { code, data } = await p.client.connection.unary(RESIZE, size);
  assert.deepEqual([code, data], [0, encodeFields([[1, "answer"]])]);
  await eventually(() => p.agent.of("UpdateTerminalSize").length === 1);
  assert.deepEqual(
    p.agent.of("UpdateTerminalSize")[0].message,
    Buffer.concat([
      Buffer.from([0x0a, 0]),
      encodeFields([[2, "remote id"], [3, 80], [4, 24], [200, "from the future"]]),
    ]),
  );
  // Nor does the next call wait for an agent that answers nothing.
  assert.equal((await p.client.connection.unary(RESIZE, size)).code, 0);
  assert.equal((await p.client.call("Cancel", commandId)).code, 0);
  go();
  await ended;
});

Deno.test("before there is an agent no call waits for one, and the last size of the terminal gets there", async () => {
  const { script, go } = pausing();
  await using p = proxy(
    (received) => received.method === "UpdateTerminalSize" ? obedient(received) : script(received),
    false,
  );
  const { first, ended } = await p.client.run(["build"]);
  const { commandId } = await first;
  for (const columns of [80, 100, 120]) {
    const size = encodeFields([[1, "ask"], [2, commandId], [3, columns], [4, 24]]);
    assert.equal((await p.client.connection.unary(RESIZE, size)).code, 0);
  }
  assert.equal((await p.client.call("Future")).code, 0);
  assert.equal((await p.client.connection.unary(RESIZE, encodeFields([[1, "ask"], [2, "unknown"]]))).code, 0);
  p.session.agent = p.agent.server.port;
  p.session.change();
  await eventually(() => p.agent.of("UpdateTerminalSize").length > 0);
  const messages = p.agent.of("UpdateTerminalSize").map(({ message }) => message);
  assert.deepEqual(messages, [
    Buffer.concat([Buffer.from([0x0a, 0]), encodeFields([[2, "remote id"], [3, 120], [4, 24]])]),
  ]);
  go();
  await ended;
});

Deno.test("headers of the client's call go on through the link", async () => {
  await using p = proxy();
  const stream = await p.client.connection.start("/command_server.CommandServer/Run", p.client.request(["info"]), {
    "x-custom": "kept",
  });
  await stream.closed;
  assert.equal(p.agent.calls[0].headers["x-custom"], "kept");
});

Deno.test("a session that was taken over is asked for anew, and the command runs once", async () => {
  await using p = proxy((received) => {
    if (received.headers["rbs-epoch"] !== "2") {
      p.session.epoch = 2;
      throw new StatusError(Status.FAILED_PRECONDITION, "This session was taken over.");
    }
    return obedient(received);
  });
  const ran = await (await p.client.run(["build"])).ended;
  assert.deepEqual([ran.exitCode, ran.stderr, ran.stdout], [3, "", "build"]);
  assert.deepEqual(p.session.losses, ["This session was taken over."]);
  assert.equal(p.agent.of("Run").length, 2);
});

Deno.test("a command that runs goes on when another one finds the session taken over", async () => {
  const { script, go } = pausing();
  await using p = proxy((received) => {
    if (p.agent.of("Run").length === 2) throw new StatusError(Status.FAILED_PRECONDITION, "taken over");
    return received.method === "Run" && p.agent.of("Run").length === 1 ? script(received) : obedient(received);
  });
  const running = await p.client.run(["build"]);
  await eventually(() => p.commands.describe()[0]?.includes("remote id"));
  assert.equal((await (await p.client.run(["info"])).ended).exitCode, 3);
  go();
  assert.equal((await running.ended).exitCode, 8);
});

Deno.test("an agent that cannot be reached is asked for anew, until that makes no sense", async () => {
  await using p = proxy();
  const dead = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  p.session.agent = (dead.addr as Deno.NetAddr).port;
  dead.close();
  const started = await p.client.run(["build"]);
  await eventually(() => p.session.losses.length >= 1);
  p.session.agent = p.agent.server.port;
  assert.equal((await started.ended).exitCode, 3);
});

Deno.test("an agent that is lost in mid-command finishes it with 37 and one sentence", async () => {
  await using p = proxy(({ call }) => {
    call.write(response({ commandId: "remote id", standardOutput: Buffer.from("so far") }));
  });
  const { ended, responses } = await p.client.run(["build"]);
  await eventually(() => responses.length === 2);
  p.agent.server.close();
  const ran = await ended;
  assert.deepEqual([ran.end.code, ran.exitCode, ran.stdout], [0, 37, "so far"]);
  assert.match(
    ran.stderr,
    /^rbs: The agent at 127\.0\.0\.1:\d+ was lost in mid-command \(.+\)\. The next command.*\n$/,
  );
  assert.equal(p.session.losses.length, 1);
});

const LIES: [string, Script, RegExp][] = [
  ["ends the stream without a result", ({ call }) => {
    call.write(response({ commandId: "remote id" }));
    call.end();
  }, /ended the command without a result/],
  ["ends the stream without a word", ({ call }) => call.end(), /without a word/],
  ["fails the call", () => {
    throw new StatusError(Status.INTERNAL, "The Bazel server could not start.");
  }, /^rbs: The Bazel server could not start\. The next/],
  ["sends garbage in a message", ({ call }) => {
    call.write(Buffer.from("0affffffff", "hex"));
  }, /sent what is no response/],
  ["sends garbage that is no message", ({ call }) => {
    call.writeFrames(Buffer.from("HTTP/1.1 200 OK"));
  }, /sent what is no response/],
  ["announces a message of 4 GB", ({ call }) => {
    call.writeFrames(Uint8Array.of(0, 255, 255, 255, 255));
  }, /sent what is no response/],
  ["answers with no gRPC", ({ stream }) => {
    stream.sendHeaders({ ":status": "200", "grpc-status": "what" }, true);
  }, /gRPC status 2/],
  ["breaks HTTP/2 in mid-command", ({ call, stream }) => {
    call.write(response({ commandId: "remote id" }));
    // More headers than anybody takes.
    stream.connection.sendHeaderBlock(stream, { "": "x".repeat(2 << 20) }, true);
  }, /was lost in mid-command/],
];

for (const [what, script, sentence] of LIES) {
  Deno.test(`an agent that ${what}: the command finishes with 37 and a sentence, and the next one runs`, async () => {
    await using p = proxy(script);
    const ran = await (await p.client.run(["build"])).ended;
    assert.deepEqual([ran.end.code, ran.exitCode], [0, 37], ran.stderr);
    assert.match(ran.stderr, sentence);
    assert.equal(ran.stderr.split("\n").length, 2);
    p.agent.script = obedient;
    assert.equal((await (await p.client.run(["info"])).ended).exitCode, 3);
  });
}

Deno.test("without an agent the command finishes with the session's sentence and exit code", async () => {
  await using p = proxy(obedient, false);
  p.session.error = new RbsError("The orchestrator cannot be reached: start it.", { exitCode: 36 });
  const ran = await (await p.client.run(["build"])).ended;
  assert.deepEqual([ran.exitCode, ran.stderr], [36, "rbs: The orchestrator cannot be reached: start it.\n"]);
  for (const [address, wants] of [["localhost:50051", false], ["", false], ["localhost:50777", true]] as const) {
    const { exitCode, stderr } = await (await p.client.run(["build", `--client_env=RBS_ORCHESTRATOR_ADDR=${address}`]))
      .ended;
    assert.equal(exitCode, 36);
    assert.equal(
      stderr,
      "rbs: The orchestrator cannot be reached: start it." +
        (wants
          ? ' This proxy was started for that address, and the command is for "localhost:50777": run `bazel shutdown`, ' +
            "then the command again.\n"
          : "\n"),
    );
  }
});

Deno.test("an output base that cannot be used now can be used by a later command", async () => {
  await using temp = await tempDir();
  const outputBase = temp.join("ob");
  Deno.writeTextFileSync(outputBase, "in the way");
  await using p = proxy(obedient, true, outputBase);
  p.session.synced = true;
  // It needs no files, of which this agent has none.
  const shutdown = async () => {
    const { exitCode, stderr } = await (await p.client.run(["shutdown"])).ended;
    return { exitCode, stderr };
  };
  await p.session.link({ signal: new AbortController().signal, say: () => {} });
  const failed = await shutdown();
  assert.match(failed.stderr, /^rbs: /);
  p.commands.expect({} as Http2Connection);
  assert.equal((await shutdown()).stderr, failed.stderr, "as long as it is so");
  Deno.removeSync(outputBase);
  Deno.mkdirSync(outputBase);
  assert.deepEqual(await shutdown(), { exitCode: 3, stderr: "" });
});

Deno.test("while one command waits for the agent, --noblock_for_lock fails with 9 and other commands wait too", async () => {
  await using p = proxy(obedient, false);
  const waiting = await p.client.run(["build"], { clientDescription: "pid=77" });
  await waiting.first;
  const impatient = await (await p.client.run(["build"], { blockForLock: false })).ended;
  assert.deepEqual([impatient.exitCode, impatient.stderr], [
    9,
    "Another command (pid=77) is running. Exiting immediately.\n",
  ]);
  const patient = await p.client.run(["query"]);
  await patient.first;
  p.session.agent = p.agent.server.port;
  p.session.change();
  assert.deepEqual([(await waiting.ended).stdout, (await patient.ended).stdout], ["build", "query"]);
  // With an agent it is the real server that decides.
  assert.equal((await (await p.client.run(["build"], { blockForLock: false })).ended).exitCode, 3);
});

Deno.test("--block_for_lock=<duration> bounds the wait for a command that is not at the server yet, and the server's own", async () => {
  const timeout = (ms: number) => encodeFields([[10, ms]]);
  await using p = proxy(obedient, false);
  const waiting = await p.client.run(["build"], { clientDescription: "pid=77" });
  await waiting.first;
  const bounded = await p.client.run(Buffer.concat([p.client.request(["query"]), timeout(50)]));
  const gaveUp = await bounded.ended;
  assert.deepEqual([gaveUp.exitCode, gaveUp.stderr], [9, "Another command (pid=77) is still running after 50 ms.\n"]);
  assert.equal(p.session.waiters.length, 2);
  p.session.agent = p.agent.server.port;
  p.session.change();
  assert.equal((await waiting.ended).stdout, "build");
  // It was the first itself that waited for the agent: that is no lock.
  const long = await p.client.run(Buffer.concat([p.client.request(["query"]), timeout(3_600_000)]));
  assert.equal((await long.ended).exitCode, 3);
  const sent: number[] = [];
  scanFields(p.agent.calls[1].message, (f) => f.number === 10 && sent.push(varintValue(p.agent.calls[1].message, f)));
  assert.equal(sent.length, 1);
  assert(sent[0] > 0 && sent[0] <= 3_600_000, String(sent));
});

Deno.test("a quiet command shows nothing of ours but errors", async () => {
  const quiet = (client: BazelClient, args: string[]) =>
    Buffer.concat([client.request(args), encodeFields([[9, true]])]);
  await using p = proxy(obedient, false);
  const silent = await p.client.run(quiet(p.client, ["build"]));
  await eventually(() => p.session.waiters.length);
  p.session.waiters[0].say("rbs: agent starting 1.0s\n");
  p.session.agent = p.agent.server.port;
  p.session.change();
  const ran = await silent.ended;
  assert.deepEqual([ran.stderr, ran.stdout, ran.exitCode], ["", "build", 3]);
  await using failing = proxy(obedient, false);
  failing.session.error = new RbsError("The orchestrator cannot be reached: start it.", { exitCode: 36 });
  const failed = await (await failing.client.run(quiet(failing.client, ["build"]))).ended;
  assert.deepEqual([failed.exitCode, failed.stderr], [36, "rbs: The orchestrator cannot be reached: start it.\n"]);
  const local = quiet(failing.client, ["build", "--client_env=RBS_FALLBACK=local"]);
  assert.equal((await (await failing.client.run(local)).ended).stderr, "");
});

Deno.test("a server that ends tells the owner after the client has got the last response", async () => {
  await using p = proxy();
  await (await p.client.run(["build"])).ended;
  p.agent.script = ({ call }) => {
    call.write(response({ commandId: "remote id" }));
    call.write(response({ finished: true, terminationExpected: true }));
    call.end();
  };
  const ran = await (await p.client.run(["shutdown"])).ended;
  assert.deepEqual([ran.exitCode, ran.responses.at(-1)!.terminationExpected], [0, true]);
  assert.equal(p.agent.of("Run").length, 2);
  await eventually(() => p.terminations.length === 1);
});

Deno.test("shutdown without an agent starts none, and ends the proxy", async () => {
  await using p = proxy(obedient, false);
  const ran = await (await p.client.run(["shutdown"])).ended;
  assert.deepEqual([ran.exitCode, ran.responses.at(-1)!.terminationExpected], [0, true]);
  await eventually(() => p.terminations.length === 1);
  assert.equal(p.session.waiters.length, 0);
});

Deno.test("shutdown ends the proxy, whatever has become of the real server", async () => {
  const noServer = new StatusError(Status.INTERNAL, "The Bazel server did not start.", { "rbs-reason": "no-server" });
  const cases: [string, Script, number][] = [
    ["a server that cannot start", () => Promise.reject(noServer), 0],
    ["an agent that has another owner now", () => Promise.reject(new StatusError(Status.FAILED_PRECONDITION, "no")), 0],
    ["an agent that ends in mid-command", ({ stream }) => stream.connection.close(), 37],
    ["a server that fails", () => Promise.reject(new StatusError(Status.INTERNAL, "It failed.")), 37],
  ];
  for (const [what, script, code] of cases) {
    await using p = proxy();
    await (await p.client.run(["build"])).ended;
    p.agent.script = script;
    const forShutdown = await p.client.run(["shutdown"], { clientDescription: "pid=1 (for shutdown)" });
    const ran = await forShutdown.ended;
    assert.deepEqual([ran.end.code, ran.exitCode, ran.responses.at(-1)!.terminationExpected], [0, code, true], what);
    await eventually(() => p.terminations.length === 1, what);
  }
});

Deno.test("a shutdown at an agent that is gone ends the proxy when no other is found soon", async () => {
  await using p = proxy();
  await (await p.client.run(["build"])).ended;
  p.agent.server.close();
  p.session.agent = undefined;
  const ran = await (await p.client.run(["shutdown"])).ended;
  assert.equal(ran.responses.at(-1)!.terminationExpected, true);
  await eventually(() => p.terminations.length === 1);
});

Deno.test("cancelAll cancels every command", async () => {
  await using p = proxy(pausing().script);
  const running = await p.client.run(["build"]);
  await eventually(() => p.commands.describe()[0]?.includes("remote id"));
  p.commands.cancelAll("The proxy ends.");
  assert.equal((await running.ended).exitCode, 8);
});

Deno.test("a client that reads slowly holds the agent back", async () => {
  let written = 0;
  await using p = proxy(async ({ call }) => {
    call.write(response({ commandId: "remote id" }));
    for (let i = 0; i < 100; i++) {
      await call.write(response({ standardOutput: new Uint8Array(1 << 20) }));
      written += 1 << 20;
    }
    call.write(response({ finished: true }));
    call.end();
  });
  const stream = await p.client.connection.start("/command_server.CommandServer/Run", p.client.request(["build"]));
  const read = Promise.withResolvers<void>();
  let bytes = 0;
  stream.onData = (chunk) => {
    bytes += chunk.length;
    return read.promise;
  };
  let before = -1;
  // Nothing moves any more.
  for (let calm = 0; calm < 20; calm = written === before && written > 0 ? calm + 1 : 0) {
    before = written;
    await new Promise((r) => setTimeout(r, 5));
  }
  assert.ok(written < 16 << 20, `${written} bytes were written ahead`);
  read.resolve();
  await stream.closed;
  assert.ok(bytes > 100 << 20);
});

Deno.test("a Run that is no message is refused, and a malformed part of one does no harm", async () => {
  await using p = proxy();
  const refused = await p.client.connection.unary("/command_server.CommandServer/Run", Buffer.from("0affff", "hex"));
  assert.equal(refused.code, Status.INVALID_ARGUMENT);
  const nested = Buffer.concat([p.client.request(["build"]), Buffer.from([0x32, 1, 0xff])]);
  assert.equal(
    (await p.client.connection.unary("/command_server.CommandServer/Run", nested)).code,
    Status.INVALID_ARGUMENT,
  );
  assert.equal((await (await p.client.run(["build"])).ended).exitCode, 3);
});
