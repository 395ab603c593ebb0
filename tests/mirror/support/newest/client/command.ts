/** One command at the server: the Run request, what comes back, and the exit code (Bazel 9.3, BlazeServer::Communicate). */
import { Buffer } from "node:buffer";
import { encodeFields, lengthPrefix } from "../../../../../proto/base/protobuf_fields.ts";
import { Exec, ExitCode, Fields, Response, Run, StartupOption, TOMORROW } from "../messages.ts";
import { CancelThread } from "./cancel_thread.ts";
import type { RequestFields } from "./channel.ts";
import type { RcOption } from "./rc_files.ts";
import { awaitEnd, killGroup, type Server } from "./server_process.ts";
import type { Startup } from "./startup_options.ts";

/** What is sent, and how the client was called. */
export interface Command {
  startup: Startup;
  /** The command, then what the user typed. */
  typed: string[];
  rc: RcOption[];
  restartReason?: string;
  cwd: string;
  binary: string;
  /** Called when the request is on its way: the server has a lock of its own. */
  onSent(): void;
}

/** Runs the command. @returns the client's exit code */
export async function communicate(server: Server, command: Command): Promise<number> {
  const { startup } = command;
  const say = (line: string) => console.error(line);
  const thread = new CancelThread({
    channel: server.channel,
    size: terminalSize,
    say,
    debug: (line) => startup.clientDebug && say(`client: ${line}`),
  });
  using _signals = obeySignals(server, thread, startup);
  const responses = server.channel.stream("Run", runRequest(command), startupOptions(startup));
  command.onSent();
  let last: Fields | undefined, abrupt: unknown;
  try {
    for await (const bytes of responses) {
      const response = new Fields(bytes);
      if (response.text(Response.cookie) !== server.responseCookie) {
        say("\nServer response cookie invalid, exiting");
        return ExitCode.INTERNAL_ERROR;
      }
      if (response.number(Response.finished)) last = response;
      write(Deno.stdout, response.bytes(Response.standardOutput));
      write(Deno.stderr, response.bytes(Response.standardError));
      const id = response.text(Response.commandId);
      if (id) thread.learn(id);
      if (startup.clientDebug) say(`client: response with the fields ${response.numbers.join(" ")}`);
    }
  } catch (error) {
    abrupt = error;
  }
  if (last?.number(Response.terminationExpected)) {
    server.channel.close();
    await awaitEnd(server.pid);
  }
  await thread.join();
  if (abrupt) {
    say(`\nServer terminated abruptly (error message: '${abrupt}')\n`);
    return ExitCode.INTERNAL_ERROR;
  }
  if (!last) {
    say("\nServer finished RPC without an explicit exit code\n");
    return ExitCode.INTERNAL_ERROR;
  }
  const exec = last.bytes(Response.execRequest);
  if (exec && new Fields(exec).number(Exec.shouldExec)) return await execute(new Fields(exec));
  return last.number(Response.exitCode);
}

function runRequest({ startup, typed, rc, restartReason, cwd, binary }: Command): RequestFields {
  const [name, ...more] = typed;
  const files = [...new Set(rc.map(({ file }) => file))];
  const args = [
    name,
    "--startup_time=100",
    ...restartReason ? [`--restart_reason=${restartReason}`] : [],
    `--binary_path=${binary}`,
    "--rc_source=client",
    ...files.map((file) => `--rc_source=${file}`),
    "--default_override=0:common=--isatty=0",
    "--default_override=0:common=--terminal_columns=80",
    ...rc.filter(({ section }) => section !== "startup")
      .map(({ section, word, file }) => `--default_override=${files.indexOf(file) + 1}:${section}=${word}`),
    ...Object.entries(Deno.env.toObject()).map(([name, value]) => `--client_env=${name}=${value}`),
    `--client_cwd=${cwd}`,
    ...more,
  ];
  return [
    ...args.map((arg): RequestFields[number] => [Run.arg, arg]),
    [Run.blockForLock, startup.blockForLock],
    [Run.clientDescription, `pid=${Deno.pid}`],
    [Run.quiet, startup.quiet],
    [Run.lockTimeoutMs, startup.lockTimeoutMs],
    ...Deno.env.has("TOMORROW") ? [[TOMORROW.requestField, "of tomorrow"]] as RequestFields : [],
  ];
}

/** RunRequest.startup_options: behind each there is an empty one, which is a slip of all clients. */
function startupOptions({ given }: Startup): Buffer {
  return Buffer.concat(given.flatMap(({ option, source }) => {
    const pair = encodeFields([[StartupOption.option, option], [StartupOption.source, source]]);
    return [lengthPrefix(Run.startupOptions, pair.length), pair, lengthPrefix(Run.startupOptions, 0)];
  }));
}

/** Signals as the client's handler takes them (`src/main/cpp/blaze_util_posix.cc`): the third Ctrl-C is for the server. */
function obeySignals(server: Server, thread: CancelThread, { clientDebug }: Startup): Disposable {
  let interrupts = 0;
  const handlers: [Deno.Signal, () => void][] = [
    ["SIGINT", () => {
      if (++interrupts < 3) {
        console.error("\nBazel caught interrupt signal; cancelling pending invocation.\n");
        return thread.send("cancel");
      }
      console.error("\nBazel caught third interrupt signal; killed.\n");
      killGroup(server.pid);
      Deno.exit(1);
    }],
    ["SIGTERM", () => {
      console.error("\nBazel caught terminate signal; cancelling pending invocation.\n");
      thread.send("cancel");
    }],
    ["SIGWINCH", () => {
      if (clientDebug) console.error("client: the terminal has another size");
      thread.send("resized");
    }],
    // No stock client has this one: it stands for what a client of tomorrow may want to say.
    ["SIGUSR1", () => thread.send("tomorrow")],
  ];
  for (const [name, handler] of handlers) Deno.addSignalListener(name, handler);
  return {
    [Symbol.dispose]() {
      for (const [name, handler] of handlers) Deno.removeSignalListener(name, handler);
    },
  };
}

/** Where there is no terminal, it has the size that its tests look for. */
export const WITHOUT_TERMINAL = { columns: 97, rows: 41 };

function terminalSize(): { columns: number; rows: number } {
  return Deno.stdout.isTerminal() ? Deno.consoleSize() : WITHOUT_TERMINAL;
}

function write(to: typeof Deno.stdout | typeof Deno.stderr, bytes: Buffer | undefined): void {
  for (let at = 0; bytes && at < bytes.length;) at += to.writeSync(bytes.subarray(at));
}

/** What the server wants executed: Deno cannot become another program, so it starts it and waits. */
async function execute(request: Fields): Promise<number> {
  const env = Deno.env.toObject();
  for (const name of request.all(Exec.environmentToClear)) delete env[name.toString()];
  for (const variable of request.all(Exec.environment)) {
    const pair = new Fields(variable);
    env[pair.text(1)] = pair.text(2);
  }
  const [program, ...args] = request.all(Exec.argv).map(String);
  const cwd = request.text(Exec.workingDirectory);
  const child = new Deno.Command(program, { args, cwd, env, clearEnv: true, stdin: "inherit" }).spawn();
  return (await child.status).code;
}
