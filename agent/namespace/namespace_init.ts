import { join } from "node:path";
import { unref } from "../../proto/base/timers.ts";
import { RbsError, sentence } from "../../proto/base/errors.ts";
import { readControlFile, removeControlFile, writeControlFile } from "./control_files.ts";
import { Beneath } from "../files/beneath.ts";
import type { HeldMaker } from "./held_maker.ts";
import { findProcess, HeldProcess, type PidNamespace, pidNamespaceOf } from "../files/processes.ts";
import { InitWords, Noise } from "./init_words.ts";
import { JobStreams } from "./job_streams.ts";
import { log } from "../log.ts";

/**
 * The first program in the session's namespace. It starts scripts from the control directory and reports their ends.
 * When its standard input ends, which happens however the agent dies, everything in the session ends too.
 *
 * $1: the control directory. $2: empty in a pid namespace (whose processes the kernel kills with this one); otherwise
 * the Bazel server's directory in the output base.
 *
 * Its lines contain only ids and numbers, never paths, which may contain newlines. Each line begins with a newline,
 * since the session's programs can open its output too, and leave half a line there.
 */
const INIT = String.raw`
cd -- "$1" || exit 1
server=$2
# What an earlier agent left: its numbers mean other processes by now.
for file in ./[0-9]*; do [[ ! -e $file ]] || rm -f -- "$file"; done
[[ -z $server ]] || rm -f -- "$server/server.pid.txt"
# With job control a job gets default signal handlers; without, bash would make it ignore SIGINT and SIGQUIT.
set -m
supervise() {
  set +m
  if [[ $2 == stream ]]; then
    setsid bash "./$1.sh" 9>&1 <"$1.in" >"$1.out" 2>"$1.err"
  else
    setsid bash "./$1.sh" 9>&1 </dev/null >"$1.out" 2>"$1.err"
  fi
  printf '\nexit %s %s\n' "$1" "$?"
}
declare -A supervisors
printf '\nhello\n'
while read -r verb id name; do
  [[ $id =~ ^[0-9]+$ && $name =~ ^[A-Z0-9]*$ ]] || continue
  case $verb in
    run | stream)
      supervise "$id" "$verb" &
      supervisors[$id]=$! ;;
    signal) kill -s "$name" -- "-$id" 2>/dev/null || kill -s "$name" "$id" 2>/dev/null ;;
    ask)
      running=
      for job in "${"${!supervisors[@]}"}"; do
        if kill -0 "${"${supervisors[$job]}"}" 2>/dev/null; then running+=" $job"; else unset "supervisors[$job]"; fi
      done
      printf '\nrunning %s%s\n' "$id" "$running" ;;
  esac
done
[[ -n $server ]] || exit 0
# No pid namespace: end each job's session, and the Bazel server's, by hand.
shopt -s nullglob
for file in ./*.pid "$server/server.pid.txt"; do
  pid=
  [[ -f $file ]] && { read -r pid <"$file"; } 2>/dev/null
  [[ $pid =~ ^[0-9]+$ ]] || continue
  kill -s KILL -- "-$pid" $(ps -o pid= -g "$pid") 2>/dev/null
done
exit 0
`;

/** The start of each script: reports its process id, then closes the inherited descriptor. */
const PREAMBLE = (id: number) => `echo $$ >./${id}.pid; printf '\\nstarted ${id} %s\\n' $$ >&9; exec 9>&-\n`;

/** A script that runs, or ran, in the session's namespace. */
export interface Job {
  readonly id: number;
  /**
   * The id of its process in the namespace; the process leads a session of its own. Resolves with 0 when the job ended
   * before it began.
   */
  readonly started: Promise<number>;
  /** 0 to 255; 128 + N when it ended by signal N, or 137 when the whole namespace ended. Never rejects. */
  readonly exit: Promise<number>;
  /** Sends a signal (a name without SIG) to the job's process group. */
  signal(name: string): void;
}

/** A job of {@link SessionInit.stream}. */
export interface StreamedJob extends Job {
  /** Its standard streams are the job's. */
  readonly carrier: Deno.ChildProcess;
}

/** A bash script, or a function that makes it for the job's id. */
export type Script = string | ((id: number) => string);

interface JobState extends Job {
  readonly startedResolvers: PromiseWithResolvers<number>;
  readonly exitResolvers: PromiseWithResolvers<number>;
  readonly since: number;
  isStarted: boolean;
}

/** Options of {@link SessionInit.start}. */
export interface SessionInitOptions {
  /** The program and arguments before `bash init.sh …`, which make the namespace. */
  command: readonly string[];
  /** The session's directory for scripts: absolute, with the same path in the namespace. Must exist. */
  controlDirectory: string;
  /** A maker started ahead, which executes the command if it can. @default a new process */
  held?: HeldMaker;
  /** The Bazel server's directory in the output base: only without a pid namespace. */
  serverDirectory?: string;
  /** Timeout for the first process to say hello. Milliseconds. @default 10000 */
  timeoutMs?: number;
  /** How often it is asked what runs. Milliseconds. @default 5000 */
  askMs?: number;
  /** Without an answer for this long, the namespace is ended. Milliseconds. @default 60000 */
  patienceMs?: number;
}

function spawn(command: readonly string[]) {
  const process = new Deno.Command("bash", {
    args: ["-c", `exec "$@"`, "bash", ...command],
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  return { process, stdin: process.stdin.getWriter() };
}

/**
 * The agent's control of the first process of the session's namespace.
 *
 * The session's programs can do to that process what its user can: stop it, write into its pipes and read from them. So
 * its messages are trusted only for the session's own matters (whether a job has ended), and a program can only harm
 * its own session's jobs: too much output or silence ends the namespace. The agent does that itself, from outside.
 */
export class SessionInit {
  readonly #options: SessionInitOptions;
  readonly #process: Deno.ChildProcess;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  readonly #jobs = new Map<number, JobState>();
  readonly #exited = Promise.withResolvers<void>();
  readonly #hello = Promise.withResolvers<void>();
  readonly #gone = new AbortController();
  readonly #files: Beneath;
  #namespace?: PidNamespace;
  /** The first process of the pid namespace. */
  #first?: HeldProcess;
  #greeted = false;
  #lastWords = "";
  #nextId = 1;
  #used = false;
  /** Resolves when commands may run. */
  #quiet?: PromiseWithResolvers<void>;
  #fault?: string;
  /** The unanswered question, and when it was asked. */
  #asked?: { number: number; at: number };
  #questions = 0;
  #asking?: ReturnType<typeof setInterval>;
  /** The directory of the scripts. */
  readonly controlDirectory: string;

  private constructor(options: SessionInitOptions) {
    this.#options = options;
    this.controlDirectory = options.controlDirectory;
    this.#files = Beneath.open(options.controlDirectory);
    writeControlFile(this.#files, "init.sh", INIT);
    const script = join(options.controlDirectory, "init.sh");
    const inner = ["bash", script, options.controlDirectory, options.serverDirectory ?? ""];
    const command = [...options.command, ...inner];
    const { process, stdin } = options.held?.take(command) ?? spawn(command);
    this.#process = process;
    this.#writer = stdin;
    this.#live();
  }

  /**
   * Starts the namespace and waits for its first process to say hello. Rejects with an RbsError that contains the
   * maker's last message.
   */
  static async start(options: SessionInitOptions): Promise<SessionInit> {
    const init = new SessionInit(options);
    const timer = setTimeout(() => init.#kill(), options.timeoutMs ?? 10_000);
    try {
      await init.#hello.promise;
      // No program of the session runs yet, so what is seen now is genuine.
      init.#namespace = pidNamespaceOf(init.pid);
      if (init.#namespace) init.#first = new HeldProcess(init.#namespace.first);
      init.#asking = setInterval(() => init.#ask(), options.askMs ?? 5_000);
      unref(init.#asking);
      return init;
    } finally {
      clearTimeout(timer);
    }
  }

  /** The process that was started to make the namespace, by its id outside. */
  get pid(): number {
    return this.#process.pid;
  }

  /** Aborted when the namespace is gone. */
  get gone(): AbortSignal {
    return this.#gone.signal;
  }

  /** Why the agent has ended the namespace, in one sentence. Undefined if it has not, or was told to. */
  get fault(): string | undefined {
    return this.#fault;
  }

  /** Whether programs of the session may have run here. */
  get used(): boolean {
    return this.#used;
  }

  /** Records that programs of the session may run from now on. */
  use(): void {
    this.#used = true;
  }

  /** Makes commands wait until it is disposed of. */
  hold(): Disposable {
    const quiet = this.#quiet = Promise.withResolvers<void>();
    return {
      [Symbol.dispose]: () => {
        if (this.#quiet === quiet) this.#quiet = undefined;
        quiet.resolve();
      },
    };
  }

  /**
   * A held process of the session, with its id outside; undefined if it does not exist. @param pid Its id in the
   * session.
   */
  find(pid: number): { pid: number; held: HeldProcess } | undefined {
    const found = findProcess(this.pid, this.#namespace, pid);
    try {
      return found === undefined ? undefined : { pid: found, held: new HeldProcess(found) };
    } catch {
      return undefined;
    }
  }

  /**
   * Runs one of the agent's own bash scripts with empty standard input. Its outputs are in {@link output} until
   * {@link forget}.
   */
  run(script: Script): Job {
    return this.#run("run", script);
  }

  /**
   * Runs a command of the session, whose standard streams are the carrier's. Resolves when the command has begun or
   * ended. Rejects with an RbsError.
   */
  async stream(script: Script): Promise<StreamedJob> {
    while (this.#quiet) await this.#quiet.promise;
    this.use();
    let streams: JobStreams | undefined;
    const { id, started, exit, signal } = this.#run(
      "stream",
      script,
      (id) => streams = new JobStreams(this.#files, id),
    );
    // The namespace is gone.
    if (!streams) throw this.gone.reason;
    try {
      await started;
      return { id, started, exit, signal, carrier: streams.carry() };
    } finally {
      streams[Symbol.dispose]();
    }
  }

  /** Sends a signal to a process group in the namespace, or to a process if there is no such group. */
  signal(pid: number, name: string): void {
    if (pid > 1) this.#send(`signal ${pid} ${name}`);
  }

  /** The output of a finished job of {@link run}. */
  output(job: Job): { stdout: string; stderr: string } {
    return { stdout: this.read(job, "out"), stderr: this.read(job, "err") };
  }

  /** The content of one of a job's files; empty if there is none. */
  read(job: Job, suffix: string): string {
    return readControlFile(this.#files, `${job.id}.${suffix}`);
  }

  /** Writes one of a job's files. Throws an RbsError. */
  write({ id }: Pick<Job, "id">, suffix: string, text: string): void {
    writeControlFile(this.#files, `${id}.${suffix}`, text);
  }

  /** Removes a job's files. */
  forget(job: Job): void {
    for (const suffix of ["sh", "pid", "in", "out", "err", "tty", "inner.sh", "inner.pid"]) {
      try {
        removeControlFile(this.#files, `${job.id}.${suffix}`);
      } catch {
        // The session keeps it.
      }
    }
  }

  /** Runs a script and waits for its end. */
  async call(script: string): Promise<{ code: number; stdout: string; stderr: string }> {
    const job = this.run(script);
    const code = await job.exit;
    const output = this.output(job);
    this.forget(job);
    return { code, ...output };
  }

  /** Ends all processes in the namespace, and resolves when they have ended. */
  async close(): Promise<void> {
    this.#writer.close().catch(() => {});
    // The kernel ends all processes with the first one, even if the process that should notice does not.
    this.#first?.signal("KILL");
    const timer = setTimeout(() => this.#kill(), 2_000);
    await this.#exited.promise;
    clearTimeout(timer);
  }

  #run(verb: "run" | "stream", source: Script, prepare?: (id: number) => void): JobState {
    const id = this.#nextId++;
    const script = typeof source === "string" ? source : source(id);
    const startedResolvers = Promise.withResolvers<number>();
    const exitResolvers = Promise.withResolvers<number>();
    let pid = 0;
    startedResolvers.promise.then((p) => pid = p);
    const job: JobState = {
      id,
      started: startedResolvers.promise,
      exit: exitResolvers.promise,
      startedResolvers,
      exitResolvers,
      since: performance.now(),
      isStarted: false,
      signal: (name) => this.signal(pid, name),
    };
    if (this.gone.aborted) {
      this.#over(job, 137);
      return job;
    }
    // Scripts contain the developer's environment, so nobody else may read them.
    writeControlFile(this.#files, `${id}.sh`, PREAMBLE(id) + script);
    try {
      prepare?.(id);
    } catch (cause) {
      throw new RbsError(
        `The session's storage cannot be written (${sentence(cause)}): make room or fix its permissions.`,
        { cause, culprit: "caller" },
      );
    }
    this.#jobs.set(id, job);
    this.#send(`${verb} ${id}`);
    return job;
  }

  #over(job: JobState, code: number): void {
    job.startedResolvers.resolve(0);
    job.exitResolvers.resolve(code);
    this.#jobs.delete(job.id);
  }

  #send(line: string): void {
    this.#writer.write(new TextEncoder().encode(line + "\n")).catch(() => {});
  }

  /** Ends the namespace. Only the first reason is reported. */
  #end(why: string): void {
    if (this.#fault !== undefined || this.gone.aborted) return;
    this.#fault = why;
    log(`namespace: ${why}`);
    void this.close();
  }

  #kill(): void {
    try {
      this.#process.kill("SIGKILL");
    } catch {
      // It is gone already.
    }
  }

  /** Asks which jobs run: an exit message may be lost, or the process that sends it may be stopped. */
  #ask(): void {
    if (this.#jobs.size === 0 && !this.#asked) return;
    const patience = this.#options.patienceMs ?? 60_000;
    const now = performance.now();
    for (const job of this.#jobs.values()) if (!job.isStarted && now - job.since > patience) this.#over(job, 137);
    if (!this.#asked) {
      this.#asked = { number: ++this.#questions, at: now };
      this.#send(`ask ${this.#asked.number}`);
    } else if (now - this.#asked.at > patience) {
      this.#end(
        "The first process of the session does not answer any more, so that the session's programs were ended.",
      );
    }
  }

  async #live(): Promise<void> {
    const onFlood = () =>
      this.#end(
        "A program of the session has written into the channel of its first process, so that the session's programs were ended.",
      );
    const words = new InitWords(this.#process.stdout, (line) => this.#hear(line), onFlood);
    const noise = new Noise(this.#process.stderr, {
      log: (line) => {
        this.#lastWords = line;
        log(`namespace: ${line}`);
      },
      onFlood: () =>
        this.#end("The session's programs flood the agent's log, so that they were ended: let them write elsewhere."),
    });
    const heard = Promise.all([words.read(), noise.read()]);
    const { code } = await this.#process.status;
    // A program that outlives the namespace, where possible, may hold the pipes open.
    let timer: ReturnType<typeof setTimeout> | undefined;
    await Promise.race([heard, new Promise((resolve) => timer = setTimeout(resolve, 500))]);
    clearTimeout(timer);
    words.close();
    noise.close();
    clearInterval(this.#asking);
    this.#first?.[Symbol.dispose]();
    this.#gone.abort(new RbsError(this.#fault ?? "The session's namespace ended."));
    this.#hello.reject(
      new RbsError(
        code === 127
          ? "it is not installed"
          : this.#lastWords || `it ended with code ${code} before its first process was there`,
      ),
    );
    for (const job of [...this.#jobs.values()]) this.#over(job, 137);
    this.#exited.resolve();
  }

  /** @returns whether the line is a valid message at this time */
  #hear(line: string): boolean {
    const [verb, id, ...more] = line.split(" ");
    if (verb === "hello" && !this.#greeted) {
      this.#greeted = true;
      this.#hello.resolve();
      return true;
    }
    if (verb === "running" && this.#asked?.number === Number(id)) {
      this.#asked = undefined;
      // Each exit is reported before its job is missing here.
      const running = new Set(more.map(Number));
      for (const job of [...this.#jobs.values()]) if (job.isStarted && !running.has(job.id)) this.#over(job, 137);
      return true;
    }
    const job = this.#jobs.get(Number(id));
    const value = Number(more[0]);
    if (!job || !Number.isInteger(value)) return false;
    if (verb === "started" && !job.isStarted) {
      job.isStarted = true;
      job.startedResolvers.resolve(value);
      return true;
    }
    if (verb !== "exit") return false;
    this.#over(job, value & 0xff);
    return true;
  }
}
