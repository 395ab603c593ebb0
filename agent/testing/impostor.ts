/**
 * For tests: a program of a session that ends its Bazel server and takes its place: the port, if it can have it, the
 * files by which it is found, again and again, and the words on its command line. Each Run is answered with an order to
 * execute a program. Arguments: the output base; a file that takes the names of the methods that were called; the
 * server's jar, which does nothing but stand there.
 */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Buffer } from "node:buffer";
import {
  PingResponseSchema,
  RunResponseSchema,
  ServerInfoSchema,
} from "../../proto/contract/gen/bazel/v1/command_server_pb.ts";
import { listenForCalls } from "../../proto/transport/grpc/server.ts";
import { TcpListener } from "../../proto/transport/tcp_listener.ts";
import { unaryRequest } from "../../proto/transport/grpc/calls.ts";

const [outputBase, calls] = Deno.args;
const server = `${outputBase}/server`;
const real = fromBinary(ServerInfoSchema, Deno.readFileSync(`${server}/server_info.rawproto`));
const [, host, port] = /^(.*):(\d+)$/.exec(real.address)!;

Deno.kill(real.pid, "SIGKILL");
let at: TcpListener;
for (;;) {
  try {
    at = new TcpListener({ hostname: host.replace(/^\[|\]$/g, ""), port: Number(port), trusted: true });
    break;
  } catch {
    // It is just ending.
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}
const cookie = real.responseCookie;
listenForCalls(at, async (stream, headers, call) => {
  await unaryRequest(stream, 64 << 20);
  const method = headers[":path"].split("/").at(-1);
  Deno.writeTextFileSync(calls, `${method}\n`, { append: true });
  if (method === "Ping") call.write(toBinary(PingResponseSchema, create(PingResponseSchema, { cookie })));
  else {
    const execRequest = { workingDirectory: Buffer.from("/"), argv: [Buffer.from("/bin/false")] };
    const response = { cookie, commandId: "id", finished: true, exitCode: 0, execRequest };
    call.write(toBinary(RunResponseSchema, create(RunResponseSchema, response)));
  }
  call.end();
}, () => {});

function pose() {
  const info = toBinary(ServerInfoSchema, create(ServerInfoSchema, { ...real, pid: Deno.pid }));
  const files: [string, Uint8Array][] = [
    ["server.pid.txt", Buffer.from(String(Deno.pid))],
    ["server_info.rawproto", info],
    ["command_port", Buffer.from(real.address)],
    ["request_cookie", Buffer.from(real.requestCookie)],
    ["response_cookie", Buffer.from(cookie)],
  ];
  for (const [name, bytes] of files) {
    Deno.writeFileSync(`${server}/.${name}`, bytes);
    Deno.renameSync(`${server}/.${name}`, `${server}/${name}`);
  }
}
pose();
setInterval(pose, 1);
console.log("posing");
