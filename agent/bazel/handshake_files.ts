import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import {
  PingRequestSchema,
  PingResponseSchema,
  ServerInfoSchema,
} from "../../proto/contract/gen/bazel/v1/command_server_pb.ts";
import { type Cookies, serverAddress } from "../../proto/bazel/handshake_files.ts";
import { Status } from "../../proto/transport/grpc/calls.ts";
import type { Connection } from "../../proto/transport/grpc/channel.ts";
import { type Files, readFile } from "../../proto/tree/files.ts";

/** What a Bazel server tells its clients by files in `<output base>/server`. */
export interface Handshake extends Cookies {
  /** "127.0.0.1" or "::1". */
  host: string;
  port: number;
}

/** Maximum bytes read of a file; a larger one is not a Bazel server's. */
const MAX_BYTES = 16 << 10;

/**
 * Reads the handshake files, as far as they are written. Any program that can write there may have written them, so
 * their content must be verified. Bazel before 4.x has no server_info.rawproto.
 *
 * @param output The output base.
 */
export function readHandshake(output: Files): Handshake | undefined {
  const read = (file: string): Uint8Array | undefined => {
    try {
      return readFile(output, `server/${file}`, MAX_BYTES);
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
      // It is incomplete; the other files may be complete.
    }
  }
  const text = (file: string) => new TextDecoder().decode(read(file));
  return parse(text("command_port"), text("request_cookie"), text("response_cookie"));
}

function parse(address: string, requestCookie: string, responseCookie: string): Handshake | undefined {
  const at = serverAddress(address);
  return at && requestCookie && responseCookie ? { ...at, requestCookie, responseCookie } : undefined;
}

/** Whether a Bazel server answers, and is the one that wrote the files. */
export async function ping(
  connection: Connection,
  { requestCookie, responseCookie }: Handshake,
  timeoutMs: number,
): Promise<boolean> {
  const request = toBinary(PingRequestSchema, create(PingRequestSchema, { cookie: requestCookie }));
  const { code, data } = await connection.unary("/command_server.CommandServer/Ping", request, { timeoutMs });
  try {
    return code === Status.OK && fromBinary(PingResponseSchema, data).cookie === responseCookie;
  } catch {
    return false;
  }
}
