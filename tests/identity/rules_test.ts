/**
 * The table of proto/identity/access_rules.ts, walked through the servers that ask it: each method of each service of ours,
 * called by everybody who might try, at the orchestrator's server and at an agent's two.
 */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { connect as connectTcp } from "node:net";
import { connect as connectTls } from "node:tls";
import { listenForProxy } from "../../agent/commands/command_port.ts";
import { Gate } from "../../agent/control/gate.ts";
import { orchestratorService } from "../../orchestrator/api/grpc_service.ts";
import { operatorService } from "../../orchestrator/api/operator_service.ts";
import { CertificateAuthority } from "../../orchestrator/identity/certificate_authority.ts";
import { TokenEnroller } from "../../orchestrator/identity/enroller.ts";
import { authorizer, identityService } from "../../orchestrator/identity/identity_service.ts";
import { revocationName } from "../../orchestrator/identity/revocation_name.ts";
import { A, request, World } from "../../orchestrator/testing/session_world.ts";
import { Agent } from "../../proto/contract/gen/rbs/v1/agent_pb.ts";
import { Command } from "../../proto/contract/gen/rbs/v1/command_pb.ts";
import { Identity as IdentityService } from "../../proto/contract/gen/rbs/v1/identity_pb.ts";
import { Operator } from "../../proto/contract/gen/rbs/v1/operator_pb.ts";
import { Orchestrator } from "../../proto/contract/gen/rbs/v1/orchestrator_pb.ts";
import { Workspace } from "../../proto/contract/gen/rbs/v1/workspace_pb.ts";
import { newKey } from "../../proto/identity/certificate_request.ts";
import type { Identity } from "../../proto/identity/spiffe.ts";
import { Connection } from "../../proto/transport/grpc/channel.ts";
import { Code, createRpcClient, RpcError } from "../../proto/transport/rpc/client.ts";
import { RpcServer } from "../../proto/transport/rpc/server.ts";
import { GRPC_OPERATIONS } from "../../proto/contract/operations.ts";
import { type Rule, ruleOf } from "../../proto/identity/access_rules.ts";
import { TestAuthority, TRUST_DOMAIN } from "../../proto/testing/certificates.ts";
import { orchestratorCredentials, testAuthority } from "../../proto/testing/keys.ts";
import type { ClientTls } from "../../proto/transport/tls/channel_credentials.ts";
import { TlsListener } from "../../proto/transport/tls/listener.ts";

const AGENT_ID = "a".repeat(32);
const ANN = { kind: "user", userId: "ann" } as const;

const authority = await testAuthority();

/** Who tries, and as whom. Undefined: in plain text. */
type Caller = ClientTls["credentials"] | undefined;

/** Everybody who is nobody: none of them gets anything from any server. */
async function strangers(): Promise<Record<string, Caller>> {
  const { certificate: authorities } = authority;
  const now = Date.now();
  return {
    "no certificate": { authorities, trustDomain: TRUST_DOMAIN },
    "another authority": { ...await (await TestAuthority.make()).identify(ANN), authorities },
    "expired": await authority.identify(ANN, { notBefore: new Date(now - 9_000), notAfter: new Date(now - 1_000) }),
    "not yet valid": await authority.identify(ANN, { notBefore: new Date(now + 600_000) }),
    "no URI": await authority.certify({ uris: [] }),
    "two URIs": await authority.certify({ uris: ["ann", "bob"].map((id) => `spiffe://${TRUST_DOMAIN}/user/${id}`) }),
    "a kind that there is not": await authority.certify({ uris: [`spiffe://${TRUST_DOMAIN}/admin/ann`] }),
    "another trust domain": await authority.certify({ uris: ["spiffe://other.test/user/ann"] }),
    "plain text": undefined,
  };
}

/** Those who are somebody, and what of the rules is for them. At an agent "ann" is its session's owner. */
const KNOWN: [string, Identity, Rule[]][] = [
  ["the owner", ANN, ["user", "owner", "holder", "anyone"]],
  ["another user", { kind: "user", userId: "bob" }, ["user", "holder", "anyone"]],
  ["the agent itself", { kind: "agent", agentId: AGENT_ID }, ["holder", "anyone"]],
  ["another session's agent", { kind: "agent", agentId: "b".repeat(32) }, ["holder", "anyone"]],
  ["the orchestrator", { kind: "orchestrator" }, ["orchestrator", "anyone"]],
  ["an operator of the owner's name", { kind: "operator", name: "ann" }, ["operator", "holder", "anyone"]],
];

/** How a call ended: its code, and its message. */
interface End {
  code: number;
  message: string;
}

async function ended(call: Promise<unknown>): Promise<End> {
  try {
    await call;
    return { code: Code.OK, message: "" };
  } catch (e) {
    const { code, message } = RpcError.from(e);
    return { code, message };
  }
}

/** Calls a method of a gRPC service of ours, with an empty request unless another is given. */
async function callGrpc(
  service: typeof Orchestrator | typeof Operator | typeof Agent | typeof IdentityService,
  port: number,
  expected: ClientTls["expected"],
  method: string,
  caller: Caller,
  message: object = {},
): Promise<End> {
  const tls = caller && { credentials: caller, expected };
  // deno-lint-ignore no-explicit-any
  using client = createRpcClient(service as any, `127.0.0.1:${port}`, { tls, token: "access" }) as any;
  const options = { timeoutMs: 10_000, metadata: { "rbs-epoch": "1" } };
  const { methodKind, localName } = service.methods.find(({ name }) => name === method)!;
  if (methodKind === "unary") return await ended(client[localName](message, options));
  const stream = methodKind === "bidi_streaming" ? client[localName](options) : client[localName](message, options);
  if (methodKind === "bidi_streaming") stream.end();
  return await ended(Array.fromAsync(stream));
}

/** The orchestrator's own services on its own kind of server, with agents that do nothing. */
async function orchestrator() {
  const world = new World();
  const service = await CertificateAuthority.load(await CertificateAuthority.create(), TRUST_DOMAIN, "test");
  const { identities } = world.store;
  const enroller = new TokenEnroller(identities, TRUST_DOMAIN);
  const server = new RpcServer({
    address: "127.0.0.1:0",
    credentials: await orchestratorCredentials(),
    admitStrangers: true,
    authorize: authorizer(identities),
  })
    .add(Orchestrator, orchestratorService(world.service))
    .add(Operator, operatorService(world.service, () => {}))
    .add(
      IdentityService,
      identityService({
        authority: service,
        enroller,
        store: identities,
        hasAgent: (id) => Promise.resolve(id === AGENT_ID),
      }),
    );
  const port = await server.listen();
  return {
    world,
    identities,
    enroller,
    port,
    call: (path: string, caller: Caller, message?: object) => {
      const [, name, method] = path.split("/");
      const service = [Orchestrator, Operator, IdentityService].find(({ typeName }) => typeName === name)!;
      return callGrpc(service, port, { kind: "orchestrator" }, method, caller, message);
    },
    async [Symbol.asyncDispose]() {
      await server[Symbol.asyncDispose]();
      await world[Symbol.asyncDispose]();
    },
  };
}

/**
 * The two ports of an agent of ann's, as agent/main.ts makes them, in front of services that count who gets in.
 *
 * @param owner Empty: the agent was started ahead, and has no session yet.
 */
async function agent(owner = "ann") {
  const gate = new Gate({ accessToken: "access", epoch: 1, owner });
  const credentials = await authority.identify({ kind: "agent", agentId: AGENT_ID });
  const served: string[] = [];
  const serve = (path: string) => {
    served.push(path);
    return (async function* () {})();
  };
  const server = new RpcServer({
    address: "127.0.0.1:0",
    credentials,
    accepts: (caller) => gate.accepts(caller),
    authorize: (path, context) => gate.authorize(path, context),
  }).add(Agent, {
    supervise: () => serve("/rbs.v1.Agent/Supervise"),
    executeCommand: () => serve("/rbs.v1.Agent/ExecuteCommand"),
  });
  const port = await server.listen();
  const listener = await TlsListener.listen({
    hostname: "127.0.0.1",
    credentials,
    accepts: (caller) => gate.accepts(caller),
  });
  const answer =
    (path: string) => (_: unknown, _headers: unknown, call: { write(b: Uint8Array): void; end(): void }) => {
      served.push(path);
      call.write(Buffer.alloc(0));
      call.end();
      return Promise.resolve();
    };
  const paths = [...Command.methods, ...Workspace.methods].map((m) => `/${m.parent.typeName}/${m.name}`);
  const commands = listenForProxy({
    at: listener,
    gate,
    handlers: Object.fromEntries(paths.map((path) => [path, answer(path)])),
    relay: answer("/command_server.CommandServer/*"),
    onError() {},
  });
  const expected = { kind: "agent", agentId: AGENT_ID } as const;
  return {
    served,
    ports: [port, commands.port],
    async call(path: string, caller: Caller): Promise<End> {
      const [, name, method] = path.split("/");
      if (name === Agent.typeName) return await callGrpc(Agent, port, expected, method, caller);
      const tls = caller && "certificate" in caller ? { credentials: () => caller, expected } : undefined;
      using connection = new Connection("127.0.0.1", commands.port, { tls });
      const headers = { authorization: "Bearer access", "rbs-epoch": "1" };
      return await connection.unary(path.replace("*", "Run"), Buffer.alloc(0), { headers });
    },
    async [Symbol.asyncDispose]() {
      commands.close();
      await server[Symbol.asyncDispose]();
    },
  };
}

function test(promise: string, fn: () => Promise<void>): void {
  // gRPC's channels close a moment after they are told to.
  Deno.test({ name: `rules: ${promise}`, fn, sanitizeOps: false, sanitizeResources: false });
}

const METHODS = Object.keys(GRPC_OPERATIONS);
const AT_AGENT = METHODS.filter((path) => ["owner", "orchestrator"].includes(ruleOf(path)!));
const AT_ORCHESTRATOR = METHODS.filter((path) => !AT_AGENT.includes(path));

test("at the orchestrator, nobody who is nobody gets anything, and is told why", async () => {
  await using at = await orchestrator();
  for (const [who, caller] of Object.entries(await strangers())) {
    for (const path of AT_ORCHESTRATOR) {
      const { code, message } = await at.call(path, caller);
      assert.equal(code, caller ? Code.UNAUTHENTICATED : Code.UNAVAILABLE, `${path}, ${who}: ${message}`);
      if (caller && ruleOf(path) !== "anyone") assert.match(message, /^The caller is not known here, since it/, who);
    }
  }
  assert.deepEqual(at.world.compute.agents, []);
});

test("at the orchestrator, those who are somebody may call what is for them, and nothing else", async () => {
  await using at = await orchestrator();
  for (const [who, identity, allowed] of KNOWN) {
    const caller = await authority.identify(identity);
    for (const path of AT_ORCHESTRATOR) {
      const { code, message } = await at.call(path, caller);
      const refused = /may not do/.test(message);
      assert.equal(refused, !allowed.includes(ruleOf(path)!), `${path}, ${who}: ${message}`);
      if (refused) assert.equal(code, Code.PERMISSION_DENIED);
      // The request is empty, which may be wrong; but the caller is not.
      else if (ruleOf(path) !== "anyone") assert.notEqual(code, Code.UNAUTHENTICATED, message);
    }
  }
});

test("at the orchestrator, a user has only the own sessions, whatever the request says", async () => {
  await using at = await orchestrator();
  const [ann, bob] = await Promise.all(["ann", "bob"].map((userId) => authority.identify({ kind: "user", userId })));
  const mine = { ...request(), userId: "" };
  const path = (method: string) => `/rbs.v1.Orchestrator/${method}`;
  assert.equal((await at.call(path("GetServer"), ann, mine)).code, Code.OK);
  for (const method of ["GetServer", "GetServerStream", "Heartbeat", "ReleaseServer", "ListSessions"]) {
    const { code, message } = await at.call(path(method), bob, { ...mine, userId: "ann" });
    assert.equal(code, Code.PERMISSION_DENIED, method);
    assert.match(message, /User "bob" may not act for user "ann"/);
  }
  assert.equal((await at.call(path("Heartbeat"), bob, mine)).code, Code.NOT_FOUND);
  assert.equal((await at.call(path("ReleaseServer"), bob, mine)).code, Code.OK);
  using client = createRpcClient(Orchestrator, `127.0.0.1:${at.port}`, {
    tls: { credentials: bob, expected: { kind: "orchestrator" } },
  });
  assert.deepEqual((await client.listSessions({})).sessions, []);
  assert.equal((await at.world.session())?.sessionId, A);
  assert.equal((await at.call(path("Heartbeat"), ann, mine)).code, Code.OK);
});

test("an operator sees the sessions of all users and ends one, and gets none, keeps none alive, and takes none over", async () => {
  await using at = await orchestrator();
  const [ann, bob] = await Promise.all(["ann", "bob"].map((userId) => authority.identify({ kind: "user", userId })));
  const ops = await authority.identify({ kind: "operator", name: "ops" });
  const own = { ...request(), userId: "" };
  for (const user of [ann, bob]) {
    assert.equal((await at.call("/rbs.v1.Orchestrator/GetServer", user, own)).code, Code.OK);
  }
  const tls = { credentials: ops, expected: { kind: "orchestrator" } } as const;
  using client = createRpcClient(Operator, `127.0.0.1:${at.port}`, { tls });
  const users = async () => (await client.listSessions({})).sessions.map(({ userId }) => userId).sort();
  assert.deepEqual(await users(), ["ann", "bob"]);
  for (const { name } of Orchestrator.methods) {
    for (const userId of ["", "ann", "ops"]) {
      const { code, message } = await at.call(`/rbs.v1.Orchestrator/${name}`, ops, { ...own, userId });
      assert.equal(code, Code.PERMISSION_DENIED, name);
      assert.match(message, /^Operator "ops" may not do session\.\w+, which is for users\.$/);
    }
  }
  // Only the one that was seen: it may have gone, and another be in its place.
  const [first] = (await client.listSessions({})).sessions;
  const { userId, repoHash, serverId, sessionId } = first;
  const stale = await client.endSession({ userId, repoHash, serverId, sessionId: "0".repeat(32) });
  assert.equal(stale.ended, false);
  const { code } = await at.call("/rbs.v1.Operator/EndSession", ops, { userId, repoHash, serverId });
  assert.equal(code, Code.INVALID_ARGUMENT);
  assert.deepEqual(await users(), ["ann", "bob"]);
  assert.equal((await client.endSession({ userId, repoHash, serverId, sessionId })).ended, true);
  assert.deepEqual(await users(), ["ann", "bob"].filter((user) => user !== userId));
  assert.equal((await client.endSession({ userId, repoHash, serverId, sessionId })).ended, false);
});

test("an operator is locked out apart from the user of the same name", async () => {
  await using at = await orchestrator();
  const operator = { kind: "operator", name: "ann" } as const;
  const [user, ops] = [await authority.identify(ANN), await authority.identify(operator)];
  const [own, all] = ["/rbs.v1.Orchestrator/ListSessions", "/rbs.v1.Operator/ListSessions"];
  const codes = async () => [(await at.call(own, user)).code, (await at.call(all, ops)).code];
  assert.deepEqual(await codes(), [Code.OK, Code.OK]);
  await at.identities.revoke(revocationName(ANN), `spiffe://${TRUST_DOMAIN}/user/ann`, Date.now());
  assert.deepEqual(await codes(), [Code.PERMISSION_DENIED, Code.OK]);
  await at.identities.revoke(revocationName(ANN), "", undefined);
  await at.identities.revoke(revocationName(operator), `spiffe://${TRUST_DOMAIN}/operator/ann`, Date.now());
  assert.deepEqual(await codes(), [Code.OK, Code.PERMISSION_DENIED]);
  const { message } = await at.call("/rbs.v1.Identity/RenewCertificate", ops, { certificateRequest: newKey().request });
  assert.match(message, /^Operator "ann" was locked out by the orchestrator's operator/);
});

test("at the orchestrator, a user who is locked out is so for every method, and gets no new certificate", async () => {
  await using at = await orchestrator();
  const ann = await authority.identify(ANN);
  const certificateRequest = newKey().request;
  const token = await at.enroller.issue(ANN, 60_000);
  await at.identities.revoke("ann", `spiffe://${TRUST_DOMAIN}/user/ann`, Date.now());
  for (const path of AT_ORCHESTRATOR.filter((path) => ruleOf(path) !== "operator")) {
    const { code, message } = await at.call(path, ann, { certificateRequest });
    assert.equal(code, Code.PERMISSION_DENIED, `${path}: ${message}`);
    assert.match(message, /was locked out by the orchestrator's operator/);
  }
  const issue = "/rbs.v1.Identity/IssueCertificate";
  // The token went with the user, and one that is made nevertheless is worth nothing.
  const stranger = { authorities: authority.certificate, trustDomain: TRUST_DOMAIN };
  assert.equal((await at.call(issue, stranger, { certificateRequest, token })).code, Code.UNAUTHENTICATED);
  const another = await at.enroller.issue(ANN, 60_000);
  const { code, message } = await at.call(issue, stranger, { certificateRequest, token: another });
  assert.equal(code, Code.PERMISSION_DENIED, message);
  assert.equal(
    (await at.call("/rbs.v1.Orchestrator/ListSessions", await authority.identify({ kind: "user", userId: "bob" })))
      .code,
    Code.OK,
  );
});

test("a certificate is renewed for who it is of, and for no agent whose session has ended", async () => {
  await using at = await orchestrator();
  const certificateRequest = newKey().request;
  const renew = async (identity: Identity) =>
    await at.call("/rbs.v1.Identity/RenewCertificate", await authority.identify(identity), { certificateRequest });
  assert.equal((await renew(ANN)).code, Code.OK);
  assert.equal((await renew({ kind: "agent", agentId: AGENT_ID })).code, Code.OK);
  assert.equal((await renew({ kind: "operator", name: "ops" })).code, Code.OK);
  const gone = await renew({ kind: "agent", agentId: "b".repeat(32) });
  assert.deepEqual(gone, { code: Code.PERMISSION_DENIED, message: "The agent's session has ended." });
});

test("at an agent, nobody who is nobody gets a word", async () => {
  await using at = await agent();
  for (const [who, caller] of Object.entries(await strangers())) {
    for (const path of AT_AGENT) {
      const { code, message } = await at.call(path, caller);
      assert.notEqual(code, Code.OK, `${path}, ${who}`);
      assert(!/rbs\.v1|session/.test(message), `${path}, ${who}: ${message}`);
    }
  }
  assert.deepEqual(at.served, []);
});

test("at an agent, the owner may call what is the owner's, the orchestrator Supervise, and others nothing", async () => {
  await using at = await agent();
  for (const [who, identity, allowed] of KNOWN) {
    const caller = await authority.identify(identity);
    for (const path of AT_AGENT) {
      const { code, message } = await at.call(path, caller);
      const may = allowed.includes(ruleOf(path)!);
      if (allowed.includes("owner") || allowed.includes("orchestrator")) {
        assert.equal(code, may ? Code.OK : Code.PERMISSION_DENIED, `${path}, ${who}: ${message}`);
      } else assert.notEqual(code, Code.OK, `${path}, ${who}`); // cut off before it can say anything
      assert.deepEqual(at.served.splice(0), may ? [path] : []);
    }
  }
});

test("an agent says no byte of HTTP/2 to who is neither the owner nor the orchestrator, nor listens to one", async () => {
  for (const owner of ["ann", ""]) {
    await using at = await agent(owner);
    for (const [who, identity] of KNOWN) {
      const { certificate: cert, privateKey: key, authorities: ca } = await authority.identify(identity);
      for (const port of at.ports) {
        const heard = await new Promise<number>((resolve) => {
          const options = { servername: "agent.rbs.internal", ALPNProtocols: ["h2"], cert, key, ca };
          const socket = connectTls({ host: "127.0.0.1", port, ...options });
          socket.on("data", ({ length }: Uint8Array) => (resolve(length), socket.destroy()));
          socket.on("error", () => {});
          socket.on("close", () => resolve(0));
        });
        const isWelcome: boolean = identity.kind === "orchestrator" || (owner !== "" && identity === ANN);
        assert.equal(heard > 0, isWelcome, `${who}, of an agent of ${owner || "nobody"}: ${heard} bytes`);
      }
    }
  }
});

test("nobody speaks TLS 1.1", async () => {
  await using one = await orchestrator();
  await using other = await agent();
  // A ClientHello of TLS 1.1 (RFC 4346, 7.4.1.2) with one cipher suite.
  const body = `01000029 0302 ${"ab".repeat(32)} 00 0002c009 0100`.replaceAll(" ", "");
  const hello = Buffer.from(`160301${(body.length / 2).toString(16).padStart(4, "0")}${body}`, "hex");
  for (const port of [one.port, ...other.ports]) {
    const answer = await new Promise<Buffer>((resolve) => {
      const all: Buffer[] = [];
      const socket = connectTcp(port, "127.0.0.1", () => socket.write(hello));
      socket.on("data", (chunk: Buffer) => all.push(chunk));
      socket.on("error", () => {});
      socket.on("close", () => resolve(Buffer.concat(all)));
    });
    // At most an alert (21); not a ServerHello, which is a handshake message (22).
    assert.notEqual(answer[0], 22);
  }
});
