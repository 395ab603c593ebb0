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

/** How often a server that starts is looked for. Milliseconds. */
const LOOK_MS = 5;
/** What a server says before it has a log, beneath the output base. */
const JVM_OUT = "server/jvm.out";
/** Of what a server has said before its end, this much is read. Bytes. */
const MAX_LAST_WORDS_BYTES = 64 << 10;
/** Of the developer's own logging settings. Bytes. */
const MAX_SETTINGS_BYTES = 64 << 10;

/** A Bazel server that has answered a Ping. */
export interface BazelBackend extends Backend {
  /** Aborted when the server's process is gone. */
  readonly exited: AbortSignal;
}

/** Parts of a {@link BazelServer}. */
export interface BazelServerOptions {
  namespace: SessionNamespace;
  /** The workspace's absolute path. */
  workspace: string;
  /** The server's argument vector after argv[0], as the developer's client composed it. Empty: there is no server but
   * what Bazel clients in the session start for themselves. */
  startupOptions: readonly string[];
  /** What it inherits. @default what the agent has */
  clientShell?: ClientShell;
  /** Where other install bases are. */
  installBases: readonly string[];
  /**
   * More options of the JVM for a start: they come first, so that others win. No client sees them. @default none
   */
  jvmOptions?(start: ServerStart): readonly string[];
  /** Told about each step of a start. */
  onStep?(step: string): void;
  /** How long a server may take to answer. Milliseconds. @default 120000, as the client's --local_startup_timeout_secs */
  startTimeoutMs?: number;
}

interface RunningServer {
  backend: BazelBackend;
  /** Java's. */
  process: HeldProcess;
  /** Says that it has ended. */
  over(): void;
}

/**
 * The session's one real Bazel server: started, started again when it is gone, and ended.
 *
 * What the agent knows of it, it knows from the process that it started. Before each start all programs of the session
 * are ended. Then the server says where it listens, by files in the output base, and these are read once; that it is
 * this process that listens there, the kernel says. All calls go over the one connection that is made then: a port can
 * be taken over, a connection cannot.
 *
 * A Bazel client inside of the session (ExecuteCommand) may replace it by a server of its own. That one is the client's
 * own business: the agent's calls never reach it, and it ends with the next start.
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

  /** A server that answers now, if one is known. */
  get backend(): BazelBackend | undefined {
    return this.#running?.backend;
  }

  /** Whether there is a server, or is about to be one, that a `shutdown` may end; also one that clients inside started. */
  get isThere(): boolean {
    return this.#mayHaveGuests || this.#starting !== undefined || this.#isRunning();
  }

  /**
   * A server that has answered a Ping; starts it if there is none. Concurrent callers share one start, which goes on
   * when one of them loses interest. Rejects with an RbsError, or the signal's reason.
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
   * Makes sure that a client in the session finds a server, be it with other options than the session's: the client
   * decides about those, and a start of ours would end its own.
   */
  async ensureAny(signal?: AbortSignal): Promise<void> {
    this.#mayHaveGuests = true;
    if (this.#isRunning()) return;
    // What is answered there decides who starts a server, and nothing else.
    const init = await this.#options.namespace.init();
    if (!this.#starting && (await init.call(`${this.#findGuest()} && [[ -n $pid ]]`)).code === 0) return;
    await this.ensure(signal);
  }

  /**
   * The client's install base, when the agent's machine does not have that Bazel: then it has to be sent here before
   * {@link ensure} can start the server. Always undefined in a session that is not synced, and for an install base in a
   * system folder, where it cannot be sent to.
   */
  async missingInstallBase(): Promise<string | undefined> {
    const { namespace, startupOptions, installBases } = this.#options;
    const wanted = startupOption(startupOptions, "install_base");
    if (!namespace.synced || wanted === undefined || systemFolderOf(wanted) !== undefined) return undefined;
    // What was sent for an earlier server does not count: nobody knows yet whether it is whole.
    const isOwn = installBases.some((folder) => wanted === folder || wanted.startsWith(folder + "/"));
    const folders = isOwn ? [wanted, ...installBases] : installBases;
    return await hasInstall(await namespace.init(), startupOptions, folders) ? undefined : wanted;
  }

  /**
   * Says that a server is ending (it answered `shutdown`) or does not answer any more: the next {@link ensure} waits for
   * its end and starts another. Other servers than the present one are left alone.
   */
  retire(backend: Pick<Backend, "connection">): void {
    if (this.#running?.backend.connection !== backend.connection) return;
    this.#ending = this.#running;
    this.#running = undefined;
  }

  /** Ends the server, and those of clients inside: SIGTERM, and SIGKILL after `graceMs`. No server is fine. */
  async stop(graceMs = 5_000): Promise<void> {
    // A start that gets no answer is ended with its process.
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

  /** Whether the server is there, as the kernel says: who tells of its end may be held. */
  #isRunning(): boolean {
    if (this.#running?.process.hasEnded) {
      this.#ending = this.#running;
      this.#running = undefined;
    }
    return this.#running !== undefined;
  }

  /** A script's beginning: sets $pid to the server that the output base names, if it runs. In the namespace. */
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
    // Until the server has said where it listens, no program of the session runs.
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
    // Who cannot write the lock cannot collect the base either, and that server would not start.
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
      // It is the session that says so: where it is not true, the next start ends the server.
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
   * Waits until the server answers that was just started, and nobody else. Rejects with an RbsError when its process
   * ends, or is too slow.
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
    // What it lacks, for who waits in vain.
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

  /** The connection to the server, which is made once. */
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
      // It did not even get to write there.
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
   * What a stock client writes before it starts a server; so a stock client inside finds the server and keeps it. What
   * stands there already is no file of this server, whatever it is.
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

  /** Ends the server that is to end, and waits for it. */
  async #end(graceMs: number): Promise<void> {
    const ending = this.#ending;
    if (!ending) return;
    const { process, backend, over } = ending;
    // One that was told to shut down may be at it.
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

/** What the developer's client has written for a local server; undefined: it has not got that far. */
function developersLogging(outputBase: string): string | undefined {
  try {
    // By no symlink at all: programs of the session may have put one on the way.
    using root = Beneath.open("/");
    const path = join(outputBase, "javalog.properties").slice(1);
    return Buffer.from(readFile(root, path, MAX_SETTINGS_BYTES)).toString();
  } catch {
    return undefined;
  }
}

/** What Bazel 4.2.3's client writes into javalog.properties. */
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
