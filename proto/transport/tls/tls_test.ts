/** Both ends of mutual TLS, against each other and against who breaks the rules. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { type AddressInfo, connect as connectTcp, createServer as createTcpServer, type Socket } from "node:net";
import { connect, createServer } from "node:tls";
import type { Admission } from "../admission.ts";
import type { Transport } from "../transport.ts";
import type { Credentials } from "../../identity/credentials.ts";
import type { Identity } from "../../identity/spiffe.ts";
import { type CertificateOptions, TestAuthority } from "../../testing/certificates.ts";
import { eventually } from "../../../tests/support/eventually.ts";
import { connectTls, TrustError } from "./client.ts";
import { TlsListener, type TlsListenerOptions } from "./listener.ts";
import { HTTP_2, secureContext } from "./settings.ts";

const AGENT = { kind: "agent", agentId: "a".repeat(32) } as const;
const ANN = { kind: "user", userId: "ann" } as const;
const HOUR_MS = 3600_000;
const EXPIRED = { notBefore: new Date(Date.now() - 2 * HOUR_MS), notAfter: new Date(Date.now() - HOUR_MS) };
const NOT_YET = { notBefore: new Date(Date.now() + HOUR_MS), notAfter: new Date(Date.now() + 2 * HOUR_MS) };
const never = new AbortController().signal;

const authority = await TestAuthority.make();
// Of the same name: only the key tells them apart.
const other = await TestAuthority.make();
const agent = await authority.identify(AGENT);
const ann = await authority.identify(ANN);
/** Credentials of another authority, which trust ours. */
const foreign = async (identity: Identity) => ({
  ...await other.identify(identity),
  authorities: authority.certificate,
});

/** A listener that says "hello" to each caller, and keeps what it is told. */
async function listen(options: Partial<TlsListenerOptions> = {}) {
  const refusals: string[] = [];
  const callers: { transport: Transport; peer?: Identity; stranger?: string; admission: Admission }[] = [];
  const listener = await TlsListener.listen({
    hostname: "127.0.0.1",
    credentials: agent,
    onRefused: (why) => refusals.push(why),
    ...options,
  });
  listener.start(({ transport, admission, caller: { identity, stranger } }) => {
    callers.push({ transport, peer: identity, stranger, admission });
    void transport.write(Buffer.from("hello")).catch(() => {});
  });
  return {
    listener,
    port: listener.port,
    refusals,
    callers,
    [Symbol.dispose]() {
      listener.close();
      for (const { transport } of callers) transport.close();
    },
  };
}

function dial(port: number, credentials: Credentials = ann, expected: Identity = AGENT): Promise<Transport> {
  return connectTls("127.0.0.1", port, { credentials: () => credentials, expected }, never);
}

/** Reads until there are `length` bytes, or the end. */
async function take(transport: Transport, length: number): Promise<string> {
  let text = "";
  const buffer = new Uint8Array(length);
  while (text.length < length) {
    const n = await transport.read(buffer.subarray(0, length - text.length));
    if (n === null) break;
    text += Buffer.from(buffer.subarray(0, n)).toString("latin1");
  }
  return text;
}

/** All that comes on a TCP connection until its end, by which side ever. */
async function drain(tcp: Deno.TcpConn): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for (;;) {
    const buffer = new Uint8Array(4096);
    const n = await tcp.read(buffer).catch(() => null);
    if (n === null) return Buffer.concat(parts);
    parts.push(buffer.subarray(0, n));
  }
}

const trust = (pattern: RegExp) => (e: unknown) => e instanceof TrustError && pattern.test(e.message);

Deno.test("tls: each side knows who the other is", async () => {
  for (const identity of [ANN, { kind: "orchestrator" }, { kind: "user", userId: "jürg, URI:x" }] as Identity[]) {
    using server = await listen();
    const client = await dial(server.port, await authority.identify(identity));
    assert.equal(await take(client, 5), "hello");
    assert.deepEqual(server.callers.map(({ peer }) => peer), [identity]);
    assert.equal(server.listener.admission.handshakes, 0);
    client.close();
  }
});

Deno.test("tls: a certificate needs no name, and the address does not matter", async () => {
  using server = await listen({ hostname: "localhost", credentials: await authority.identify(AGENT, { names: [] }) });
  const options = { credentials: () => ann, expected: AGENT };
  const client = await connectTls("localhost", server.port, options, never);
  assert.equal(await take(client, 5), "hello");
  client.close();
});

Deno.test("tls: a port where nobody listens is told as that", async () => {
  for (const hostname of ["127.0.0.1", "localhost"]) {
    const { port } = await (async () => {
      using server = await listen();
      return server;
    })();
    const options = { credentials: () => ann, expected: AGENT };
    await assert.rejects(connectTls(hostname, port, options, never), /^Error: connection refused$/);
  }
});

Deno.test("tls: who does not prove who he is gets no word, and is told why", async (t) => {
  const certify = (options: CertificateOptions) => authority.certify(options);
  const cases: [string, Credentials, RegExp][] = [
    ["another authority", await foreign(ANN), /does not accept this side's certificate, which is not of an authority/],
    ["expired", await authority.identify(ANN, EXPIRED), /which expired at 20\d\d-.*: get a new one/],
    [
      "not yet valid",
      await authority.identify(ANN, NOT_YET),
      /which is valid from 20\d\d-.*: look at this machine's clock/,
    ],
    ["no URI", await certify({}), /does not accept/],
    [
      "two URIs",
      await certify({ uris: ["spiffe://rbs.test/user/ann", "spiffe://rbs.test/user/bob"] }),
      /does not accept/,
    ],
    ["another domain", await certify({ uris: ["spiffe://other.test/user/ann"] }), /does not accept/],
    ["a name only", await certify({ names: ["spiffe://rbs.test/user/ann"] }), /does not accept/],
    ["a server's certificate", await authority.identify(ANN, { usages: ["server"] }), /does not accept/],
  ];
  for (const [name, credentials, expected] of cases) {
    await t.step(name, async () => {
      using server = await listen();
      await assert.rejects(dial(server.port, credentials), trust(expected));
      await eventually(() => server.refusals.length === 1);
      assert.deepEqual(server.callers, []);
      assert.equal(server.listener.admission.handshakes, 0);
    });
  }
});

Deno.test("tls: a client without a certificate is refused", async () => {
  using server = await listen();
  for (const maxVersion of ["TLSv1.2", "TLSv1.3"] as const) {
    const socket = connect({
      host: "127.0.0.1",
      port: server.port,
      ca: authority.certificate,
      ALPNProtocols: [HTTP_2],
      checkServerIdentity: () => undefined,
      maxVersion,
    });
    const heard: unknown[] = [];
    socket.on("data", (data) => heard.push(data));
    const error = await new Promise<Error>((resolve) => socket.once("error", resolve));
    assert.match(error.message, /CertificateRequired|HandshakeFailure/);
    assert.deepEqual(heard, []);
  }
  assert.deepEqual(server.callers, []);
  assert.match(server.refusals[0], /^A caller was refused: peer sent no certificates\.$/);
});

Deno.test("tls: somebody known who has no business here is cut off after the handshake, before a word of HTTP/2", async () => {
  using server = await listen({
    accepts: (identity) => identity.kind === "orchestrator" || (identity.kind === "user" && identity.userId === "ann"),
  });
  const bob = await authority.identify({ kind: "user", userId: "bob" });
  for (const stranger of [bob, agent]) {
    await assert.rejects(dial(server.port, stranger), trust(/does not accept this side's certificate/));
  }
  assert.deepEqual(server.callers, []);
  assert.match(server.refusals[0], /^A caller was refused: user "bob" has no business here\.$/);
  for (const known of [ann, await authority.identify({ kind: "orchestrator" })]) {
    const client = await dial(server.port, known);
    assert.equal(await take(client, 5), "hello");
    client.close();
  }
  await eventually(() => server.listener.admission.connections === 0);
});

Deno.test("tls: strangers speak where they may, and are counted as such; who is known is admitted by the handshake", async () => {
  using server = await listen({ admitStrangers: true, limits: { strangers: 3 } });
  const known = await dial(server.port);
  assert.equal(await take(known, 5), "hello");
  const options = {
    host: "127.0.0.1",
    port: server.port,
    ca: authority.certificate,
    ALPNProtocols: [HTTP_2],
    checkServerIdentity: () => undefined,
  };
  const over: number[] = [];
  const sockets = [];
  for (let i = 0; i < 5; i++) {
    const socket = connect(i === 4 ? { ...options, ...secureContext(await foreign(ANN)) } : options);
    sockets.push(socket);
    socket.on("error", () => {});
    socket.on("close", () => over.push(i));
    assert.equal(String(await new Promise((resolve) => socket.once("data", resolve))), "hello");
  }
  await eventually(() => over.length === 2);
  assert.deepEqual(over, [0, 1], "those who came first");
  assert.deepEqual(server.callers.map(({ stranger }) => stranger), [
    undefined,
    ...Array(4).fill("it shows no certificate"),
    "its certificate is not of the authority that is trusted here",
  ]);
  assert.deepEqual(server.callers.map(({ admission }) => admission.admitted), [
    true,
    false,
    false,
    false,
    false,
    false,
  ]);
  assert.equal(server.listener.admission.strangers, 3);
  for (const socket of sockets) socket.destroy();
  await eventually(() => server.listener.admission.connections === 1);
  const [first] = server.callers;
  await known.write(Buffer.from("still here"));
  assert.equal(await take(first.transport, 10), "still here");
  known.close();
});

Deno.test("tls: one identity has only so many connections, and leaves room for others", async () => {
  using server = await listen({ limits: { connectionsPerIdentity: 2 } });
  const clients = [await dial(server.port), await dial(server.port)];
  await assert.rejects(dial(server.port), TrustError);
  assert.match(server.refusals[0], /too many connections of the same identity/);
  const bob = await dial(server.port, await authority.identify({ kind: "user", userId: "bob" }));
  clients[0].close();
  await eventually(() => server.listener.admission.connections === 2);
  const again = await dial(server.port);
  for (const client of [clients[1], bob, again]) client.close();
});

Deno.test("tls: a client that knows only old versions of TLS, or another protocol, is refused", async () => {
  using server = await listen();
  const version = (minor: number) => {
    const random = Buffer.alloc(32, 7);
    const hello = Buffer.concat([
      Buffer.from([3, minor]),
      random,
      Buffer.from([0, 0, 4, 0x00, 0x2f, 0xc0, 0x09, 1, 0, 0, 0]),
    ]);
    const message = Buffer.concat([Buffer.from([1, 0, 0, hello.length]), hello]);
    return Buffer.concat([Buffer.from([22, 3, 1, 0, message.length]), message]);
  };
  for (const minor of [0, 1, 2]) {
    const tcp = await Deno.connect({ hostname: "127.0.0.1", port: server.port });
    await tcp.write(version(minor));
    const answer = await drain(tcp);
    tcp.close();
    assert.equal(answer[0], 21, `TLS 1.${minor - 1} gets an alert: ${answer.toString("hex")}`);
    assert.equal(answer[5], 2, "which is fatal");
  }
  for (const ALPNProtocols of [["http/1.1"], undefined]) {
    const socket = connect({
      host: "127.0.0.1",
      port: server.port,
      ...secureContext(ann),
      ALPNProtocols,
      checkServerIdentity: () => undefined,
    });
    socket.on("error", () => {});
    socket.on("data", () => assert.fail("it was let in"));
    await new Promise((resolve) => socket.once("close", resolve));
  }
  assert.deepEqual(server.callers, []);
});

Deno.test("tls: an agent that is not the expected one gets no byte, and the client says who is there", async (t) => {
  const bob = { kind: "agent", agentId: "b".repeat(32) } as const;
  const cases: [string, Credentials, RegExp][] = [
    [
      "of another session",
      await authority.identify(bob),
      /^it is not spiffe:\/\/rbs\.test\/session\/a{32}\/agent that answers there, but spiffe:\/\/rbs\.test\/session\/b{32}\/agent$/,
    ],
    ["a user", await authority.identify(ANN), /but spiffe:\/\/rbs\.test\/user\/ann$/],
    ["the orchestrator", await authority.identify({ kind: "orchestrator" }), /but spiffe:\/\/rbs\.test\/orchestrator$/],
    ["nobody", await authority.certify({}), /^the peer's certificate names nobody in rbs\.test/],
    [
      "of another authority",
      await foreign(AGENT),
      /^the peer's certificate is expired, not valid yet, or not of an auth/,
    ],
    [
      "expired",
      await authority.identify(AGENT, EXPIRED),
      /^its certificate is valid from 20.* to 20.*, and this machine's clock says 20/,
    ],
    ["not yet valid", await authority.identify(AGENT, NOT_YET), /^its certificate is valid from 20.* clock says 20/],
    [
      "a client's certificate",
      await authority.identify(AGENT, { usages: ["client"] }),
      /^the peer's certificate is expired, not valid yet, or not of|^the connection ended during the TLS handshake/,
    ],
  ];
  for (const [name, credentials, expected] of cases) {
    await t.step(name, async () => {
      // Not a TlsListener: this one takes any caller.
      const heard: unknown[] = [];
      const server = createServer({ ...secureContext(credentials), ALPNProtocols: [HTTP_2] }, (socket) => {
        socket.on("error", () => {});
        socket.on("data", (data) => heard.push(data));
        socket.write("hello");
      });
      server.on("tlsClientError", (_, socket) => socket.destroy());
      await new Promise<void>((resolve) => server.listen({ host: "127.0.0.1", port: 0 }, resolve));
      const { port } = server.address() as { port: number };
      await assert.rejects(dial(port), (e: Error) => expected.test(e.message) || assert.fail(e));
      await new Promise((resolve) => server.close(resolve));
      assert.deepEqual(heard, []);
    });
  }
});

Deno.test("tls: the authorities of the system count for nothing", async () => {
  // The system's store is what Deno trusts when it is told nothing; here it is told of an authority that signed nothing.
  using server = await listen();
  const credentials = { ...ann, authorities: other.certificate };
  await assert.rejects(dial(server.port, credentials), trust(/not of an authority that this side trusts/));
});

Deno.test("tls: plain text on one side only is told as what it is", async () => {
  using server = await listen();
  const tcp = await Deno.connect({ hostname: "127.0.0.1", port: server.port });
  await tcp.write(Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
  assert.equal((await drain(tcp))[0], 21, "an alert");
  tcp.close();
  assert.match(server.refusals[0], /^A caller was refused: it does not speak TLS/);

  using plain = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const refused = assert.rejects(dial(plain.addr.port), trust(/^what answers there does not speak TLS/));
  using caller = await plain.accept();
  await caller.write(Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0]));
  await refused;
});

Deno.test("tls: a handshake that is cut off ends on both sides", async () => {
  using server = await listen();
  for (const cutAt of [1, 5, 50, 200]) {
    // A hello of a real client, of which only the beginning arrives.
    using trap = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const cut = assert.rejects(dial(trap.addr.port), /^Error: the connection ended during the TLS handshake/);
    const caller = await trap.accept();
    const hello = new Uint8Array(cutAt);
    let n = 0;
    while (n < cutAt) n += (await caller.read(hello.subarray(n)))!;
    caller.close();
    await cut;
    const tcp = await Deno.connect({ hostname: "127.0.0.1", port: server.port });
    await tcp.write(hello);
    tcp.close();
  }
  await eventually(() => server.listener.admission.handshakes === 0);
  assert.deepEqual(server.callers, []);
});

Deno.test("tls: a peer that says nothing is given up in time, by either side", async () => {
  using server = await listen({ limits: { handshakeMs: 100 } });
  const tcp = await Deno.connect({ hostname: "127.0.0.1", port: server.port });
  const began = performance.now();
  assert.equal((await drain(tcp)).length, 0);
  assert.ok(performance.now() - began < 2_000);
  tcp.close();
  await eventually(() => server.listener.admission.handshakes === 0);

  using silent = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const options = { credentials: () => ann, expected: AGENT };
  const signal = AbortSignal.timeout(100);
  const given = assert.rejects(connectTls("127.0.0.1", silent.addr.port, options, signal), /TimeoutError/);
  using caller = await silent.accept();
  await given;
  assert.ok((await drain(caller)).length > 0, "the hello, and then the end");
});

Deno.test("tls: many who say nothing do not keep others out", async () => {
  using server = await listen({ limits: { handshakes: 8, handshakeMs: 60_000 } });
  const silent: Deno.TcpConn[] = [];
  const ended: Promise<Buffer>[] = [];
  for (let i = 0; i < 50; i++) {
    const tcp = await Deno.connect({ hostname: "127.0.0.1", port: server.port });
    silent.push(tcp);
    ended.push(drain(tcp));
  }
  await Promise.all(ended.slice(0, 42));
  assert.equal(server.listener.admission.handshakes, 8);
  const client = await dial(server.port);
  assert.equal(await take(client, 5), "hello");
  client.close();
  for (const tcp of silent) tcp.close();
  await eventually(() => server.listener.admission.handshakes === 0);
});

Deno.test("tls: hundreds who say nothing may stay, since who is sent away comes again at once", async () => {
  using server = await listen();
  const silent = await Promise.all(
    Array.from({ length: 600 }, () => Deno.connect({ hostname: "127.0.0.1", port: server.port })),
  );
  await eventually(() => server.listener.admission.handshakes === 600);
  const client = await dial(server.port);
  assert.equal(await take(client, 5), "hello");
  assert.equal(server.listener.admission.handshakes, 600);
  client.close();
  for (const tcp of silent) tcp.close();
  await eventually(() => server.listener.admission.handshakes === 0);
});

Deno.test("tls: garbage after a good handshake ends that connection only", async () => {
  using server = await listen();
  using front = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const dialled = dial(front.addr.port);
  const near = await front.accept();
  const far = await Deno.connect({ hostname: "127.0.0.1", port: server.port });
  void near.readable.pipeTo(far.writable, { preventClose: true }).catch(() => {});
  const buffer = new Uint8Array(1 << 16);
  let garbage = false;
  (async () => {
    for (let n = await far.read(buffer); n !== null; n = await far.read(buffer)) {
      if (garbage) buffer.fill(0x17, 5, n); // the record's length stays, its content does not
      await near.write(buffer.subarray(0, n));
    }
  })().catch(() => {});
  const client = await dialled;
  assert.equal(await take(client, 5), "hello");
  garbage = true;
  await server.callers[0].transport.write(Buffer.from("a message that somebody changes"));
  await assert.rejects(client.read(new Uint8Array(100)));
  client.close();
  far.close();
  const another = await dial(server.port);
  assert.equal(await take(another, 5), "hello");
  another.close();
});

Deno.test("tls: credentials are replaced while it listens, and who is there stays", async () => {
  using server = await listen();
  const before = await dial(server.port);
  assert.equal(await take(before, 5), "hello");
  // Another certificate, another key, another authority.
  const renewed = await other.identify(AGENT);
  for (
    const broken of [{ privateKey: "none" }, { privateKey: ann.privateKey }, { certificate: "" }, { authorities: "" }]
  ) {
    assert.throws(
      () => server.listener.replaceCredentials({ ...renewed, ...broken }),
      /^RbsError: The certificate, its p/,
    );
  }
  const still = await dial(server.port);
  assert.equal(await take(still, 5), "hello");
  still.close();
  server.listener.replaceCredentials(renewed);
  await assert.rejects(dial(server.port), TrustError);
  await assert.rejects(dial(server.port, { ...ann, authorities: other.certificate }), trust(/does not accept/));
  const after = await dial(server.port, await other.identify(ANN));
  assert.equal(await take(after, 5), "hello");
  // No certificate at all is still too little.
  await assert.rejects(
    new Promise((resolve, reject) => {
      const options = { host: "127.0.0.1", port: server.port, ca: other.certificate, ALPNProtocols: [HTTP_2] };
      connect({ ...options, checkServerIdentity: () => undefined }).on("data", resolve).on("error", reject);
    }),
  );
  const [first] = server.callers;
  await before.write(Buffer.from("still here"));
  assert.equal(await take(first.transport, 10), "still here");
  await first.transport.write(Buffer.from("so am I"));
  assert.equal(await take(before, 7), "so am I");
  before.close();
  after.close();
});

Deno.test("tls: authorities may change in two steps, and certificates may come with those between", async () => {
  const both = `${other.certificate}\n${authority.certificate}\n`;
  using server = await listen({ credentials: { ...agent, authorities: both } });
  for (const credentials of [ann, { ...await other.identify(ANN), authorities: both }]) {
    const client = await dial(server.port, credentials);
    assert.equal(await take(client, 5), "hello");
    client.close();
  }
});

Deno.test("tls: what was written before the end arrives, all of it", async () => {
  using server = await listen();
  const client = await dial(server.port);
  assert.equal(await take(client, 5), "hello");
  const { transport } = server.callers[0];
  const chunk = Buffer.alloc(1 << 18);
  let sum = 0, expected = 0;
  const writing = (async () => {
    for (let i = 0; i < 64; i++) {
      // The same memory each time: it is ours again when the write resolves.
      chunk.fill(i);
      expected += i * chunk.length;
      await transport.write(chunk);
    }
    transport.close();
  })();
  const buffer = new Uint8Array(100_000);
  let bytes = 0;
  for (let n = await client.read(buffer); n !== null; n = await client.read(buffer)) {
    bytes += n;
    for (let i = 0; i < n; i++) sum += buffer[i];
  }
  await writing;
  assert.equal(bytes, 64 << 18);
  assert.equal(sum, expected);
  await assert.rejects(async () => {
    for (;;) await client.write(chunk);
  });
  client.close();
});

Deno.test("tls: a connection that is reset is told as broken, and one that is closed as ended, on either side", async () => {
  for (const side of ["client", "listener"] as const) {
    for (const how of ["reset", "closed"] as const) {
      using server = await listen();
      // A middlebox.
      const ways: Record<string, Socket> = {};
      const middle = createTcpServer((near) => {
        ways.client = near;
        const far = ways.listener = connectTcp(server.port, "127.0.0.1");
        near.pipe(far).pipe(near);
        for (const socket of [near, far]) socket.on("error", () => {});
      });
      await new Promise<void>((resolve) => middle.listen(0, "127.0.0.1", resolve));
      const client = await dial((middle.address() as AddressInfo).port);
      await eventually(() => server.callers.length === 1);
      const transports = { client, listener: server.callers[0].transport };
      assert.equal(await take(client, 5), "hello");
      const told = transports[side].read(new Uint8Array(10)).then((n) => n === null ? "closed" : n, () => "reset");
      if (how === "reset") ways[side].resetAndDestroy();
      else ways[side].destroy();
      assert.equal(await told, how, side);
      client.close();
      for (const way of Object.values(ways)) way.destroy();
      await new Promise((resolve) => middle.close(resolve));
    }
  }
});

Deno.test("tls: a network that takes nothing holds the writer back, on either side", async () => {
  using server = await listen();
  using front = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const dialled = dial(front.addr.port);
  using near = await front.accept();
  using far = await Deno.connect({ hostname: "127.0.0.1", port: server.port });
  let open = Promise.resolve(), opened = () => {};
  const forward = async (from: Deno.TcpConn, to: Deno.TcpConn) => {
    const buffer = new Uint8Array(1 << 16);
    for (let n = await from.read(buffer); n !== null; n = await from.read(buffer)) {
      await open;
      for (let at = 0; at < n;) at += await to.write(buffer.subarray(at, n));
    }
  };
  void forward(near, far).catch(() => {});
  void forward(far, near).catch(() => {});
  const client = await dialled;
  assert.equal(await take(client, 5), "hello");
  const ends = [client, server.callers[0].transport];
  for (const [from, to] of [ends, ends.toReversed()]) {
    ({ promise: open, resolve: opened } = Promise.withResolvers<void>());
    const chunk = new Uint8Array(1 << 18);
    let written = 0, last = performance.now(), enough = false;
    const writing = (async () => {
      while (!enough) {
        written += await from.write(chunk);
        last = performance.now();
      }
    })();
    await eventually(() => written > 0 && performance.now() - last > 300);
    assert.ok(written < 32 << 20, `${written} bytes are on their way, of which the kernel has most`);
    enough = true;
    opened();
    await writing;
    for (let n = 0; n < written;) n += (await to.read(chunk))!;
  }
  client.close();
});

Deno.test("tls: a reader that does not read costs the connection, and not the memory", async () => {
  using server = await listen();
  const client = await dial(server.port);
  const { transport } = server.callers[0];
  await assert.rejects(async () => {
    for (;;) await transport.write(new Uint8Array(1 << 20));
  });
  await assert.rejects(async () => {
    for (;;) await client.read(new Uint8Array(1 << 20));
  }, /more came than was read/);
});
