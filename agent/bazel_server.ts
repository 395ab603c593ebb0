import { join } from "node:path";
import { RbsError } from "../proto/errors.ts";
import { hasInstall, resolveInstall } from "./bazel_install.ts";
import { type Handshake, ping, readCommandLine, readHandshake, readServerPid, removeHandshake } from "./handshake.ts";
import { log } from "./log.ts";
import type { Dial } from "../proto/relay/connection.ts";
import { startupOption } from "../proto/startup_options.ts";
import { sameServer, serverName, withInstallBase, withoutIdleExit, withOutputBase } from "./server_argv.ts";
import type { Job, SessionInit } from "./session_init.ts";
import type { SessionNamespace } from "./session_namespace.ts";
import { quote, quoteAll } from "./shell.ts";
import { systemFolderOf } from "../proto/system_folders.ts";

/** A Bazel server that has answered a Ping. */
export interface BazelBackend extends Handshake {
  /** The way to it, where that is not this machine's network. */
  readonly dial?: Dial;
  /** Aborted when the server's process is gone. */
  readonly exited: AbortSignal;
}

/** Parts of a {@link BazelServer}. */
export interface BazelServerOptions {
  namespace: SessionNamespace;
  /** The workspace's absolute path. */
  workspace: string;
  /** The server's argument vector after argv[0], as the developer's client composed it. Empty: whatever a Bazel client
   * in the session starts is the session's server. */
  startupOptions: readonly string[];
  /** Where other install bases are. */
  installBases: readonly string[];
  /** Told about each step of a start. */
  onStep?(step: string): void;
  /** How long a server may take to answer. Milliseconds. @default 120000, as the client's --local_startup_timeout_secs */
  startTimeoutMs?: number;
}

interface RunningServer {
  backend: BazelBackend;
  gone: Promise<unknown>;
}

/**
 * The session's one real Bazel server: found, started, started again when it is gone, and ended.
 *
 * A Bazel client inside of the session (ExecuteCommand) may replace it by its own: so a server that answers from the
 * session's output base is taken as it is, if its options are the session's.
 */
export class BazelServer {
  readonly #options: BazelServerOptions;
  #running: RunningServer | undefined;
  #starting: Promise<BazelBackend> | undefined;
  /** A server is ending, and would still answer: it must not be found again. */
  #retired = false;

  constructor(options: BazelServerOptions) {
    this.#options = options;
  }

  /** A server that answers now, if one is known. */
  get backend(): BazelBackend | undefined {
    return this.#running?.backend;
  }

  /**
   * A server that has answered a Ping; starts it if there is none. Concurrent callers share one start, which goes on
   * when one of them loses interest. Rejects with an RbsError, or the signal's reason.
   */
  async ensure(signal?: AbortSignal): Promise<BazelBackend> {
    signal?.throwIfAborted();
    if (this.#running) return this.#running.backend;
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
   * decides about those, and a start of ours beside its own would fight for the output base.
   */
  async ensureAny(signal?: AbortSignal): Promise<void> {
    if (this.#running) return;
    const pid = readServerPid(this.#serverDirectory);
    if (!this.#retired && pid !== undefined && await isAlive(await this.#options.namespace.init(), pid)) return;
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
  retire(backend: Handshake): void {
    if (this.#running?.backend.requestCookie !== backend.requestCookie) return;
    this.#running = undefined;
    this.#retired = true;
  }

  /** Ends the server, whoever started it: SIGTERM, and SIGKILL after `graceMs`. No server is fine. */
  async stop(graceMs = 5_000): Promise<void> {
    this.#running = undefined;
    // A start that gets no answer is ended with its process.
    const late = Promise.withResolvers<void>();
    const timer = setTimeout(late.resolve, graceMs);
    await Promise.race([this.#starting?.catch(() => {}), late.promise]);
    clearTimeout(timer);
    const init = await this.#options.namespace.running();
    if (init) await this.#end(init, graceMs);
  }

  get #serverDirectory(): string {
    return join(this.#options.namespace.storageOutputBase, "server");
  }

  async #start(): Promise<BazelBackend> {
    const { namespace, startupOptions, workspace } = this.#options;
    const init = await namespace.init();
    const developersOutputBase = startupOption(startupOptions, "output_base") ?? namespace.outputBase;
    const options = withOutputBase(startupOptions, developersOutputBase, namespace.outputBase);
    const commandLine = [serverName(workspace), ...options];

    if (this.#retired) await this.#end(init, 10_000);
    this.#retired = false;
    const found = await this.#adopt(init, commandLine);
    if (found) return found;
    if (startupOptions.length === 0) {
      throw new RbsError("This session has no Bazel server yet: run a Bazel command in it.", { culprit: "caller" });
    }

    this.#options.onStep?.("finding the client's Bazel version");
    const install = await resolveInstall(init, startupOptions, this.#options.installBases);
    this.#options.onStep?.("starting Bazel server");
    const argv = withoutIdleExit(
      withInstallBase(options, startupOption(options, "install_base")!, install.installBase),
    );
    try {
      this.#writeServerFiles(commandLine, developersOutputBase);
    } catch (cause) {
      throw new RbsError(
        `The session's output base ${namespace.storageOutputBase} cannot be written: make room or mend its rights.`,
        { cause, culprit: "caller" },
      );
    }
    const started = performance.now();
    const job = init.run(this.#startScript(install.java, argv));
    const pid = await job.started;
    const backend = await this.#answered(job, pid);
    log(`Bazel server ${pid} answers at port ${backend.port} after ${Math.round(performance.now() - started)} ms`);
    job.exit.then((code) => {
      log(`Bazel server ${pid} ended with code ${code}`);
      init.forget(job);
    });
    return this.#accept(backend, job.exit);
  }

  /** Takes the server that runs already in the output base, or ends it if a client would not take it for ours. */
  async #adopt(init: SessionInit, commandLine: readonly string[]): Promise<BazelBackend | undefined> {
    const pid = readServerPid(this.#serverDirectory);
    if (pid === undefined || !await isAlive(init, pid)) return undefined;
    const isOurs = this.#options.startupOptions.length === 0 ||
      sameServer(readCommandLine(this.#serverDirectory) ?? [], commandLine);
    if (isOurs) {
      // A client may have started it just now: its process is there, its answer will be.
      const watch = init.run(`exec tail -s 0.2 --pid=${pid} -f /dev/null`);
      watch.exit.then(() => init.forget(watch));
      try {
        const handshake = await this.#answered(watch, pid, 20_000);
        log(`Bazel server ${pid} was there already, at port ${handshake.port}`);
        return this.#accept(handshake, watch.exit);
      } catch {
        watch.signal("TERM");
      }
    }
    await this.#end(init, 5_000);
    return undefined;
  }

  #accept(handshake: Handshake, gone: Promise<unknown>): BazelBackend {
    const exited = new AbortController();
    const backend = { ...handshake, exited: exited.signal, dial: this.#options.namespace.dial };
    const running = { backend, gone };
    this.#running = running;
    gone.then(() => {
      if (this.#running === running) this.#running = undefined;
      exited.abort(new RbsError("The Bazel server ended."));
    });
    return backend;
  }

  /** Waits until the server that runs as `pid` answers; rejects with an RbsError when `process` ends, or is too slow. */
  async #answered(process: Job, pid: number, timeoutMs = this.#options.startTimeoutMs ?? 120_000): Promise<Handshake> {
    let ended: number | undefined;
    process.exit.then((code) => {
      ended = code;
      wake();
    });
    let wake = () => {};
    // File events make it quick; they may be missed, so a clock looks as well.
    using watcher = Deno.watchFs(this.#serverDirectory, { recursive: false });
    (async () => {
      for await (const _ of watcher) wake();
    })().catch(() => {});
    const { dial } = this.#options.namespace;
    const deadline = performance.now() + timeoutMs;
    while (ended === undefined) {
      const changed = new Promise<void>((resolve) => wake = resolve);
      const handshake = readHandshake(this.#serverDirectory);
      if (handshake && readServerPid(this.#serverDirectory) === pid && await ping(handshake, 5_000, dial)) {
        return handshake;
      }
      if (performance.now() > deadline) {
        process.signal("KILL");
        throw new RbsError(
          `The Bazel server did not answer within ${timeoutMs / 1000} s: see ${
            join(this.#serverDirectory, "jvm.out")
          }.`,
        );
      }
      let timer: ReturnType<typeof setTimeout> | undefined;
      await Promise.race([changed, new Promise<void>((resolve) => timer = setTimeout(resolve, 250))]);
      clearTimeout(timer);
    }
    throw this.#crashed(ended);
  }

  #crashed(code: number): RbsError {
    const output = join(this.#serverDirectory, "jvm.out");
    let lines: string[] = [];
    try {
      lines = Deno.readTextFileSync(output).split("\n").map((l) => l.trim()).filter((l) => l && !/ warning: /i.test(l));
    } catch {
      // It did not even get to write there.
    }
    const said = lines.find((l) => /error|exception|unrecognized|no space/i.test(l)) ?? lines.at(0);
    return new RbsError(
      `The Bazel server ended with code ${code} before it answered${
        said ? ` (${said.slice(0, 300)})` : ""
      }: see ${output}.`,
      {
        culprit: lines.some((l) => /Could not create the Java Virtual Machine|No space left/.test(l))
          ? "caller"
          : undefined,
      },
    );
  }

  /** What a stock client writes before it starts a server; so a stock client inside finds the server and keeps it. */
  #writeServerFiles(commandLine: readonly string[], developersOutputBase: string): void {
    const { namespace } = this.#options;
    const out = namespace.storageOutputBase;
    Deno.mkdirSync(this.#serverDirectory, { recursive: true, mode: 0o700 });
    removeHandshake(this.#serverDirectory);
    for (const stale of ["server.pid.txt", "server.starttime"]) removeIfThere(join(this.#serverDirectory, stale));
    Deno.writeTextFileSync(join(this.#serverDirectory, "cmdline"), commandLine.join("\0"));
    let logging: string | undefined;
    try {
      if (!namespace.synced) logging = Deno.readTextFileSync(join(developersOutputBase, "javalog.properties"));
    } catch {
      // The developer's client has not got that far.
    }
    logging ??= defaultLogging(developersOutputBase);
    Deno.writeTextFileSync(
      join(out, "javalog.properties"),
      logging.replaceAll(`=${developersOutputBase}/`, () => `=${namespace.outputBase}/`),
    );
  }

  #startScript(java: string, argv: readonly string[]): string {
    const { namespace, workspace, startupOptions } = this.#options;
    const outputBase = quote(namespace.outputBase);
    const installBase = quote(startupOption(startupOptions, "install_base")!);
    // As Bazel 4.2.3 `blaze.cc`, PrepareEnvironmentForJvm: file names are bytes, which only this locale keeps for Java.
    const environment = `unset LD_PRELOAD LD_ASSUME_KERNEL _JAVA_OPTIONS JDK_JAVA_OPTIONS JAVA_TOOL_OPTIONS
if [[ $(LC_ALL=en_US.ISO-8859-1 locale charmap 2>/dev/null) == ISO-8859-1 ]]; then
  export LANG=en_US.ISO-8859-1 LANGUAGE=en_US.ISO-8859-1 LC_ALL=en_US.ISO-8859-1 LC_CTYPE=en_US.ISO-8859-1
fi`;
    return `${environment}
server=${outputBase}/server
ln -sfn -- ${installBase} ${outputBase}/install
cd -- ${quote(workspace)} >"$server/jvm.out" 2>&1 || exit 1
printf %s $$ >"$server/server.pid.txt"
exec -a ${quote(serverName(workspace))} ${quoteAll([java, ...argv])} >"$server/jvm.out" 2>&1 </dev/null
`;
  }

  /** Ends the server that the output base names, if its process is there, and waits for its end. */
  async #end(init: SessionInit, graceMs: number): Promise<void> {
    const pid = readServerPid(this.#serverDirectory);
    if (pid === undefined || !await isAlive(init, pid)) return;
    const seconds = Math.max(0.05, graceMs / 1000);
    await init.call(`kill -TERM ${pid} || exit 0
timeout ${seconds} tail -s 0.05 --pid=${pid} -f /dev/null && exit 0
kill -KILL ${pid} && timeout 5 tail -s 0.05 --pid=${pid} -f /dev/null
`);
  }
}

/** Whether `pid` runs in the namespace, and is a process of Java or of Bazel: numbers are used again. */
async function isAlive(init: SessionInit, pid: number): Promise<boolean> {
  return (await init.call(`[[ $(ps -o args= -p ${pid}) == *A-server.jar* ]]`)).code === 0;
}

function removeIfThere(file: string): void {
  try {
    Deno.removeSync(file);
  } catch (e) {
    if (!(e instanceof Deno.errors.NotFound)) throw e;
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
