/**
 * The command server that the Bazel client sees. Answers everything except Run at once, parses Run and Cancel as far as
 * necessary, and passes other methods on.
 */
import { sentence } from "../../proto/base/errors.ts";
import type { Http2Connection } from "../../proto/transport/http2/connection.ts";
import type { Stream } from "../../proto/transport/http2/stream.ts";
import type { Headers } from "../../proto/transport/http2/hpack.ts";
import { type ServerCall, Status, StatusError, unaryRequest } from "../../proto/transport/grpc/calls.ts";
import { type CallServer, listenForCalls } from "../../proto/transport/grpc/server.ts";
import { TcpListener } from "../../proto/transport/tcp_listener.ts";
import type { Cookies } from "../../proto/bazel/handshake_files.ts";
import { encodeFields, scanFields, WireError } from "../../proto/base/protobuf_fields.ts";
import type { Commands } from "../commands/commands.ts";
import { CookieCheck } from "./cookie_check.ts";
import { trace } from "../../proto/base/log.ts";
import { log } from "../log.ts";

/**
 * Maximum size of a request, in bytes. A command line is at most a few MB (limited by the kernel, and including the
 * client's environment).
 */
const MAX_REQUEST_BYTES = 64 << 20;

/**
 * Maximum number of connections that have sent nothing, and of those that have not shown the cookie. Every program on
 * this machine can make some. A client shows its cookie a few milliseconds after it has connected, and must not be
 * displaced before by programs that connect as fast as they can.
 */
const MAX_SILENT = 3072, MAX_STRANGERS = 512;
/** Timeout for both kinds, in milliseconds: on a machine busy with a build, clients and this program may be slow. */
const SILENT_MS = 60_000;
/** With more strangers than this, a new connection does not start the work ahead of a command. */
const FEW_STRANGERS = 4;

const SERVICE = "/command_server.CommandServer/";

/**
 * Listens on a free loopback port. `commands` may resolve later (its code is loaded after the first Ping): calls other
 * than Ping wait for it. `onPing` is called after each answered Ping.
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
        // After the answer was sent, since the owner's work may block the thread for a while.
        setTimeout(onPing, 0);
        return;
      case "Run":
        return await (await commands).run(request, headers, call);
      case "Cancel":
        // Acknowledged first: the client must never wait for the network here.
        call.write(encodeFields([[1, cookies.responseCookie]]));
        call.end();
        return (await commands).cancel(request);
      default:
        // Acknowledged first as well: clients have one thread for these, and Ctrl-C waits until this is answered (Bazel
        // 9.3, which reports each change of the terminal's size).
        call.write(encodeFields([[1, cookies.responseCookie]]));
        call.end();
        return (await commands).forward(path, request, headers);
    }
  };
  // Every Bazel client accepts "127.0.0.1:"; "[::1]:" does not exist on every machine.
  const listener = new TcpListener({
    hostname: "127.0.0.1",
    limits: {
      handshakes: MAX_SILENT,
      handshakeMs: SILENT_MS,
      strangers: MAX_STRANGERS,
      strangerMs: SILENT_MS,
    },
    onRefused: log,
  });
  let ready: Commands | undefined;
  void commands.then((loaded) => ready = loaded);
  // A client takes some milliseconds between its connection and its command, but waits for our first frames.
  const onConnection = (by: Http2Connection) =>
    void setTimeout(() => listener.admission.strangers <= FEW_STRANGERS && ready?.expect(by), 0);
  return listenForCalls(listener, serve, (path, e) => log(`${path}: ${trace(e)}`), { onConnection });
}
