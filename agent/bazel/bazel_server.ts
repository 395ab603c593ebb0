import { Buffer } from "node:buffer";
import { join } from "node:path";
import { HANDSHAKE_FILES } from "../../proto/bazel/handshake_files.ts";
import type { ClientShell } from "../../proto/bazel/client_shell.ts";
import { RbsError, sentence } from "../../proto/base/errors.ts";
import { Connection } from "../../proto/transport/grpc/channel.ts";
import { startupOption } from "../../proto/bazel/startup_options.ts";
import { systemFolderOf } from "../../proto/base/system_folders.ts";
import { lookFor, readFile } from "../../proto/tree/files.ts";
import { hasInstall, resolveInstall } from "./bazel_install.ts";
import type { Backend } from "./bazel_upstream.ts";
import type { ServerStart } from "./class_archives/archive_key.ts";
import { removeControlFile, writeControlFile } from "../namespace/control_files.ts";
import { Beneath } from "../files/beneath.ts";
import { type HeldProcess, ownsPort } from "../files/processes.ts";
import { type Handshake, ping, readHandshake } from "./handshake_files.ts";
import { inheritance } from "./client_limits.ts";
import { log } from "../log.ts";
import {
  locksInstallBase,
  serverName,
  withInstallBase,
  withoutIdleExit,
  withoutInstallBaseLock,
  withOutputBase,
} from "./server_argv.ts";
import type { Job } from "../namespace/namespace_init.ts";
import type { SessionNamespace } from "../namespace/mount_namespace.ts";
import { quote, quoteAll } from "../namespace/shell.ts";

/** Interval of the checks for a starting server. Milliseconds. */
const LOOK_MS = 5;
/** The file for a server's output before it has a log, relative to the output base. */
const JVM_OUT = "server/jvm.out";
/** Maximum bytes read of a crashed server's output. */
const MAX_LAST_WORDS_BYTES = 64 << 10;
/** Maximum bytes read of the developer's own logging settings. */
const MAX_SETTINGS_BYTES = 64 << 10;

/** A Bazel server that has answered a Ping. */
export interface BazelBackend extends Backend {
  /** Aborted when the server's process is gone. */
  readonly exited: AbortSignal;
}

/** Options of {@link BazelServer}. */
export interface BazelServerOptions {
  namespace: SessionNamespace;
  /** The workspace's absolute path. */
  workspace: string;
  /**
   * The server's arguments after argv[0], as the developer's client composed them. Empty: the only servers are those
   * that Bazel clients in the session start themselves.
   */
  startupOptions: readonly string[];
  /** What the server inherits. @default what the agent has */
  clientShell?: ClientShell;
  /** Directories with other install bases. */
  installBases: readonly string[];
  /** Additional JVM options for a start. They come first, so that others win; no client sees them. @default none */
  jvmOptions?(start: ServerStart): readonly string[];
  /** Called with each step of a start. */
  onStep?(step: string): void;
  /**
   * How long a server may take to answer. Milliseconds. @default 120000, as the client's --local_startup_timeout_secs
   */
  startTimeoutMs?: number;
}

interface RunningServer {
  backend: BazelBackend;
  /** The Java process. */
  process: HeldProcess;
  /** Call it when the server has ended. */
  over(): void;
}

/**
 * The session's one real Bazel server: started, restarted when it is gone, and ended.
 *
 * The agent trusts only the process that it has started. Before each start all programs of the session are ended. Then
 * the server writes its address into files in the output base, which are read once; the kernel confirms that this
 * process listens there. All calls use the one connection made then: a port can be taken over, a connection cannot.
 *
 * A Bazel client inside the session (ExecuteCommand) may replace the server by its own. The agent's calls never reach
 * that one, and it ends with the next start.
 */
export class BazelServer {
  readonly #options: BazelServerOptions;
  #running: RunningServer | undefined;
  #starting: Promise<BazelBackend> | undefined;
  /** A server that is ending, and may still hold the output base. */
  #ending: RunningServer | undefined;
  /** Clients inside may have started servers. */
  #mayHaveGuests = false;

  constructor(options: BazelServerOptions) {
    this.#options = options;
  }

  /** The server, if one is known to answer. */
  get backend(): BazelBackend | undefined {
    return this.#running?.backend;
  }

  /**
   * Whether there is, or will soon be, a server that `shutdown` may end, including one that clients inside started.
   */
  get isThere(): boolean {
    return this.#mayHaveGuests || this.#starting !== undefined || this.#isRunning();
  }

  /**
   * Returns a server that has answered a Ping, and starts one if necessary. Concurrent callers share one start, which
   * continues when one of them gives up. Rejects with an RbsError, or the signal's reason.
   */
  async ensure(signal?: AbortSignal): Promise<BazelBackend> {
    signal?.throwIfAborted();
    if (this.#isRunning()) return this.#running!.backend;
    this.#starting ??= this.#start().finally(() => this.#starting = undefined);
    if (!signal) return await this.#starting;
    const aborted = Promise.withResolvers<never>();
    const abort = () => aborted.reject(signal.reason);
    signal.addEventListener("abort", abort);
    try {
      return await Promise.race([this.#starting, aborted.promise]);
    } finally {
      signal.removeEventListener("abort", abort);
    }
  }

  /**
   * Ensures that a client in the session finds a server, even one with other options than the session's: the client
   * decides about those, and a start by the agent would end the client's own.
   */
  async ensureAny(signal?: AbortSignal): Promise<void> {
    this.#mayHaveGuests = true;
    if (this.#isRunning()) return;
    // A client's server is found by data that programs can forge; it decides only whether to start one.
    const init = await this.#options.namespace.init();
    if (!this.#starting && (await init.call(`${this.#findGuest()} && [[ -n $pid ]]`)).code === 0) return;
    await this.ensure(signal);
  }

  /**
   * The client's install base, if the agent's machine lacks that Bazel: it must be sent before {@link ensure} can start
   * the server. Undefined in a session that is not synced, and for an install base in a system directory, where it
   * cannot be sent.
   */
  async missingInstallBase(): Promise<string | undefined> {
    const { namespace, startupOptions, installBases } = this.#options;
    const wanted = startupOption(startupOptions, "install_base");
    if (!namespace.synced || wanted === undefined || systemFolderOf(wanted) !== undefined) return undefined;
    // What was sent for an earlier server does not count: it may be incomplete.
    const isOwn = installBases.some((folder) => wanted === folder || wanted.startsWith(folder + "/"));
    const folders = isOwn ? [wanted, ...installBases] : installBases;
    return await hasInstall(await namespace.init(), startupOptions, folders) ? undefined : wanted;
  }

  /**
   * Records that a server is ending (it answered `shutdown`) or no longer answers: the next {@link ensure} waits for
   * its end and starts another. Does nothing for another server than the present one.
   */
  retire(backend: Pick<Backend, "connection">): void {
    if (this.#running?.backend.connection !== backend.connection) return;
    this.#ending = this.#running;
    this.#running = undefined;
  }

  /**
   * Ends the server, and those of clients inside: SIGTERM, then SIGKILL after `graceMs`. Does nothing without a server.
   */
  async stop(graceMs = 5_000): Promise<void> {
    // A start without an answer ends with its process.
    const late = Promise.withResolvers<void>();
    const timer = setTimeout(late.resolve, graceMs);
    await Promise.race([this.#starting?.catch(() => {}), late.promise]);
    clearTimeout(timer);
    this.#ending = this.#running ?? this.#ending;
    this.#running = undefined;
    await this.#end(graceMs);
    const init = this.#mayHaveGuests ? await this.#options.namespace.running() : undefined;
    if (!init) return;
    const seconds = Math.max(0.05, graceMs / 1000);
    await init.call(`${this.#findGuest()}
[[ -n $pid ]] && kill -TERM "$pid" || exit 0
timeout ${seconds} tail -s 0.05 --pid="$pid" -f /dev/null && exit 0
kill -KILL "$pid" && timeout 5 tail -s 0.05 --pid="$pid" -f /dev/null
`);
    this.#mayHaveGuests = false;
  }

  /** Whether the server runs, according to the kernel: the session's message about its end may be held up. */
  #isRunning(): boolean {
    if (this.#running?.process.hasEnded) {
      this.#ending = this.#running;
      this.#running = undefined;
    }
    return this.#running !== undefined;
  }

  /** The start of a script in the namespace: sets $pid to the running server that the output base names. */
  #findGuest(): string {
    return `file=${quote(this.#options.namespace.outputBase)}/server/server.pid.txt pid=
[[ -f $file ]] && { read -t 1 -r -n 20 pid <>"$file"; } 2>/dev/null
[[ $pid =~ ^[0-9]+$ && $(ps -o args= -p "$pid") == *A-server.jar* ]] || pid=`;
  }

  async #start(): Promise<BazelBackend> {
    const { namespace, startupOptions, workspace } = this.#options;
    if (startupOptions.length === 0) {
      throw new RbsError("This session has no Bazel server of its own: run `bazel` in it once.", { culprit: "caller" });
    }
    await this.#end(10_000);
    // No program of the session runs until the server has said where it listens.
    using quiet = await namespace.quiet();
    const { init } = quiet;
    const developersOutputBase = startupOption(startupOptions, "output_base") ?? namespace.outputBase;
    const options = withOutputBase(startupOptions, developersOutputBase, namespace.outputBase);
    this.#options.onStep?.("finding the client's Bazel version");
    const install = await resolveInstall(init, startupOptions, this.#options.installBases);
    this.#options.onStep?.("starting Bazel server");
    let argv = withoutIdleExit(
      withInstallBase(options, startupOption(options, "install_base")!, install.installBase),
    );
    // Without write access to the lock the base cannot be collected either, and that server would not start.
    if (locksInstallBase(argv) && (await init.call(`: <>${quote(install.installBase)}.lock`)).code !== 0) {
      argv = withoutInstallBaseLock(argv);
    }
    const more = this.#options.jvmOptions?.({ ...install, argv }) ?? [];
    using output = this.#openOutput();
    this.#writeServerFiles(output, [serverName(workspace), ...options], developersOutputBase);
    const started = performance.now();
    init.use();
    const job = init.run(this.#startScript(install.java, [...more, ...argv]));
    const pid = await job.started;
    const process = init.find(pid);
    if (!process) throw this.#crashed(await job.exit, output);
    const backend = await this.#answered(job, process, output).catch((e) => {
      process.held[Symbol.dispose]();
      throw e;
    });
    log(`Bazel server ${pid} answers at port ${backend.port} after ${Math.round(performance.now() - started)} ms`);
    const exited = new AbortController();
    const running: RunningServer = {
      backend: { ...backend, exited: exited.signal },
      process: process.held,
      over: () => {
        if (this.#running === running) this.#running = undefined;
        if (this.#ending === running) this.#ending = undefined;
        process.held[Symbol.dispose]();
        backend.connection.retire();
        exited.abort(new RbsError("The Bazel server ended."));
      },
    };
    this.#running = running;
    job.exit.then((code) => {
      log(`Bazel server ${pid} ended with code ${code}`);
      init.forget(job);
      // The session reports this; if it is not true, the next start ends the server.
      running.over();
    });
    return running.backend;
  }

  #openOutput(): Beneath {
    const { storage, storageOutputBase, storageOutputBaseName } = this.#options.namespace;
    try {
      return storage.beneath(storageOutputBaseName);
    } catch (cause) {
      throw cannotWrite(storageOutputBase, cause);
    }
  }

  /**
   * Waits until exactly the server that was just started answers. Rejects with an RbsError when its process ends, or is
   * too slow.
   */
  async #answered(job: Job, process: { pid: number; held: HeldProcess }, output: Beneath): Promise<Backend> {
    const timeoutMs = this.#options.startTimeoutMs ?? 120_000;
    let ended: number | undefined;
    let wake = () => {};
    job.exit.then((code) => {
      ended = code;
      wake();
    });
    const deadline = performance.now() + timeoutMs;
    // What is missing, for the error message.
    let lacks = "";
    while (ended === undefined) {
      const handshake = readHandshake(output);
      const isOwn = () => handshake !== undefined && ownsPort(process.pid, handshake.host, handshake.port);
      if (handshake) lacks = ` at port ${handshake.port}, which another process may have`;
      if (handshake && isOwn()) {
        lacks = ` at its port ${handshake.port}`;
        const connection = this.#connect(handshake);
        if (await ping(connection, handshake, 5_000) && isOwn() && !process.held.hasEnded) {
          return { ...handshake, connection };
        }
        connection.close();
      }
      if (performance.now() > deadline) {
        process.held.signal("KILL");
        throw new RbsError(
          `The Bazel server did not answer${lacks} within ${timeoutMs / 1000} s: see ${
            join(this.#options.namespace.storageOutputBase, JVM_OUT)
          }.`,
        );
      }
      let timer: ReturnType<typeof setTimeout> | undefined;
      await new Promise<void>((resolve) => {
        wake = resolve;
        timer = setTimeout(resolve, LOOK_MS);
      });
      clearTimeout(timer);
    }
    throw this.#crashed(ended, output);
  }

  /** The connection to the server, which is made only once. */
  #connect({ host, port }: Handshake): Connection {
    const { dial } = this.#options.namespace;
    let isMade = false;
    return new Connection(host, port, {
      dial: async (host, port, signal) => {
        if (isMade) throw new Error("its connection was lost");
        isMade = true;
        if (dial) return await dial(host, port, signal);
        const tcp = await Deno.connect({ hostname: host, port, signal });
        tcp.setNoDelay(true);
        return tcp;
      },
    });
  }

  #crashed(code: number, output: Beneath): RbsError {
    let lines: string[] = [];
    try {
      const text = Buffer.from(readFile(output, JVM_OUT, MAX_LAST_WORDS_BYTES)).toString();
      lines = text.split("\n").map((l) => l.trim()).filter((l) => l && !/ warning: /i.test(l));
    } catch {
      // The server did not get far enough to write there.
    }
    const said = lines.find((l) => /error|exception|unrecognized|no space/i.test(l)) ?? lines.at(0);
    return new RbsError(
      `The Bazel server ended with code ${code} before it answered${said ? ` (${said.slice(0, 300)})` : ""}: see ${
        join(this.#options.namespace.storageOutputBase, JVM_OUT)
      }.`,
      {
        culprit: lines.some((l) => /Could not create the Java Virtual Machine|No space left/.test(l))
          ? "caller"
          : undefined,
      },
    );
  }

  /**
   * Writes what a stock client writes before it starts a server, so that a stock client inside finds the server and
   * keeps it. Existing files of these names are removed.
   */
  #writeServerFiles(output: Beneath, commandLine: readonly string[], developersOutputBase: string): void {
    const { namespace, startupOptions } = this.#options;
    const install = startupOption(startupOptions, "install_base")!;
    try {
      if (lookFor(output, "server")?.kind !== "directory") {
        removeControlFile(output, "server");
        output.mkdir("server", 0o700);
      }
      for (const name of [...HANDSHAKE_FILES, "server.pid.txt", "server.starttime", "jvm.out"]) {
        removeControlFile(output, `server/${name}`);
      }
      writeControlFile(output, "server/cmdline", commandLine.join("\0"));
      const logging = (namespace.synced ? undefined : developersLogging(developersOutputBase)) ??
        defaultLogging(developersOutputBase);
      writeControlFile(
        output,
        "javalog.properties",
        logging.replaceAll(`=${developersOutputBase}/`, () => `=${namespace.outputBase}/`),
      );
      const link = lookFor(output, "install");
      if (link?.kind !== "symlink" || link.target !== install) {
        removeControlFile(output, "install");
        output.symlink(install, "install");
      }
    } catch (cause) {
      throw cannotWrite(namespace.storageOutputBase, cause);
    }
  }

  #startScript(java: string, argv: readonly string[]): string {
    const { namespace, workspace } = this.#options;
    const { clientShell } = this.#options;
    return `unset LD_PRELOAD LD_ASSUME_KERNEL _JAVA_OPTIONS JDK_JAVA_OPTIONS JAVA_TOOL_OPTIONS
${inheritance(clientShell)}
server=${quote(namespace.outputBase)}/server
cd -- ${quote(workspace)} >"$server/jvm.out" 2>&1 || exit 1
printf %s $$ >"$server/server.pid.txt"
exec -a ${quote(serverName(workspace))} ${quoteAll([java, ...argv])} >"$server/jvm.out" 2>&1 </dev/null
`;
  }

  /** Ends the server in `#ending`, and resolves when it has ended. */
  async #end(graceMs: number): Promise<void> {
    const ending = this.#ending;
    if (!ending) return;
    const { process, backend, over } = ending;
    // A server that was told to shut down may be doing so.
    process.signal("TERM");
    if (!await process.ended(graceMs)) {
      process.signal("KILL");
      await process.ended(5_000);
    }
    backend.connection.close();
    over();
  }
}

function cannotWrite(outputBase: string, cause: unknown): RbsError {
  return new RbsError(
    `The session's output base ${outputBase} cannot be written (${sentence(cause)}): make room or fix its permissions.`,
    { cause, culprit: "caller" },
  );
}

/** The logging settings that the developer's client wrote for a local server; undefined if there are none. */
function developersLogging(outputBase: string): string | undefined {
  try {
    // Without following any symlink: programs of the session may have put one on the way.
    using root = Beneath.open("/");
    const path = join(outputBase, "javalog.properties").slice(1);
    return Buffer.from(readFile(root, path, MAX_SETTINGS_BYTES)).toString();
  } catch {
    return undefined;
  }
}

/** The javalog.properties of Bazel 4.2.3's client. */
function defaultLogging(outputBase: string): string {
  const handler = "com.google.devtools.build.lib.util.SimpleLogHandler";
  return [
    `handlers=${handler}`,
    ".level=INFO",
    `${handler}.level=INFO`,
    `${handler}.prefix=${outputBase}/java.log`,
    `${handler}.limit=1024000`,
    `${handler}.total_limit=20971520`,
    `${handler}.formatter=com.google.devtools.build.lib.util.SingleLineFormatter`,
    "",
  ].join("\n");
}
