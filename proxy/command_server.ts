/**
 * The command server that the Bazel client sees: answers Ping itself and at once, takes Run and Cancel apart as far as
 * needed, and passes every other method on.
 */
import { sentence } from "../proto/errors.ts";
import type { Http2Connection, Stream } from "../proto/http2/connection.ts";
import type { Headers } from "../proto/http2/hpack.ts";
import { type ServerCall, Status, StatusError, unaryRequest } from "../proto/relay/calls.ts";
import { type CallServer, listenForCalls } from "../proto/relay/server.ts";
import { encodeFields, scanFields, textValue, WireError } from "../proto/relay/wire.ts";
import { sameSecret } from "../proto/state.ts";
import type { Commands } from "./commands.ts";

/**
 * The largest request that is taken, in bytes. A command line holds at most a few MB (the kernel's limit, and the client's
 * own environment); who sends more is not a Bazel client.
 */
const MAX_REQUEST_BYTES = 64 << 20;

const SERVICE = "/command_server.CommandServer/";

/** The cookies of this server. */
export interface Cookies {
  requestCookie: string;
  responseCookie: string;
}

/**
 * Starts to listen on a free loopback port. `commands` may come later (its code is loaded after the first Ping): calls
 * other than Ping wait for it. `onPing` is called after each answered Ping.
 */
export function startCommandServer(
  cookies: Cookies,
  commands: Promise<Commands>,
  onPing: () => void = () => {},
): CallServer {
  const serve = (stream: Stream, headers: Headers, call: ServerCall) =>
    answer(stream, headers, call).catch((e) => {
      if (!(e instanceof WireError)) throw e;
      throw new StatusError(Status.INVALID_ARGUMENT, `rbs: the request is not a message: ${sentence(e)}.`);
    });
  const answer = async (stream: Stream, headers: Headers, call: ServerCall) => {
    const path = headers[":path"] ?? "";
    if (!path.startsWith(SERVICE)) {
      throw new StatusError(Status.UNIMPLEMENTED, `rbs: ${path} is no method of a Bazel command server.`);
    }
    const request = await unaryRequest(stream, MAX_REQUEST_BYTES);
    let cookie: string | undefined;
    scanFields(request, (f) => {
      if (f.number === 1 && f.wireType === 2) cookie = textValue(request, f);
    });
    if (!sameSecret(cookies.requestCookie, cookie)) {
      throw new StatusError(Status.UNAUTHENTICATED, "rbs: the request's cookie is wrong.");
    }
    switch (path.slice(SERVICE.length)) {
      case "Ping":
        call.write(encodeFields([[1, cookies.responseCookie]]));
        call.end();
        // After the answer has left: what the owner does now may keep the thread for a while.
        setTimeout(onPing, 0);
        return;
      case "Run":
        return await (await commands).run(request, headers, call);
      case "Cancel":
        // Acknowledged before anything else: the client must never wait for the network here.
        call.write(encodeFields([[1, cookies.responseCookie]]));
        call.end();
        return (await commands).cancel(request);
      default:
        return await (await commands).forward(path, request, headers, call);
    }
  };
  let ready: Commands | undefined;
  void commands.then((loaded) => ready = loaded);
  // The client takes some milliseconds from its connection to its command, but waits for our first frames.
  const onConnection = (by: Http2Connection) => void setTimeout(() => ready?.expect(by), 0);
  // Every Bazel client accepts "127.0.0.1:"; "[::1]:" is not there on every machine.
  return listenForCalls("127.0.0.1", serve, (path, e) => console.error(`rbs: ${path}:`, e), { onConnection });
}
