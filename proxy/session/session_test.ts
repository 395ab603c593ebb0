import assert from "node:assert/strict";
import { join } from "node:path";
import { RbsError } from "../../proto/base/errors.ts";
import {
  type GetServerRequest,
  type GetServerStreamResponseSchema,
  Orchestrator,
} from "../../proto/contract/gen/rbs/v1/orchestrator_pb.ts";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { type CallContext, Code, RpcError } from "../../proto/transport/rpc/client.ts";
import { RpcServer } from "../../proto/transport/rpc/server.ts";
import { Identity } from "../../proto/contract/gen/rbs/v1/identity_pb.ts";
import { authoritiesFile, readCredentials } from "../../proto/identity/key_directory.ts";
import { admit } from "../../proto/identity/access_rules.ts";
import { TestAuthority } from "../../proto/testing/certificates.ts";
import { giveUserKeys, ORCHESTRATOR_NAME, orchestratorCredentials, testAuthority } from "../../proto/testing/keys.ts";
import { eventually } from "../../tests/support/eventually.ts";
import { repoHash } from "../../proto/bazel/workspace.ts";
import { serverId } from "./server_id.ts";
import { Session, type SessionSettings } from "./session.ts";
import { tempDirSync } from "../../tests/support/temp_dir.ts";

type Events = AsyncIterable<MessageInitShape<typeof GetServerStreamResponseSchema>>;

/** An orchestrator that does what the test says, and comes and goes on one port. */
class FakeOrchestrator {
  readonly #temp = tempDirSync();
  readonly state = this.#temp.path;
  readonly requests: GetServerRequest[] = [];
  heartbeats: string[] = [];
  released: string[] = [];
  port = 0;
  events: (request: GetServerRequest, context: CallContext) => Events = async function* () {
    yield server();
  };
  heartbeat: () => Promise<{ intervalSeconds: number }> = () => Promise.resolve({ intervalSeconds: 60 });
  credentials = orchestratorCredentials();
  #server?: RpcServer;

  async start(): Promise<this> {
    await giveUserKeys(this.state, "ada");
    this.#server = new RpcServer({
      address: `127.0.0.1:${this.port}`,
      credentials: await this.credentials,
      admitStrangers: true,
      authorize: admit,
    }).add(Orchestrator, {
      getServer: () => Promise.reject(new Error("not used")),
      getServerStream: (request, context) => {
        this.requests.push(request);
        return this.events(request, context);
      },
      heartbeat: (request) => {
        this.heartbeats.push(request.sessionId);
        return this.heartbeat();
      },
      releaseServer: (request) => {
        this.released.push(request.sessionId);
        return Promise.resolve({ released: true });
      },
      listSessions: () => Promise.reject(new Error("not used")),
    }).add(Identity, {
      issueCertificate: () => Promise.reject(new Error("not used")),
      renewCertificate: async ({ certificateRequest }, { identity }) => {
        const authority = await testAuthority();
        const certificate = await authority.certifyRequest(certificateRequest, identity!, { names: [] });
        return { certificate, authorities: authority.certificate };
      },
    });
    this.port = await this.#server.listen();
    return this;
  }

  async stop(): Promise<void> {
    await this.#server?.[Symbol.asyncDispose]();
    this.#server = undefined;
  }

  get address() {
    return `127.0.0.1:${this.port}`;
  }

  async [Symbol.asyncDispose]() {
    await this.stop();
    this.#temp[Symbol.dispose]();
  }
}

function server(fields: { warnings?: string[]; session?: Record<string, never> } = {}) {
  const value = {
    session: { epoch: 7, agent: { host: "127.0.0.1", port: 1, commandPort: 2 } },
    accessToken: "secret",
    ...fields,
  };
  return { event: { case: "server" as const, value } };
}
const step = (description: string) => ({ event: { case: "step" as const, value: { description } } });

/** A session of that orchestrator that waits as long as a test can. */
function sessionOf(orchestrator: FakeOrchestrator, settings: Partial<SessionSettings> = {}) {
  const args = { argv: ["--output_base=/ob"], outputBase: "/ob", workspace: "/ws", maxIdleSeconds: 0 };
  const session = new Session(args, {
    address: orchestrator.address,
    agentTls: () => undefined,
    stateDirectory: () => orchestrator.state,
    machineId: "a machine",
    patienceMs: 5_000,
    silenceMs: 20,
    firstHeartbeatMs: 60_000,
    ...settings,
  });
  const said: string[] = [];
  const waiter = { signal: new AbortController().signal, say: (line: string) => void said.push(line) };
  return {
    session,
    said,
    link: (more = {}) => session.link({ ...waiter, ...more }),
    [Symbol.asyncDispose]: () => session.release(1_000),
  };
}

/** The same, when its orchestrator has been there and is gone. */
async function left(orchestrator: FakeOrchestrator, settings: Partial<SessionSettings> = {}) {
  const s = sessionOf(orchestrator, settings);
  s.session.lost(await s.link(), "a test");
  await orchestrator.stop();
  orchestrator.requests.length = 0;
  return s;
}

const fails = (promise: Promise<unknown>, message: RegExp, exitCode = 36) =>
  assert.rejects(promise, (e) => {
    assert.ok(e instanceof RbsError, String(e));
    assert.match(e.message, message);
    assert.equal(e.exitCode, exitCode);
    return true;
  });

Deno.test("a session asks for its server with all that the orchestrator needs, once", async () => {
  await using orchestrator = await new FakeOrchestrator().start();
  await using s = sessionOf(orchestrator, { silenceMs: 60_000 });
  s.session.start();
  assert.equal(s.session.connected, false);
  const [a, b] = await Promise.all([s.link(), s.link()]);
  assert.equal(a, b);
  assert.equal(await s.link(), a);
  assert.equal(orchestrator.requests.length, 1);
  const { userId, repoHash: hash, serverId: server, sessionId, sourcePath, startupOptions } = orchestrator.requests[0];
  // Who it is the certificate says.
  assert.deepEqual([userId, hash, sourcePath, startupOptions], ["", repoHash("/ws"), "/ws", ["--output_base=/ob"]]);
  assert.match(sessionId, /^[0-9a-f]{32}$/);
  assert.equal(server, serverId("a machine", "/ob"));
  assert.deepEqual([a.name, s.session.connected, s.said], ["127.0.0.1:2", true, []]);
  assert.match(s.session.describe(), /session [0-9a-f]{32}: agent 127\.0\.0\.1:2/);
  assert.deepEqual(
    a.headers({ ":path": "/x", authorization: "the client's", te: "trailers", "grpc-timeout": "1S", "x-own": "1" }),
    { "grpc-timeout": "1S", "x-own": "1", authorization: "Bearer secret", "rbs-epoch": "7" },
  );
});

Deno.test("a quick start stays silent; a slow one shows each of its steps, with the time", async () => {
  await using orchestrator = await new FakeOrchestrator().start();
  const go = [0, 1, 2].map(() => Promise.withResolvers<void>());
  orchestrator.events = async function* () {
    yield step("one");
    await go[0].promise;
    yield step("two");
    await go[1].promise;
    yield server({ warnings: ["The sandbox does not work."] });
  };
  await using s = sessionOf(orchestrator);
  const link = s.link();
  await eventually(() => s.said.length >= 1);
  go[0].resolve();
  await eventually(() => s.said.some((line) => line.includes("two")));
  go[1].resolve();
  await link;
  assert.match(s.said[0], /^rbs: (agent starting \(one\)|asking the orchestrator.*) \d\.\ds\n$/);
  assert.match(s.said.find((l) => l.includes("two"))!, /^rbs: agent starting \(two\) \d\.\ds\n$/);
  assert.equal(s.said.at(-1), "rbs: warning: The sandbox does not work.\n");
  const before = s.said.length;
  await s.link();
  assert.equal(s.said.length, before, "a warning is shown once");
});

Deno.test("a warning that no command has shown is not lost with its agent, and one that was shown is not repeated", async () => {
  await using orchestrator = await new FakeOrchestrator().start();
  orchestrator.events = async function* () {
    yield server({ warnings: ["The sandbox does not work."] });
  };
  orchestrator.heartbeat = () => Promise.reject(new RpcError(Code.NOT_FOUND, "no"));
  await using s = sessionOf(orchestrator, { firstHeartbeatMs: 1, silenceMs: 60_000 });
  s.session.start();
  await eventually(() => orchestrator.heartbeats.length > 0 && !s.session.connected);
  s.session.lost(await s.link(), "a test");
  await s.link();
  assert.deepEqual(s.said, ["rbs: warning: The sandbox does not work.\n"]);
});

Deno.test("what an orchestrator answers is told, also where it speaks of connections", async () => {
  await using orchestrator = await new FakeOrchestrator().start();
  // deno-lint-ignore require-yield
  orchestrator.events = async function* () {
    throw new RpcError(Code.UNAVAILABLE, "The agent's connection to its store was lost: ECONNRESET.");
  };
  await using s = sessionOf(orchestrator, { patienceMs: 50 });
  await fails(s.link(), /^The agent's connection to its store was lost: ECONNRESET\.$/);
});

Deno.test("where nobody has started an orchestrator, a command does not wait for one", async () => {
  await using orchestrator = await new FakeOrchestrator().start();
  await orchestrator.stop();
  await using s = sessionOf(orchestrator, { patienceMs: 3_600_000 });
  await fails(s.link(), /^The orchestrator at 127\.0\.0\.1:\d+ cannot be reached \(nothing listens there\): start it/);
  await using keyless = sessionOf(orchestrator, {
    patienceMs: 3_600_000,
    stateDirectory: () => join(orchestrator.state, "elsewhere"),
  });
  await fails(keyless.link(), /There is no key at .*elsewhere.* yet/);
  await orchestrator.start();
  assert.equal((await s.link()).name, "127.0.0.1:2");
});

Deno.test("an orchestrator that was there is waited for, and the wait shows that it goes on", async () => {
  await using orchestrator = await new FakeOrchestrator().start();
  await using s = await left(orchestrator, { tickMs: 20 });
  const link = s.link();
  await eventually(() => s.said.filter((l) => /waiting for the orchestrator at 127.* \d\.\ds\n$/.test(l)).length > 2);
  await orchestrator.start();
  assert.equal((await link).name, "127.0.0.1:2");
});

Deno.test("an orchestrator that is lost while the agent starts is waited for, beyond the first patience", async () => {
  await using orchestrator = await new FakeOrchestrator().start();
  orchestrator.events = async function* (_, context) {
    yield step("starting");
    await new Promise((resolve) => context.signal.addEventListener("abort", resolve));
  };
  await using s = sessionOf(orchestrator, { patienceMs: 300 });
  const began = performance.now();
  const link = s.link();
  await eventually(() => performance.now() - began > 350 && orchestrator.requests.length > 0);
  await orchestrator.stop();
  orchestrator.events = async function* () {
    yield server();
  };
  await orchestrator.start();
  assert.equal((await link).name, "127.0.0.1:2");
});

Deno.test("patience ends with a sentence that says what to do, and the next command asks again", async () => {
  await using orchestrator = await new FakeOrchestrator().start();
  await using s = await left(orchestrator, { patienceMs: 50 });
  await fails(s.link(), /^The orchestrator at 127\.0\.0\.1:\d+ cannot be reached \(nothing listens there\): start it/);
  await orchestrator.start();
  assert.equal((await s.link()).name, "127.0.0.1:2");
});

Deno.test("an impatient command gives up early, while the search goes on for others", async () => {
  await using orchestrator = await new FakeOrchestrator().start();
  await using s = await left(orchestrator, { impatienceMs: 30 });
  const patient = s.link();
  await fails(s.link({ impatient: true }), /cannot be reached/);
  await orchestrator.start();
  assert.equal((await patient).name, "127.0.0.1:2");
});

Deno.test("who waits for others no longer than a while waits no longer for a free agent", async () => {
  await using orchestrator = await new FakeOrchestrator().start();
  const free = Promise.withResolvers<void>();
  orchestrator.events = async function* () {
    yield step("waiting for a free agent: 8 of 8 run, 2 are before you");
    await free.promise;
    yield step("starting agent");
    yield server();
  };
  await using s = sessionOf(orchestrator, { tickMs: 20 });
  const patient = s.link({ queueMs: Infinity });
  await fails(s.link({ queueMs: 50 }), /^No agent is free .*: waiting for a free agent: 8 of 8 run/, 9);
  free.resolve();
  assert.equal((await patient).name, "127.0.0.1:2");
});

Deno.test("a wait that is interrupted ends at once", async () => {
  await using orchestrator = await new FakeOrchestrator().start();
  orchestrator.events = async function* (_, context) {
    yield step("starting");
    await new Promise((resolve) => context.signal.addEventListener("abort", resolve));
  };
  await using s = sessionOf(orchestrator);
  const interrupt = new AbortController();
  const link = s.link({ signal: interrupt.signal });
  await eventually(() => orchestrator.requests.length);
  interrupt.abort();
  await assert.rejects(link, RbsError);
  await assert.rejects(s.link({ signal: interrupt.signal }), RbsError);
  await orchestrator.stop(); // ends the search
  await s.session.release(1);
});

Deno.test("keys that do not fit, missing keys and a failed start are said in one sentence, with exit code 36", async () => {
  await using orchestrator = await new FakeOrchestrator().start();
  {
    await using s = sessionOf(orchestrator);
    const [other, now] = [await TestAuthority.make(), Date.now()];
    await giveUserKeys(orchestrator.state, "ada", {}, other);
    await fails(s.link(), /is not to be trusted: its certificate is not valid, or not of the authority/);
    const file = authoritiesFile(orchestrator.state);
    Deno.writeTextFileSync(file, (await orchestratorCredentials()).authorities);
    await fails(s.link(), /refuses this user's certificate: .* not of the authority that is trusted here/);
    await giveUserKeys(orchestrator.state, "ada", {
      notBefore: new Date(now - 2_000),
      notAfter: new Date(now - 1_000),
    });
    await fails(s.link(), /user\.pem expired at 20.*: run `jbazel login` again/);
    await giveUserKeys(orchestrator.state, "ada", { notBefore: new Date(now + 600_000) });
    await fails(s.link(), /is valid from 20.* this machine's clock says/);
    await giveUserKeys(orchestrator.state, "ada");
    orchestrator.events = () => {
      throw new RpcError(Code.FAILED_PRECONDITION, "The agent has Bazel 7, and the client is 4.2.3: install it.");
    };
    await fails(s.link(), /^The agent has Bazel 7, and the client is 4\.2\.3: install it\.$/);
    orchestrator.events = () => {
      throw new RpcError(Code.INTERNAL, "x is not a function");
    };
    await fails(s.link(), /^The orchestrator at \S+ failed: x is not a function$/);
    orchestrator.events = async function* () {
      yield step("and nothing more");
    };
    await fails(s.link(), /ended its answer without a server/);
    orchestrator.events = async function* () {
      yield server({ session: {} });
    };
    await fails(s.link(), /names no agent/);
  }
  await using s = sessionOf(orchestrator, {
    patienceMs: 50,
    stateDirectory: () => join(orchestrator.state, "elsewhere"),
  });
  await fails(s.link(), /There is no key at .*elsewhere.* yet/);
});

Deno.test("clocks that are far apart are named", async () => {
  await using orchestrator = new FakeOrchestrator();
  const later = { notBefore: new Date(Date.now() + 600_000), names: [ORCHESTRATOR_NAME] };
  orchestrator.credentials = (await testAuthority()).identify({ kind: "orchestrator" }, later);
  await orchestrator.start();
  await using s = sessionOf(orchestrator);
  await fails(s.link(), /not trusted because the clocks differ: .* valid from 20.* and this machine's clock says 20/);
});

Deno.test("heartbeats go out as often as their answers say", async () => {
  await using orchestrator = await new FakeOrchestrator().start();
  await using s = sessionOf(orchestrator, { firstHeartbeatMs: 1 });
  orchestrator.heartbeat = () => Promise.resolve({ intervalSeconds: orchestrator.heartbeats.length === 1 ? 1 : 60 });
  await s.link();
  await eventually(() => orchestrator.heartbeats.length === 1);
  const first = performance.now();
  await eventually(() => orchestrator.heartbeats.length === 2);
  assert.ok(performance.now() - first > 900);
  assert.deepEqual(orchestrator.heartbeats, Array(2).fill(orchestrator.requests[0].sessionId));
  assert.equal(s.session.connected, true);
});

Deno.test("a heartbeat that finds the session lost makes the next command ask anew; other errors do not", async () => {
  for (const code of [Code.NOT_FOUND, Code.FAILED_PRECONDITION, Code.UNAVAILABLE, Code.INTERNAL]) {
    await using orchestrator = await new FakeOrchestrator().start();
    let failed = false;
    orchestrator.heartbeat = () => {
      failed = true;
      return Promise.reject(new RpcError(code, "no"));
    };
    await using s = sessionOf(orchestrator, { firstHeartbeatMs: 1 });
    await s.link();
    await eventually(() => failed);
    const lost = code === Code.NOT_FOUND || code === Code.FAILED_PRECONDITION;
    if (lost) await eventually(() => !s.session.connected);
    await s.link();
    assert.equal(orchestrator.requests.length, lost ? 2 : 1);
  }
});

Deno.test("a lost link is asked for anew, once, by whoever lost it", async () => {
  await using orchestrator = await new FakeOrchestrator().start();
  await using s = sessionOf(orchestrator);
  const first = await s.link();
  s.session.lost(first, "a test");
  assert.equal(s.session.connected, false);
  const second = await s.link();
  assert.notEqual(second, first);
  s.session.lost(first, "somebody is late");
  assert.equal(await s.link(), second);
  assert.deepEqual(orchestrator.requests.map((r) => r.sessionId), Array(2).fill(orchestrator.requests[0].sessionId));
});

Deno.test("release gives the session back, and waits no longer than it may", async () => {
  await using orchestrator = await new FakeOrchestrator().start();
  {
    await using s = sessionOf(orchestrator);
    await s.link();
  }
  assert.deepEqual(orchestrator.released, [orchestrator.requests[0].sessionId]);
  const silent = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const s = sessionOf(orchestrator, { address: `127.0.0.1:${(silent.addr as Deno.NetAddr).port}`, patienceMs: 0 });
  s.session.start();
  const began = performance.now();
  await s.session.release(30);
  assert.ok(performance.now() - began < 5_000);
  silent.close();
});

Deno.test("of several orchestrators one that is down, or silent, is passed over, for heartbeats and the release too", async () => {
  await using one = await new FakeOrchestrator().start();
  await using other = await new FakeOrchestrator().start();
  const address = `${one.address},${other.address}`;
  await using s = sessionOf(one, { address, silentMs: 1_000, firstHeartbeatMs: 1 });
  other.heartbeat = () => Promise.resolve({ intervalSeconds: 1 });
  const gone = Promise.withResolvers<void>();
  one.events = async function* (_, { signal }) {
    if (signal.aborted) gone.resolve();
    signal.addEventListener("abort", () => gone.resolve());
    await gone.promise;
    yield* [];
  };
  await s.link();
  await gone.promise;
  assert.deepEqual([one.requests.length, other.requests.length], [1, 1]);
  assert.deepEqual(s.said.filter((line) => line.includes("waiting")), []);
  await eventually(() => other.heartbeats.length > 0);
  assert.equal(one.heartbeats.length, 0);

  await other.stop();
  await eventually(() => one.heartbeats.length > 0);
  await one.stop();
  await other.start();
  await s.session.release(5_000);
  assert.equal(other.released.length, 1);
});

Deno.test("only when none of several orchestrators is there, all of them are waited for and named", async () => {
  await using one = await new FakeOrchestrator().start();
  const address = `127.0.0.1:1,${one.address}`;
  await using s = await left(one, { address, patienceMs: 1_500 });
  await fails(s.link(), new RegExp(`orchestrator at 127\\.0\\.0\\.1:1 or ${one.address} cannot be reached`));
  const link = s.link();
  await one.start();
  await link;
  assert.equal(one.requests.length, 1);
});

Deno.test("several orchestrators that are all silent are named in one sentence", async () => {
  await using one = await new FakeOrchestrator().start();
  await using other = await new FakeOrchestrator().start();
  one.events = other.events = async function* (_, { signal }) {
    await new Promise((resolve) => signal.addEventListener("abort", resolve));
    yield* [];
  };
  const address = `${one.address},${other.address}`;
  await using s = sessionOf(one, { address, silentMs: 200, patienceMs: 100 });
  await fails(s.link(), /^The orchestrator at \S+ or \S+ has not answered within 0\.2 s: see whether it hangs/);
});

Deno.test("a command that can run locally does not wait for an orchestrator that is silent; others do", async () => {
  await using orchestrator = await new FakeOrchestrator().start();
  const go = Promise.withResolvers<void>();
  orchestrator.events = async function* () {
    await go.promise;
    yield server();
  };
  await using s = sessionOf(orchestrator, { silentMs: 50, impatienceMs: 10 });
  const patient = s.link();
  await fails(s.link({ impatient: true }), /has not answered within 0\.05 s/);
  await fails(s.link({ impatient: true }), /has not answered within 0\.05 s/);
  go.resolve();
  assert.equal((await patient).name, "127.0.0.1:2");
});

Deno.test("a session that was released while it looked for its agent gets none", async () => {
  await using orchestrator = await new FakeOrchestrator().start();
  const gone = Promise.withResolvers<void>();
  orchestrator.events = async function* (_, { signal }) {
    yield step("starting");
    signal.addEventListener("abort", () => gone.resolve());
    await gone.promise;
    yield server();
  };
  await using s = sessionOf(orchestrator, { firstHeartbeatMs: 1 });
  const link = s.link();
  link.catch(() => {});
  await eventually(() => s.session.describe().includes("agent starting"));
  await s.session.release(1_000);
  await gone.promise;
  await assert.rejects(link, RbsError);
  assert.deepEqual([orchestrator.released.length, orchestrator.heartbeats.length, s.session.connected], [1, 0, false]);
  await assert.rejects(s.link(), /The proxy is ending: run the command again/);
});

Deno.test("a release without keys fails quietly, since the proxy ends after it", async () => {
  await using one = await new FakeOrchestrator().start();
  await using other = await new FakeOrchestrator().start();
  const s = sessionOf(one, { address: `${one.address},${other.address}` });
  await s.link();
  Deno.removeSync(join(one.state, "keys"), { recursive: true });
  await one.stop();
  await s.session.release(2_000);
});

Deno.test("an interval that no orchestrator means does not make heartbeats a flood", async () => {
  await using orchestrator = await new FakeOrchestrator().start();
  await using s = sessionOf(orchestrator, { firstHeartbeatMs: 1 });
  // More milliseconds than a timer can have.
  orchestrator.heartbeat = () => Promise.resolve({ intervalSeconds: 4_000_000 });
  await s.link();
  await eventually(() => orchestrator.heartbeats.length > 0);
  // Any of these would come at once.
  for (let i = 0; i < 20; i++) await new Promise((resolve) => setTimeout(resolve, 10));
  assert.equal(orchestrator.heartbeats.length, 1);
});

Deno.test("a certificate that gets old while there is an agent is renewed by the heartbeats", async () => {
  await using orchestrator = await new FakeOrchestrator().start();
  await using s = sessionOf(orchestrator, { firstHeartbeatMs: 500 });
  await s.link();
  const soon = new Date(Date.now() + 60_000);
  await giveUserKeys(orchestrator.state, "ada", { notAfter: soon });
  await eventually(() => readCredentials(orchestrator.state).notAfter > soon);
});
