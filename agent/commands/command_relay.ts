/**
 * Relays calls of Bazel's own command_server.CommandServer, for all methods except Run (see command_service.ts): the
 * real server's cookie is inserted and the call is passed on, including methods that this version does not know.
 */
import { Buffer } from "node:buffer";
import { RequestField } from "../../proto/bazel/run_request.ts";
import type { Stream } from "../../proto/transport/http2/stream.ts";
import type { Headers } from "../../proto/transport/http2/hpack.ts";
import { readCall, type ServerCall, Status, StatusError, unaryRequest } from "../../proto/transport/grpc/calls.ts";
import { patchFields } from "../../proto/base/protobuf_fields.ts";
import { type BazelUpstream, COMMAND_SERVER, serverLost } from "../bazel/bazel_upstream.ts";

/** Maximum size of a request in bytes; requests of other methods contain ids and sizes. */
const MAX_REQUEST_BYTES = 1 << 20;

/** Passes a call on. */
export async function relay(
  upstream: BazelUpstream,
  stream: Stream,
  headers: Headers,
  call: ServerCall,
): Promise<void> {
  const path = headers[":path"] ?? "";
  const arrived = unaryRequest(stream, MAX_REQUEST_BYTES);
  if (path === `${COMMAND_SERVER}Run`) {
    arrived.catch(() => {});
    throw new StatusError(Status.UNIMPLEMENTED, "Commands come by rbs.v1.Command/Execute.");
  }
  const message = await arrived;
  const passed = await upstream.start(
    path,
    (backend) =>
      Buffer.concat(
        patchFields(message, (f) => f.number === RequestField.cookie ? Buffer.from(backend.requestCookie) : undefined),
      ),
    headers,
    call.gone,
  );
  const left = () => passed.stream.reset();
  call.gone.addEventListener("abort", left);
  if (call.gone.aborted) left();
  const end = await readCall(passed.stream, (chunk) => call.writeFrames(Buffer.from(chunk)));
  call.gone.removeEventListener("abort", left);
  if (end.code === Status.OK) return call.end();
  call.end(
    end.trailers["grpc-status"] === undefined ? serverLost(end.message) : new StatusError(end.code, end.message),
  );
}
