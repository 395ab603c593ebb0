import type { MessageInitShape } from "@bufbuild/protobuf";
import { join } from "node:path";
import { RbsError } from "../../proto/base/errors.ts";
import type {
  CommandInit,
  ExecuteCommandRequest,
  ExecuteCommandResponseSchema,
} from "../../proto/contract/gen/rbs/v1/agent_pb.ts";
import type { CallContext } from "../../proto/transport/rpc/client.ts";
import { Code, RpcError } from "../../proto/transport/rpc/error.ts";
import type { Activity } from "../control/activity.ts";
import type { BazelServer } from "../bazel/bazel_server.ts";
import { withoutExpunge } from "../../proto/bazel/clean_expunge.ts";
import type { LocalOutputBase } from "../namespace/local_output_base.ts";
import type { Job, SessionInit } from "../namespace/namespace_init.ts";
import type { SessionNamespace } from "../namespace/mount_namespace.ts";
import { startupOption } from "../../proto/bazel/startup_options.ts";
import { quote, quoteAll } from "../namespace/shell.ts";

type Response = MessageInitShape<typeof ExecuteCommandResponseSchema>;

/** After its caller is gone or its session ends, a command has this long after SIGINT. Milliseconds. */
const CANCEL_GRACE_MS = 10_000;
/** Standard input buffered for a command that does not read it. Bytes. */
const STDIN_BUFFER_BYTES = 1 << 20;
/** Chunks of output buffered for the caller; then the command has to wait. */
const OUTPUT_CHUNKS = 4;
/** After a command's end: how long to wait for a leftover process that holds its output open. Milliseconds. */
const LINGER_MS = 1_000;

/** Options of {@link ExecuteCommandService}. */
export interface ExecuteCommandOptions {
  namespace: SessionNamespace;
  bazel: BazelServer;
  /** The arguments of the session's server as its client composed them; empty if no client has told. */
  startupOptions: readonly string[];
  localOutputBase: LocalOutputBase;
  activity: Activity;
  /** The Bazel client: a name on the caller's PATH, or an absolute path. */
  bazelProgram: string;
}

interface Running {
  signal(name: string): void;
  kill(): void;
  done: Promise<unknown>;
}

/** The ExecuteCommand method: runs commands in the session's namespace, for its owner. */
export class ExecuteCommandService {
  readonly #options: ExecuteCommandOptions;
  readonly #running = new Set<Running>();

  constructor(options: ExecuteCommandOptions) {
    this.#options = options;
  }

  /** Interrupts all running commands, and kills them after `graceMs`. */
  async cancelAll(graceMs: number): Promise<void> {
    await Promise.all([...this.#running].map((running) => cancel(running, graceMs)));
  }

  /** Runs one command. */
  async *execute(requests: AsyncIterable<ExecuteCommandRequest>, context: CallContext): AsyncIterable<Response> {
    const iterator = requests[Symbol.asyncIterator]();
    const first = await iterator.next();
    const message = first.done ? undefined : first.value.message;
    if (message?.case !== "init") {
      throw new RpcError(Code.INVALID_ARGUMENT, "The first message of ExecuteCommand must be init.");
    }
    const command = message.value;
    check(command);
    const expunge = takeExpunge(command);

    const activity = this.#options.activity.begin();
    let job: Job | undefined;
    try {
      const init = await this.#prepare(command, context.signal);
      const { carrier, ...started } = await init.stream((id) => this.#script(init, command, id));
      job = started;
      const terminal = command.terminal && new Terminal(init, started);
      const signal = (name: string) => terminal ? terminal.signal(name) : started.signal(name);
      const running: Running = {
        signal,
        kill: () => {
          signal("KILL");
          started.signal("KILL");
        },
        done: started.exit,
      };
      this.#running.add(running);
      started.exit.then(() => {
        this.#running.delete(running);
        init.forget(started);
        activity[Symbol.dispose]();
      });
      const stdin = carrier.stdin.getWriter();
      const output = new Output(carrier, started.exit, context.signal);
      // Its stream ends with an error whenever the command ends first.
      obey(iterator, stdin, signal, terminal).catch(() => {});
      try {
        yield* output;
        if (context.signal.aborted) return;
        const exitCode = await started.exit;
        if (init.fault !== undefined) {
          yield { message: { case: "stderr", value: new TextEncoder().encode(`rbs: ${init.fault}\n`) } };
        }
        if (expunge && exitCode === 0) {
          await this.#options.bazel.stop();
          await this.#options.localOutputBase.expunge();
        } else if (command.args[0] === "bazel") await this.#options.localOutputBase.ensure();
        yield { message: { case: "exitCode", value: exitCode } };
      } finally {
        // The caller may be gone before the end: the command is then ended, and counts as activity until it is.
        cancel(running, CANCEL_GRACE_MS).then(() => {
          stdin.abort().catch(() => {});
          end(carrier);
        });
      }
    } catch (e) {
      if (e instanceof RpcError) throw e;
      if (e instanceof RbsError) {
        throw new RpcError(e.culprit === "caller" ? Code.FAILED_PRECONDITION : Code.UNAVAILABLE, e.message, e);
      }
      throw e;
    } finally {
      if (!job) activity[Symbol.dispose]();
    }
  }

  async #prepare(command: CommandInit, signal: AbortSignal): Promise<SessionInit> {
    const { namespace, bazel, localOutputBase, startupOptions } = this.#options;
    await namespace.init();
    if (command.args[0] === "bazel") {
      await localOutputBase.ensure();
      if (startupOptions.length > 0) await bazel.ensureAny(signal);
    }
    // A server's start ends the earlier namespace.
    return await namespace.init();
  }

  /**
   * Options that the session's client may have had only on its command line. Without them a client in here would want
   * another server than the session's warm one.
   */
  #placement(): string[] {
    return ["output_user_root", "server_javabase"].flatMap((name) => {
      const value = startupOption(this.#options.startupOptions, name);
      return value === undefined ? [] : [`--${name}=${value}`];
    });
  }

  #script(init: SessionInit, command: CommandInit, id: number): string {
    const { namespace, bazelProgram } = this.#options;
    const [program, ...args] = command.args;
    const argv = program === "bazel"
      // First among the startup options, so that one of the caller's still overrides it.
      ? [bazelProgram, ...this.#placement(), `--output_base=${namespace.outputBase}`, ...args]
      : command.args;
    const inner = commandScript(argv, { ...command.env, RBS_IN_SESSION: "1" }, command.workingDirectory);
    if (!command.terminal) return inner;
    const path = join(init.controlDirectory, String(id));
    const { columns, rows } = command.terminal;
    const terminal = `tty >${quote(path + ".tty")}
echo $$ >${quote(path + ".inner.pid")}
stty sane iutf8 cols ${columns} rows ${rows}
`;
    init.write({ id }, "inner.sh", terminal + inner);
    return `SHELL=/bin/sh exec script -qefc ${quote(`exec bash ${quote(path + ".inner.sh")}`)} /dev/null\n`;
  }
}

/** Removes `--expunge` from a Bazel command line. @returns whether it was there */
function takeExpunge(command: CommandInit): boolean {
  const at = command.args.findIndex((arg, i) => i > 0 && !arg.startsWith("-"));
  if (command.args[0] !== "bazel" || at < 0) return false;
  const { args, expunge } = withoutExpunge(command.args.slice(at));
  command.args.splice(at, args.length, ...args);
  return expunge;
}

/** Throws an RpcError for a command that cannot be run. */
function check({ args, env, workingDirectory, terminal }: CommandInit): void {
  const refuse = (why: string) => {
    throw new RpcError(Code.INVALID_ARGUMENT, `This command cannot be run: ${why}.`);
  };
  if (args[0] !== "bazel" && !args[0]?.startsWith("/")) {
    refuse(`its program must be "bazel" or an absolute path, and is ${JSON.stringify(args[0] ?? "")}`);
  }
  if (!workingDirectory.startsWith("/")) {
    refuse(`its working directory ${JSON.stringify(workingDirectory)} is not absolute`);
  }
  const hasNul = (text: string) => text.includes("\0");
  if (hasNul(workingDirectory) || args.some(hasNul)) refuse("an argument holds a NUL byte");
  for (const [name, value] of Object.entries(env)) {
    if (name === "" || /[=\0]/.test(name) || hasNul(value)) {
      refuse(`${JSON.stringify(name)} cannot be set in an environment`);
    }
  }
  if (terminal && Math.max(terminal.columns, terminal.rows) > 0xffff) refuse("its terminal is too large");
}

/** Names that bash reserves, or that change how it reads the rest of a script. */
const BASH_OWN =
  /^(BASH.*|SHELLOPTS|UID|EUID|PPID|GROUPS|DIRSTACK|FUNCNAME|RANDOM|SRANDOM|SECONDS|LINENO|EPOCH.*|HISTCMD|POSIXLY_CORRECT|SHLVL|PWD|OLDPWD|OPT.*|IFS|_)$/;

/** A script that executes `argv` in `directory`, with exactly the environment `env`. */
export function commandScript(argv: readonly string[], env: Record<string, string>, directory: string): string {
  const plain: string[] = [];
  const special: string[] = [];
  for (const [name, value] of Object.entries(env)) {
    (/^[A-Za-z_]\w*$/.test(name) && !BASH_OWN.test(name) ? plain : special).push(`${name}=${value}`);
  }
  const say = (text: string, code: number) => `{ printf '%s\\n' ${quote(text)} >&2; exit ${code}; }`;
  const assignments = plain.map((assignment) => {
    const at = assignment.indexOf("=");
    return `export ${assignment.slice(0, at)}=${quote(assignment.slice(at + 1))}`;
  });
  // env(1) sets what bash would not; it is found before PATH changes. Secrets are never on a command line: only names
  // that bash reserves are set this way.
  return `env=$(type -P env)
cd -- ${quote(directory)} 2>/dev/null || ${say(`The working directory ${directory} cannot be entered on the agent.`, 1)}
for name in $(compgen -e); do unset "$name"; done 2>/dev/null
{
${assignments.join("\n")}
} 2>/dev/null
program=$(type -P -- ${quote(argv[0])}) || ${say(`The program ${argv[0]} is not there on the agent: install it.`, 127)}
exec "$env" -u SHLVL -u OLDPWD ${env.PWD === undefined ? "-u PWD " : ""}${quoteAll(special)} "$program" ${
    quoteAll(argv.slice(1))
  }
`;
}

/** Interrupts a command, and kills it if it does not end in time. */
async function cancel(running: Running, graceMs: number): Promise<void> {
  let over = false;
  running.done.then(() => over = true);
  await Promise.resolve();
  if (over) return;
  running.signal("INT");
  const timer = setTimeout(() => running.kill(), graceMs);
  await running.done;
  clearTimeout(timer);
}

function end(carrier: Deno.ChildProcess): void {
  try {
    carrier.kill("SIGTERM");
  } catch {
    // It is gone.
  }
}

/** Handles the caller's messages after the first. */
async function obey(
  requests: AsyncIterator<ExecuteCommandRequest>,
  stdin: WritableStreamDefaultWriter<Uint8Array>,
  signal: (name: string) => void,
  terminal: Terminal | undefined,
): Promise<void> {
  let waiting = 0;
  try {
    for (let next = await requests.next(); !next.done; next = await requests.next()) {
      const { message } = next.value;
      switch (message.case) {
        case "stdin": {
          const { length } = message.value;
          waiting += length;
          // A command that has closed its standard input loses the rest, as with a pipe.
          const written = stdin.write(message.value).catch(() => {}).then(() => void (waiting -= length));
          if (waiting > STDIN_BUFFER_BYTES) await written;
          break;
        }
        case "stdinClosed":
          stdin.close().catch(() => {});
          break;
        case "windowSize":
          terminal?.resize(message.value.columns, message.value.rows);
          break;
        case "signal":
          if (/^(INT|TERM|QUIT|HUP|TSTP|CONT|KILL|USR1|USR2)$/.test(message.value)) signal(message.value);
          break;
      }
    }
  } finally {
    stdin.close().catch(() => {});
  }
}

/** A command's pseudo-terminal: made by script(1); the command wrote down its name. */
class Terminal {
  readonly #init: SessionInit;
  readonly #job: Job;

  constructor(init: SessionInit, job: Job) {
    this.#init = init;
    this.#job = job;
  }

  resize(columns: number, rows: number): void {
    const size = `cols ${columns & 0xffff} rows ${rows & 0xffff}`;
    this.#init.call(`stty -F "$(<./${this.#job.id}.tty)" ${size}`);
  }

  /** Signals the command, which is in another process session than the job. */
  signal(name: string): void {
    // 0 if it has not started yet or is gone.
    const pid = Number(this.#init.read(this.#job, "inner.pid"));
    if (pid > 1) this.#init.signal(pid, name);
    else this.#job.signal(name);
  }
}

/** A command's output in order of arrival, no faster than the caller reads it. */
class Output implements AsyncIterable<Response> {
  readonly #queue: Response[] = [];
  #open = 2;
  #over = false;
  #linger: ReturnType<typeof setTimeout> | undefined;
  #lingering = false;
  #wakeReader = () => {};
  #wakeWriters: (() => void)[] = [];

  constructor(carrier: Deno.ChildProcess, exit: Promise<number>, gone: AbortSignal) {
    this.#pump(carrier.stdout, "stdout");
    this.#pump(carrier.stderr, "stderr");
    exit.then(() => {
      this.#lingering = true;
      this.#await();
    });
    const stop = () => this.#stop();
    if (gone.aborted) stop();
    else gone.addEventListener("abort", stop);
  }

  async *[Symbol.asyncIterator](): AsyncIterator<Response> {
    try {
      while (!this.#over) {
        const next = this.#queue.shift();
        if (next) {
          yield next;
          this.#wakeWriters.shift()?.();
          this.#await();
        } else if (this.#open === 0) {
          return;
        } else {
          await new Promise<void>((resolve) => this.#wakeReader = resolve);
        }
      }
    } finally {
      this.#stop();
    }
  }

  async #pump(stream: ReadableStream<Uint8Array>, name: "stdout" | "stderr"): Promise<void> {
    try {
      for await (const value of stream) {
        if (this.#over) break;
        this.#queue.push({ message: { case: name, value } });
        this.#await();
        this.#wakeReader();
        if (this.#queue.length > OUTPUT_CHUNKS) await new Promise<void>((resolve) => this.#wakeWriters.push(resolve));
      }
    } finally {
      this.#open--;
      this.#wakeReader();
    }
  }

  /** After the command's end: restarts the timer at each activity. */
  #await(): void {
    if (!this.#lingering || this.#over) return;
    clearTimeout(this.#linger);
    this.#linger = setTimeout(() => this.#queue.length ? this.#await() : this.#stop(), LINGER_MS);
  }

  #stop(): void {
    this.#over = true;
    clearTimeout(this.#linger);
    this.#wakeReader();
    for (const wake of this.#wakeWriters.splice(0)) wake();
  }
}
