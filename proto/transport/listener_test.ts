/** What holds for each listener, whatever is served on it: here, a line of text is answered by who its caller is. */
import assert from "node:assert/strict";
import { connect as connectTcp, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import type { Caller } from "../identity/access_rules.ts";
import { testAuthority } from "../testing/keys.ts";
import type { AdmissionControl, AdmissionLimits } from "./admission.ts";
import type { AcceptedConnection, Listener } from "./listener.ts";
import { TcpListener } from "./tcp_listener.ts";
import { TlsListener } from "./tls/listener.ts";

const authority = await testAuthority();
const ann = await authority.identify({ kind: "user", userId: "ann" });

/** Answers each line by a word, as a server of HTTP/1.1 would: it knows of the connection what the interface says. */
async function answerLines({ transport, admission, caller }: AcceptedConnection): Promise<void> {
  const buffer = new Uint8Array(1024);
  try {
    for (let length; (length = await transport.read(buffer)) !== null;) {
      const line = new TextDecoder().decode(buffer.subarray(0, length));
      if (line === "the password\n") admission.admit();
      await transport.write(new TextEncoder().encode(`${nameOf(caller)} ${admission.admitted}\n`));
    }
  } catch { /* it was cut */ }
  transport.close();
}

const nameOf = ({ identity, stranger }: Caller) => identity?.kind ?? stranger;

/** A listener with something served on it, and a way to reach it. */
interface Served {
  listener: Listener & { admission: AdmissionControl };
  /** Who calls is somebody, by the connection alone. */
  knows: boolean;
  name: string;
  connect(): Socket;
}

async function served(limits: Partial<AdmissionLimits> = {}): Promise<Served[]> {
  const tcp = new TcpListener({ hostname: "127.0.0.1", limits });
  const tls = await TlsListener.listen({
    hostname: "127.0.0.1",
    credentials: await authority.identify({ kind: "orchestrator" }, { names: ["orchestrator.rbs.internal"] }),
    protocol: "http/1.1",
    admitStrangers: true,
    limits,
  });
  const at = { host: "127.0.0.1", servername: "orchestrator.rbs.internal", ALPNProtocols: ["http/1.1"] };
  const trust = { ...at, ca: authority.certificate };
  const own = { cert: ann.certificate, key: ann.privateKey };
  const all: Served[] = [
    { listener: tcp, knows: false, name: "it speaks plain text", connect: () => connectTcp(tcp.port, "127.0.0.1") },
    {
      listener: tls,
      knows: false,
      name: "it shows no certificate",
      connect: () => connectTls({ ...trust, port: tls.port }),
    },
    { listener: tls, knows: true, name: "user", connect: () => connectTls({ ...trust, ...own, port: tls.port }) },
  ];
  for (const listener of [tcp, tls]) listener.start((connection) => void answerLines(connection));
  return all;
}

/** What is answered to a line; undefined: the connection ends. */
function ask(socket: Socket, line: string): Promise<string | undefined> {
  return new Promise((resolve) => {
    socket.on("error", () => {});
    socket.once("data", (data: Uint8Array) => resolve(new TextDecoder().decode(data).trim()));
    socket.once("close", () => resolve(undefined));
    socket.write(`${line}\n`);
  });
}

async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setTimeout(resolve, 1));
}

Deno.test("whatever is served on it, a listener says who calls, counts each connection, and knows when it is over", async () => {
  const all = await served();
  for (const { listener: { admission }, knows, name, connect } of all) {
    const socket = connect();
    assert.equal(await ask(socket, "who am I"), `${name} ${knows}`);
    assert.deepEqual([admission.connections, admission.strangers], [1, knows ? 0 : 1], name);
    // By what it sends, a stranger can prove itself to whatever is served.
    assert.equal(await ask(socket, "the password"), `${name} true`);
    assert.equal(admission.strangers, 0);
    socket.end();
    await until(() => admission.connections === 0);
  }
  for (const { listener } of all) listener.close();
});

Deno.test("whatever is served on it, a listener bounds its strangers: the one that was there longest is cut", async () => {
  const all = await served({ strangers: 2 });
  for (const { listener: { admission }, knows, connect } of all) {
    if (knows) continue;
    const first = connect();
    const cut = new Promise<void>((resolve) => first.on("close", () => resolve()));
    const sockets = [first];
    // One after the other, so that they become strangers in this order.
    assert.notEqual(await ask(first, "who am I"), undefined);
    for (let more = 0; more < 2; more++) {
      const socket = connect();
      sockets.push(socket);
      assert.notEqual(await ask(socket, "who am I"), undefined);
    }
    await cut;
    assert.equal(admission.strangers, 2);
    for (const socket of sockets) socket.destroy();
    await until(() => admission.connections === 0);
  }
  for (const { listener } of all) listener.close();
});

Deno.test("a listener of one protocol cuts off who asks for another", async () => {
  const all = await served();
  const { listener } = all[1];
  for (const asked of [["h2"], []]) {
    const socket = connectTls({
      host: "127.0.0.1",
      port: listener.port,
      servername: "orchestrator.rbs.internal",
      ALPNProtocols: asked,
      ca: authority.certificate,
    });
    assert.equal(await ask(socket, "who am I"), undefined, String(asked));
  }
  await until(() => listener.admission.connections === 0);
  for (const { listener } of all) listener.close();
});
