/**
 * An HTTP/2 peer that we did not write, in a process of its own (a GOAWAY may end a Deno that uses node:http2,
 * denoland/deno#36788). Says what it found as one line of JSON.
 *
 *     http2_peer.ts grpc-client PORT     calls our server through grpc-js
 *     http2_peer.ts grpc-server          serves our client with grpc-js; its first line is the port; ends with stdin
 *     http2_peer.ts node-client PORT     requests with node:http2: padding, indexed headers, small tables
 *     http2_peer.ts node-server          as grpc-server, with node:http2
 *     http2_peer.ts node-encoder         sends requests with repeated headers to PORT of a plain TCP server
 */
import * as grpc from "@grpc/grpc-js";
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import http2 from "node:http2";
import type { AddressInfo } from "node:net";
import process from "node:process";

const identity = (b: Buffer) => b;
const sha = (b: Uint8Array) => createHash("sha256").update(b).digest("hex");
const say = (value: unknown) => Deno.stdout.writeSync(new TextEncoder().encode(JSON.stringify(value) + "\n"));
const UNLIMITED = { "grpc.max_receive_message_length": -1, "grpc.max_send_message_length": -1 };

async function grpcClient(port: string): Promise<unknown> {
  const client = new grpc.Client(`127.0.0.1:${port}`, grpc.credentials.createInsecure(), UNLIMITED);
  const unary = (path: string, request: Buffer, metadata = new grpc.Metadata()) =>
    new Promise<{ code: number; details: string; response?: string; trailers?: string }>((resolve) =>
      client.makeUnaryRequest(path, identity, identity, request, metadata, (e, r) =>
        resolve({
          code: e?.code ?? 0,
          details: e?.details ?? "",
          response: r && sha(r),
          trailers: e?.metadata.get("x-detail").join(),
        }))
    );
  const echoed = Buffer.alloc(3_000_000, "echo ");
  const metadata = new grpc.Metadata();
  for (let i = 0; i < 40; i++) metadata.set(`x-large-${i}`, `${i}`.repeat(1000));
  const echo = await unary("/t/Echo", echoed, metadata);
  const failure = await unary("/t/Fail", Buffer.from("x"));
  const many = await Promise.all(Array.from({ length: 100 }, (_, i) => unary("/t/Echo", Buffer.from(`message ${i}`))));
  const download = await new Promise((resolve) => {
    const call = client.makeServerStreamRequest("/t/Download", identity, identity, Buffer.alloc(0));
    const hash = createHash("sha256");
    let bytes = 0;
    call.on("data", (b: Buffer) => (bytes += b.length, hash.update(b)));
    call.on("error", (e) => resolve(String(e)));
    call.on("end", () => resolve({ bytes, hash: hash.digest("hex") }));
  });
  client.close();
  return {
    echo: echo.response === sha(echoed),
    failure,
    many: many.every((m, i) => m.response === sha(Buffer.from(`message ${i}`))),
    download,
  };
}

async function grpcServer(): Promise<number> {
  const server = new grpc.Server(UNLIMITED);
  const method = (name: string, responseStream: boolean) => ({
    path: `/t/${name}`,
    requestStream: false,
    responseStream,
    requestSerialize: identity,
    requestDeserialize: identity,
    responseSerialize: identity,
    responseDeserialize: identity,
  });
  server.addService({ Echo: method("Echo", false), Fail: method("Fail", false), Download: method("Download", true) }, {
    Echo: (call: grpc.ServerUnaryCall<Buffer, Buffer>, done: grpc.sendUnaryData<Buffer>) => done(null, call.request),
    Fail: (_: unknown, done: grpc.sendUnaryData<Buffer>) => done({ code: 9, details: "It is ü\n100%." }),
    Download: async (call: grpc.ServerWritableStream<Buffer, Buffer>) => {
      for (let i = 0; i < 100; i++) {
        if (!call.write(Buffer.alloc(1 << 20, i))) await new Promise((r) => call.once("drain", r));
      }
      call.end();
    },
  });
  return await new Promise((resolve, reject) =>
    server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (e, port) => e ? reject(e) : resolve(port))
  );
}

async function nodeClient(port: string): Promise<unknown> {
  const session = http2.connect(`http://127.0.0.1:${port}`, {
    paddingStrategy: http2.constants.PADDING_STRATEGY_MAX,
    settings: { headerTableSize: 0, initialWindowSize: 1000 },
  });
  const request = (body: Buffer, headers: http2.OutgoingHttpHeaders) =>
    new Promise<string>((resolve, reject) => {
      const stream = session.request({ ":method": "POST", ":path": "/t/Echo", te: "trailers", ...headers });
      const chunks: Buffer[] = [];
      let status = "";
      stream.on("trailers", (t) => status = String(t["grpc-status"]));
      stream.on("data", (b: Buffer) => chunks.push(b));
      stream.on("error", reject);
      stream.on("close", () => resolve(`${status} ${sha(Buffer.concat(chunks))}`));
      stream.end(body);
    });
  const results: boolean[] = [];
  for (let i = 0; i < 5; i++) {
    const body = Buffer.concat([Buffer.from([0]), Buffer.alloc(4), Buffer.alloc(50_000 * i, i)]);
    body.writeUInt32BE(body.length - 5, 1);
    results.push(await request(body, { "x-repeated": "the same value", "x-number": i }) === `0 ${sha(body)}`);
  }
  const ping = await new Promise((resolve) => session.ping(Buffer.from("12345678"), (e, _, p) => resolve(e ?? `${p}`)));
  session.destroy();
  return { results, ping };
}

async function nodeServer(): Promise<number> {
  const server = http2.createServer({ settings: { initialWindowSize: 100_000, maxFrameSize: 20_000 } });
  server.on("stream", (stream: http2.ServerHttp2Stream, headers: http2.IncomingHttpHeaders) => {
    const path = headers[":path"];
    if (path === "/t/TrailersOnly") {
      return stream.respond({ "grpc-status": "7", "grpc-message": "no%20entry" }, { endStream: true });
    }
    if (path === "/t/Early") { // answers without reading the request
      stream.respond({ ":status": 200 }, { waitForTrailers: true });
      stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": "8" }));
      return void stream.end();
    }
    const hash = createHash("sha256");
    let bytes = 0;
    stream.on("data", (b: Buffer) => (bytes += b.length, hash.update(b)));
    stream.on("error", () => {});
    stream.on("end", () => {
      stream.respond({ ":status": 200, "x-large": "v".repeat(30_000) }, { waitForTrailers: true });
      stream.on(
        "wantTrailers",
        () => stream.sendTrailers({ "grpc-status": "0", "x-bytes": bytes, "x-hash": hash.digest("hex") }),
      );
      stream.end();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return (server.address() as AddressInfo).port;
}

async function nodeEncoder(port: string): Promise<string[]> {
  const session = http2.connect(`http://127.0.0.1:${port}`);
  session.on("error", () => {});
  for (let i = 0; i < 20; i++) {
    const stream = session.request({
      ":path": `/path/${i % 3}`,
      "x-repeated": "the same value, again and again",
      "x-number": String(i),
      "x-never-indexed": "secret",
      "x-long": "0123456789".repeat(i * 50),
      [http2.sensitiveHeaders]: ["x-never-indexed"],
    });
    stream.on("error", () => {});
    stream.end();
  }
  await new Promise((resolve) => session.on("close", resolve));
  return [];
}

const [what, port] = Deno.args;
if (what.endsWith("-server")) {
  say(await (what === "grpc-server" ? grpcServer() : nodeServer()));
  await new Promise((resolve) => process.stdin.on("end", resolve).resume());
} else if (what === "grpc-client") say(await grpcClient(port));
else if (what === "node-client") say(await nodeClient(port));
else await nodeEncoder(port);
Deno.exit(0);
