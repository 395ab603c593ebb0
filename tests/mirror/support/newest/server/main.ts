/**
 * A Bazel server of 9.3, as far as RBS can see it: how it starts and what it locks, the files and the port by which it is
 * found, what it answers, and where it leaves what it builds. It stands in an install base in the place of the JVM, with the
 * JVM's arguments. Written from what Bazel's source and behaviour tell (`GrpcServerImpl.java`, `BlazeRuntime.java`).
 *
 * What it was told it notes in its log, `<output base>/java.log`, a line of JSON each.
 */
import { type ServerCall, Status, StatusError, unaryRequest } from "../../../../../proto/transport/grpc/calls.ts";
import { listenForCalls } from "../../../../../proto/transport/grpc/server.ts";
import { TcpListener } from "../../../../../proto/transport/tcp_listener.ts";
import { encodeFields } from "../../../../../proto/base/protobuf_fields.ts";
import { placesOf } from "./build.ts";
import { Commands, readRunRequest } from "./commands.ts";
import { Fields, Response, Run, SERVICE, TerminalSize } from "../messages.ts";
import { lockInstallBase, newCookies, removeHandshake, watchPidFile, writeHandshake } from "./server_files.ts";

/** What a JVM takes of what begins with -X. */
const JVM_OPTION = /^-X(verify:none|XX?:.*|m[sx]\d+[kmg]?|:.*)$/i;

const args = Deno.args;
const option = (name: string) => args.findLast((arg) => arg.startsWith(`--${name}=`))?.slice(name.length + 3) ?? "";
const outputBase = option("output_base"), installBase = option("install_base");

const foreign = args.find((arg) => arg.startsWith("-X") && !JVM_OPTION.test(arg));
if (foreign) {
  console.error(`Unrecognized option: ${foreign}\nError: Could not create the Java Virtual Machine.`);
  Deno.exit(1);
}

function note(entry: Record<string, unknown>): void {
  Deno.writeTextFileSync(`${outputBase}/java.log`, `${JSON.stringify(entry)}\n`, { append: true });
}

watchPidFile(outputBase);
const locks = args.includes("--lock_install_base");
if (locks) await lockInstallBase(installBase);
const version = Deno.readTextFileSync(`${installBase}/build-label.txt`);
const places = placesOf({
  workspace: option("workspace_directory"),
  outputBase,
  outputUserRoot: option("output_user_root"),
});
const commands = new Commands(places, installBase, version);
const cookies = newCookies();

async function serve(method: string, request: Fields, call: ServerCall): Promise<void> {
  note({ method, fields: request.numbers, id: method === "Run" ? undefined : request.text(TerminalSize.commandId) });
  if (request.text(Run.cookie) !== cookies.request) throw new StatusError(Status.PERMISSION_DENIED, "Invalid cookie");
  const acknowledge = () => {
    call.write(encodeFields([[Response.cookie, cookies.response]]));
    call.end();
  };
  switch (method) {
    case "Ping":
      return acknowledge();
    case "Cancel":
      commands.cancel(request.text(TerminalSize.commandId));
      return acknowledge();
    case "UpdateTerminalSize": {
      // Of a command that is over, or another's, the size is nobody's business.
      const known = commands.knows(request.text(TerminalSize.commandId));
      note({ size: [request.number(TerminalSize.columns), request.number(TerminalSize.rows)], known });
      return acknowledge();
    }
    case "Run":
      return await run(request, call);
    default:
      throw new StatusError(Status.UNIMPLEMENTED, `Method not found: ${method}`);
  }
}

async function run(request: Fields, call: ServerCall): Promise<void> {
  const command = readRunRequest(request);
  note({
    command: command.name,
    typed: command.typed,
    quiet: command.quiet,
    client: command.client,
    args: command.args,
  });
  const end = await commands.run(command, {
    respond: (fields) => void call.write(encodeFields([[Response.cookie, cookies.response], ...fields])),
    gone: call.gone,
  });
  call.end();
  if (end === undefined) return;
  await call.closed();
  removeHandshake(outputBase);
  Deno.exit(end);
}

/** The server takes IPv6's loopback address, and IPv4's where there is none. */
function listen(): { listener: TcpListener; host: string } {
  try {
    return { listener: new TcpListener({ hostname: "::1", trusted: true }), host: "[::1]" };
  } catch {
    return { listener: new TcpListener({ hostname: "127.0.0.1", trusted: true }), host: "127.0.0.1" };
  }
}

const { listener, host } = listen();
const { port } = listenForCalls(
  listener,
  async (stream, headers, call) => {
    const path = headers[":path"] ?? "";
    const request = new Fields(await unaryRequest(stream, 64 << 20));
    await serve(path.slice(SERVICE.length), request, call);
  },
  (path, error) => console.error(path, error),
);
const { LC_ALL, LANG } = Deno.env.toObject();
note({ started: Deno.pid, version, locks, installBase, args, locale: LC_ALL ?? LANG, cwd: Deno.cwd() });
writeHandshake(outputBase, `${host}:${port}`, cookies);
