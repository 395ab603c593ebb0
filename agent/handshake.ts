import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { join } from "node:path";
import { PingRequestSchema, PingResponseSchema, ServerInfoSchema } from "../proto/gen/bazel/v1/command_server_pb.ts";
import { Status } from "../proto/relay/calls.ts";
import { Connection, type Dial } from "../proto/relay/connection.ts";

/** What a Bazel server tells its clients by files in `<output base>/server`. */
export interface Handshake {
  /** "127.0.0.1" or "::1". */
  host: string;
  port: number;
  requestCookie: string;
  responseCookie: string;
}

/** The files by which a client finds a server. */
const FILES = ["server_info.rawproto", "command_port", "request_cookie", "response_cookie"];

/** Removes what a dead server left, so that nobody dials its port. */
export function removeHandshake(serverDirectory: string): void {
  for (const file of FILES) {
    try {
      Deno.removeSync(join(serverDirectory, file));
    } catch (e) {
      if (!(e instanceof Deno.errors.NotFound)) throw e;
    }
  }
}

/**
 * Reads the handshake files, as far as they are written. They may be a dead server's: only {@link ping} tells.
 * Bazel before 4.x has no server_info.rawproto.
 */
export function readHandshake(serverDirectory: string): Handshake | undefined {
  const read = (file: string): Uint8Array | undefined => {
    try {
      return Deno.readFileSync(join(serverDirectory, file));
    } catch {
      return undefined;
    }
  };
  const info = read("server_info.rawproto");
  if (info) {
    try {
      const { address, requestCookie, responseCookie } = fromBinary(ServerInfoSchema, info);
      return parse(address, requestCookie, responseCookie);
    } catch {
      // Not whole; the other files may be.
    }
  }
  const text = (file: string) => new TextDecoder().decode(read(file));
  return parse(text("command_port"), text("request_cookie"), text("response_cookie"));
}

function parse(address: string, requestCookie: string, responseCookie: string): Handshake | undefined {
  const match = /^(?:\[(::1|0:0:0:0:0:0:0:1)\]|(127\.0\.0\.1)):(\d+)$/.exec(address);
  if (!match || !requestCookie || !responseCookie) return undefined;
  return { host: match[2] ?? "::1", port: Number(match[3]), requestCookie, responseCookie };
}

/**
 * Whether a Bazel server answers there, and is the one that wrote the files.
 *
 * @param dial The way to it. @default TCP
 */
export async function ping(handshake: Handshake, timeoutMs: number, dial?: Dial): Promise<boolean> {
  using connection = new Connection(handshake.host, handshake.port, { dial });
  const request = toBinary(PingRequestSchema, create(PingRequestSchema, { cookie: handshake.requestCookie }));
  const { code, data } = await connection.unary("/command_server.CommandServer/Ping", request, { timeoutMs });
  try {
    return code === Status.OK && fromBinary(PingResponseSchema, data).cookie === handshake.responseCookie;
  } catch {
    return false;
  }
}

/** Reads `<output base>/server/cmdline`: the argument vector, argv[0] first, that a client wants or wanted to have. */
export function readCommandLine(serverDirectory: string): string[] | undefined {
  try {
    return Deno.readTextFileSync(join(serverDirectory, "cmdline")).split("\0");
  } catch {
    return undefined;
  }
}

/** The Bazel server's process number, as its namespace counts; undefined when there is no such file. */
export function readServerPid(serverDirectory: string): number | undefined {
  try {
    const pid = Number(Deno.readTextFileSync(join(serverDirectory, "server.pid.txt")).trim());
    return Number.isInteger(pid) && pid > 1 ? pid : undefined;
  } catch {
    return undefined;
  }
}
