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
 * The first program in the session's namespace. It starts scripts from the control directory and reports their ends;
 * when its standard input ends, which it does however the agent dies, everything that runs in the session ends too.
 *
 * $1: the control directory. $2: empty in a pid namespace (whose processes the kernel kills with this one); otherwise
 * the Bazel server's directory in the output base.
 *
 * Its lines hold ids and numbers only: never a path, since paths may hold newlines. Each begins with a newline, since
 * programs of the session can open its output as well, and leave half a line there.
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

/** The beginning of each script: tells who it is, and is then alone with its own file descriptors. */
const PREAMBLE = (id: number) => `echo $$ >./${id}.pid; printf '\\nstarted ${id} %s\\n' $$ >&9; exec 9>&-\n`;

/** A script that runs, or ran, in the session's namespace. */
export interface Job {
  readonly id: number;
  /** Its process, which leads a session of its own; the number is the one inside of the namespace. Resolves with 0
   * when the job ended before it began. */
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

/** A bash script, or what makes it for the job's id. */
export type Script = string | ((id: number) => string);

interface JobState extends Job {
  readonly startedResolvers: PromiseWithResolvers<number>;
  readonly exitResolvers: PromiseWithResolvers<number>;
  readonly since: number;
  isStarted: boolean;
}

/** How a session's first process is started. */
export interface SessionInitOptions {
  /** The program and arguments that come before `bash init.sh …`: they make the namespace. */
  command: readonly string[];
  /** The session's own directory for scripts: absolute, of the same name inside of the namespace. It exists. */
  controlDirectory: string;
  /** Executes the command, if it can; else a new process does. @default a new process */
  held?: HeldMaker;
  /** The Bazel server's directory in the output base: only where the namespace has no pid namespace. */
  serverDirectory?: string;
  /** How long to wait for the first sign of life. Milliseconds. @default 10000 */
  timeoutMs?: number;
  /** How often it is asked what runs. Milliseconds. @default 5000 */
  askMs?: number;
  /** After how long without an answer it is taken for lost, with all that runs. Milliseconds. @default 60000 */
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
 * The agent's hold on the first process of the session's namespace.
 *
 * The session's programs can do to that process what its user can: stop it, write into its pipes and read from them. So
 * what it says is believed for what is the session's own (whether a job has ended), and what a program spoils are its
 * own session's jobs: too much noise ends the namespace, and so does silence. Its end the agent makes by itself, from
 * outside.
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
  /** When it was asked what was not answered yet. */
  #asked?: { number: number; at: number };
  #questions = 0;
  #asking?: ReturnType<typeof setInterval>;
  /** Where the scripts are. */
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
   * Starts the namespace and waits for its first process to say hello.
   * Rejects with an RbsError that carries what the namespace's maker said.
   */
  static async start(options: SessionInitOptions): Promise<SessionInit> {
    const init = new SessionInit(options);
    const timer = setTimeout(() => init.#kill(), options.timeoutMs ?? 10_000);
    try {
      await init.#hello.promise;
      // No program of the session runs yet: what is seen now is what was made.
      init.#namespace = pidNamespaceOf(init.pid);
      if (init.#namespace) init.#first = new HeldProcess(init.#namespace.first);
      init.#asking = setInterval(() => init.#ask(), options.askMs ?? 5_000);
      unref(init.#asking);
      return init;
    } finally {
      clearTimeout(timer);
    }
  }

  /** The process that was started to make the namespace, as the agent counts. */
  get pid(): number {
    return this.#process.pid;
  }

  /** Aborted when the namespace is gone. */
  get gone(): AbortSignal {
    return this.#gone.signal;
  }

  /** Why the agent has ended the namespace, in one sentence; undefined: it has not, or was told to. */
  get fault(): string | undefined {
    return this.#fault;
  }

  /** Whether programs of the session may have run in here, and may still. */
  get used(): boolean {
    return this.#used;
  }

  /** Says that programs of the session may run from now on. */
  use(): void {
    this.#used = true;
  }

  /** Lets commands wait until it is disposed of. */
  hold(): Disposable {
    const quiet = this.#quiet = Promise.withResolvers<void>();
    return {
      [Symbol.dispose]: () => {
        if (this.#quiet === quiet) this.#quiet = undefined;
        quiet.resolve();
      },
    };
  }

  /** A process of the session as the machine counts, held; undefined if it is not there. @param pid Its number in the session. */
  find(pid: number): { pid: number; held: HeldProcess } | undefined {
    const found = findProcess(this.pid, this.#namespace, pid);
    try {
      return found === undefined ? undefined : { pid: found, held: new HeldProcess(found) };
    } catch {
      return undefined;
    }
  }

  /**
   * Runs a bash script of the agent's own with its standard input empty. Its outputs are in {@link output}, until
   * {@link forget}.
   */
  run(script: Script): Job {
    return this.#run("run", script);
  }

  /**
   * Runs a command of the session, whose standard input, output and error are the carrier's. Resolves when it has begun,
   * or ended. Rejects with an RbsError.
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
    // There is no namespace any more.
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

  /** What a finished job of {@link run} wrote. */
  output(job: Job): { stdout: string; stderr: string } {
    return { stdout: this.read(job, "out"), stderr: this.read(job, "err") };
  }

  /** What is in one of a job's files; empty if there is none. */
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
        // It is the session's own to keep.
      }
    }
  }

  /** Runs a script to its end. */
  async call(script: string): Promise<{ code: number; stdout: string; stderr: string }> {
    const job = this.run(script);
    const code = await job.exit;
    const output = this.output(job);
    this.forget(job);
    return { code, ...output };
  }

  /** Ends everything in the namespace and waits for it. */
  async close(): Promise<void> {
    this.#writer.close().catch(() => {});
    // Whatever became of the process that ought to notice it: the kernel ends the others with the first one.
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
    // Scripts hold the developer's environment: nobody else may read them.
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

  /** Ends the namespace for a reason that is said once. */
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

  /** Asks which jobs run: an exit may be lost, and whoever tells them may be held. */
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
    // A program that outlives the namespace, where that can be, may hold the pipes.
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

  /** @returns whether it is something that could be said now */
  #hear(line: string): boolean {
    const [verb, id, ...more] = line.split(" ");
    if (verb === "hello" && !this.#greeted) {
      this.#greeted = true;
      this.#hello.resolve();
      return true;
    }
    if (verb === "running" && this.#asked?.number === Number(id)) {
      this.#asked = undefined;
      // Each exit is told before its job is missing here.
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
