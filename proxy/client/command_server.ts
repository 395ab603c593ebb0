/**
 * The command server that the Bazel client sees: answers everything but Run itself and at once, takes Run and Cancel apart
 * as far as needed, and passes every other method on.
 */
import { sentence } from "../../proto/base/errors.ts";
import type { Http2Connection, Stream } from "../../proto/transport/http2/connection.ts";
import type { Headers } from "../../proto/transport/http2/hpack.ts";
import { type ServerCall, Status, StatusError, unaryRequest } from "../../proto/transport/grpc/calls.ts";
import { type CallServer, listenForCalls } from "../../proto/transport/grpc/server.ts";
import { TcpListener } from "../../proto/transport/tcp_listener.ts";
import type { Cookies } from "../../proto/bazel/handshake_files.ts";
import { encodeFields, scanFields, WireError } from "../../proto/base/protobuf_fields.ts";
import type { Commands } from "../commands/commands.ts";
import { CookieCheck } from "./cookie_check.ts";

/**
 * The largest request that is taken, in bytes. A command line holds at most a few MB (the kernel's limit, and the client's
 * own environment); who sends more is not a Bazel client.
 */
const MAX_REQUEST_BYTES = 64 << 20;

/**
 * Connections that have said nothing, and those that have not shown the cookie. Every program of this machine can make some;
 * a client shows its cookie a few milliseconds after it has connected, and must not be sent away before by others who
 * connect as fast as they can.
 */
const MAX_SILENT = 3072, MAX_STRANGERS = 512;
/** How long either may stay so, in milliseconds: a machine that is busy with a build lets clients, and this program, wait. */
const SILENT_MS = 60_000;
/** With more of them, who connects is not believed to have a command. */
const FEW_STRANGERS = 4;

const SERVICE = "/command_server.CommandServer/";

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
    const check = new CookieCheck(cookies.requestCookie);
    const request = await unaryRequest(stream, MAX_REQUEST_BYTES, (chunk) => {
      const shown = check.push(chunk);
      if (shown) call.admit();
      else if (shown === false) throw new StatusError(Status.UNAUTHENTICATED, "rbs: the request's cookie is wrong.");
    });
    scanFields(request, () => {}); // all of it is a message
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
        // As soon: clients have one thread for these, and the user's Ctrl-C waits until this is answered (Bazel 9.3, which
        // tells of each new size of the terminal).
        call.write(encodeFields([[1, cookies.responseCookie]]));
        call.end();
        return (await commands).forward(path, request, headers);
    }
  };
  // Every Bazel client accepts "127.0.0.1:"; "[::1]:" is not there on every machine.
  const listener = new TcpListener({
    hostname: "127.0.0.1",
    limits: {
      handshakes: MAX_SILENT,
      handshakeMs: SILENT_MS,
      strangers: MAX_STRANGERS,
      strangerMs: SILENT_MS,
    },
    onRefused: (why) => console.error(`rbs: ${why}`),
  });
  let ready: Commands | undefined;
  void commands.then((loaded) => ready = loaded);
  // The client takes some milliseconds from its connection to its command, but waits for our first frames.
  const onConnection = (by: Http2Connection) =>
    void setTimeout(() => listener.admission.strangers <= FEW_STRANGERS && ready?.expect(by), 0);
  return listenForCalls(listener, serve, (path, e) => console.error(`rbs: ${path}:`, e), { onConnection });
}
