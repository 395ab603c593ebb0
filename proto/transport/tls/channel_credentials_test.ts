import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { connect as connectTcp } from "node:net";
import { connect as connectTls } from "node:tls";
import { Orchestrator } from "../../contract/gen/rbs/v1/orchestrator_pb.ts";
import type { Credentials } from "../../identity/credentials.ts";
import type { Identity } from "../../identity/spiffe.ts";
import { type CallContext, Code, createRpcClient, RpcError, TrustError } from "../rpc/client.ts";
import { RpcServer } from "../rpc/server.ts";
import { TestAuthority, TRUST_DOMAIN } from "../../testing/certificates.ts";
import { ORCHESTRATOR_NAME, orchestratorCredentials, testAuthority } from "../../testing/keys.ts";
import { type ClientTls, SERVER_NAMES } from "./channel_credentials.ts";

const authority = await testAuthority();
const ann = await authority.identify({ kind: "user", userId: "ann" }, { names: [] });
const SESSION = "0".repeat(32);

/** A server that answers a heartbeat to whoever may speak, and remembers who that was. */
async function serve(options: { admitStrangers?: boolean; credentials?: Credentials } = {}) {
  const seen: Pick<CallContext, "identity" | "stranger">[] = [];
  const server = new RpcServer({
    address: "127.0.0.1:0",
    credentials: await orchestratorCredentials(),
    authorize: (_, { identity, stranger }) => void seen.push({ identity, stranger }),
    ...options,
  }).add(Orchestrator, { heartbeat: () => Promise.resolve({ intervalSeconds: 7 }) } as never);
  const address = `127.0.0.1:${await server.listen()}`;
  return {
    server,
    seen,
    /** One call on a connection of its own. */
    async call(credentials: ClientTls["credentials"], expected: ClientTls["expected"] = { kind: "orchestrator" }) {
      using client = createRpcClient(Orchestrator, address, { tls: { credentials, expected } });
      return (await client.heartbeat({}, { timeoutMs: 10_000 })).intervalSeconds;
    },
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
}

const distrusts = (promise: Promise<unknown>, why: RegExp) =>
  assert.rejects(promise, (e) => {
    assert(e instanceof TrustError, String(e));
    assert.equal(e.code, Code.UNAUTHENTICATED);
    assert.match(e.why, why);
    return true;
  });

function test(promise: string, fn: () => Promise<void>): void {
  // gRPC's channels close a moment after they are told to.
  Deno.test({ name: `gRPC with TLS: ${promise}`, fn, sanitizeOps: false, sanitizeResources: false });
}

test("the names that are asked for are those in the certificates of tests", () => {
  assert.equal(SERVER_NAMES.orchestrator, ORCHESTRATOR_NAME);
  return Promise.resolve();
});

test("a server knows each of its callers by the certificate, also when they come at once", async () => {
  await using s = await serve();
  const callers: Identity[] = [
    ...["ann", "bob", "eve"].map((userId) => ({ kind: "user" as const, userId })),
    { kind: "agent", agentId: SESSION },
    { kind: "orchestrator" },
  ];
  for (const caller of callers) {
    assert.equal(await s.call(await authority.identify(caller)), 7);
    assert.deepEqual(s.seen.splice(0), [{ identity: caller, stranger: undefined }]);
  }
  await Promise.all(callers.map(async (caller) => await s.call(await authority.identify(caller))));
  const names = (all: (Identity | undefined)[]) => all.map((identity) => JSON.stringify(identity)).sort();
  assert.deepEqual(names(s.seen.map(({ identity }) => identity)), names(callers));
});

test("a client speaks to nobody who is not whom it expects", async () => {
  const imposters: Identity[] = [{ kind: "user", userId: "ann" }, { kind: "agent", agentId: SESSION }];
  for (const imposter of imposters) {
    // Though its certificate has the right name.
    const credentials = await authority.identify(imposter, { names: [ORCHESTRATOR_NAME] });
    await using s = await serve({ credentials });
    await distrusts(s.call(ann), /^it is not spiffe:\/\/rbs\.test\/orchestrator that answers there, but spiffe:.*\w$/);
    assert.deepEqual(s.seen, []);
  }
  const cases = [
    { uris: [] },
    { uris: [`spiffe://${TRUST_DOMAIN}/orchestrator`, `spiffe://${TRUST_DOMAIN}/user/ann`] },
    { uris: ["spiffe://other.test/orchestrator"] },
  ];
  for (const { uris } of cases) {
    await using s = await serve({ credentials: await authority.certify({ uris, names: [ORCHESTRATOR_NAME] }) });
    await distrusts(s.call(ann), /but nobody of rbs\.test$/);
  }
  const now = Date.now();
  const invalid = [
    { notBefore: new Date(now - 2_000), notAfter: new Date(now - 1_000) },
    { notBefore: new Date(now + 600_000) },
    { usages: ["client"] as const },
  ];
  for (const options of invalid) {
    const credentials = await authority.identify({ kind: "orchestrator" }, { names: [ORCHESTRATOR_NAME], ...options });
    await using s = await serve({ credentials });
    await assert.rejects(s.call(ann), RpcError);
    assert.deepEqual(s.seen, []);
  }
  await using s = await serve({ credentials: await orchestratorCredentials(await TestAuthority.make()) });
  await distrusts(s.call(ann), /not of the authority that this side trusts/);
  await using one = await serve({ credentials: await authority.identify({ kind: "agent", agentId: SESSION }) });
  assert.equal(await one.call(ann, { kind: "agent", agentId: SESSION }), 7);
  await distrusts(one.call(ann, { kind: "agent", agentId: "1".repeat(32) }), /\/session\/1+\/agent that answers/);
});

/** Callers that are nobody, and what a server says of them. */
async function strangers(): Promise<[RegExp, ClientTls["credentials"]][]> {
  const { authorities, trustDomain } = ann;
  const now = Date.now();
  const user = { kind: "user", userId: "ann" } as const;
  const other = await (await TestAuthority.make()).identify(user);
  return [
    [/it shows no certificate/, { authorities, trustDomain }],
    [/not of the authority that is trusted here/, { ...other, authorities }],
    [
      /has expired/,
      await authority.identify(user, { notBefore: new Date(now - 2_000), notAfter: new Date(now - 1_000) }),
    ],
    [/is not valid before/, await authority.identify(user, { notBefore: new Date(now + 600_000) })],
    [/not of the authority that is trusted here/, await authority.identify(user, { usages: ["server"] })],
    [
      /names nobody of rbs\.test/,
      await authority.certify({ uris: ["spiffe://rbs.test/user/ann", "spiffe://rbs.test/user/bob"] }),
    ],
    [/names nobody of rbs\.test/, await authority.certify({ uris: ["spiffe://other.test/user/ann"] })],
  ];
}

test("a caller who is nobody has no identity, and the server can say why", async () => {
  await using s = await serve({ admitStrangers: true });
  for (const [why, credentials] of await strangers()) {
    await s.call(credentials);
    const [{ identity, stranger }] = s.seen.splice(0);
    assert.equal(identity, undefined);
    assert.match(stranger ?? "", why);
  }
});

test("where strangers are not admitted, they get no word", async () => {
  await using s = await serve();
  for (const [, credentials] of await strangers()) await assert.rejects(s.call(credentials), RpcError);
  assert.deepEqual(s.seen, []);
  assert.equal(await s.call(ann), 7);
});

test("plain text, TLS 1.1, and TLS without HTTP/2 get no word", async () => {
  await using s = await serve({ admitStrangers: true });
  const port = s.server.port;
  using plain = createRpcClient(Orchestrator, `127.0.0.1:${port}`);
  await assert.rejects(plain.heartbeat({}, { timeoutMs: 10_000 }), RpcError);
  const answer = (hello: Uint8Array) =>
    new Promise<Buffer>((resolve) => {
      const all: Buffer[] = [];
      const socket = connectTcp(port, "127.0.0.1", () => socket.write(hello));
      socket.on("data", (chunk: Buffer) => all.push(chunk));
      socket.on("error", () => {});
      socket.on("close", () => resolve(Buffer.concat(all)));
    });
  await answer(Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"));
  // A ClientHello of TLS 1.1 (RFC 4346, 7.4.1.2) with one cipher suite; the answer is an alert (21), no ServerHello (22).
  const hello = Buffer.from(`16030100 2d 01000029 0302 ${"ab".repeat(32)} 00 0002c009 0100`.replaceAll(" ", ""), "hex");
  const body = hello.subarray(5);
  hello.writeUInt16BE(body.length, 3);
  const [type] = await answer(hello);
  assert.notEqual(type, 22);
  const closed = Promise.withResolvers<void>();
  const http1 = connectTls({ port, host: "127.0.0.1", servername: ORCHESTRATOR_NAME, ca: ann.authorities });
  http1.on("error", () => {});
  http1.on("close", () => closed.resolve());
  http1.write("GET / HTTP/1.1\r\n\r\n");
  await closed.promise;
  assert.deepEqual(s.seen, []);
});

test("who comes after the credentials were replaced sees the new ones, and who is there stays", async () => {
  await using s = await serve();
  using before = createRpcClient(Orchestrator, `127.0.0.1:${s.server.port}`, {
    tls: { credentials: ann, expected: { kind: "orchestrator" } },
  });
  await before.heartbeat({});
  const other = await TestAuthority.make();
  s.server.replaceCredentials(await orchestratorCredentials(other));
  await before.heartbeat({});
  await distrusts(s.call(ann), /not of the authority that this side trusts/);
  assert.equal(await s.call(await other.identify({ kind: "user", userId: "ann" })), 7);
});
