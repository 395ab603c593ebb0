import { join } from "node:path";
import { RbsError } from "../proto/errors.ts";
import { readControlFile, writeControlFile } from "./control_files.ts";
import { log } from "./log.ts";

/**
 * The first program in the session's namespace. It starts scripts from the control directory and reports their ends;
 * when its standard input ends, which it does however the agent dies, everything that runs in the session ends too.
 *
 * $1: the control directory. $2: empty in a pid namespace (whose processes the kernel kills with this one); otherwise
 * the Bazel server's directory in the output base.
 *
 * Its lines hold ids and numbers only: never a path, since paths may hold newlines.
 */
const INIT = String.raw`
cd -- "$1" || exit 1
server=$2
# What an earlier agent left: its numbers mean other processes by now.
rm -f -- ./[0-9]*
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
  echo "exit $1 $?"
}
echo "hello $$"
while read -r verb id name; do
  [[ $id =~ ^[0-9]+$ && $name =~ ^[A-Z0-9]*$ ]] || continue
  case $verb in
    run) supervise "$id" run & ;;
    stream)
      if mkfifo -m 600 "$id.in" "$id.out" "$id.err"; then
        echo "fifos $id"
        supervise "$id" stream &
      else
        echo "exit $id 125"
      fi ;;
    signal) kill -s "$name" -- "-$id" 2>/dev/null || kill -s "$name" "$id" 2>/dev/null ;;
  esac
done
[[ -n $server ]] || exit 0
# No pid namespace: end each job's session, and the Bazel server's, by hand.
shopt -s nullglob
for file in ./*.pid "$server/server.pid.txt"; do
  pid=
  { read -r pid <"$file"; } 2>/dev/null
  [[ $pid =~ ^[0-9]+$ ]] || continue
  kill -s KILL -- "-$pid" $(ps -o pid= -g "$pid") 2>/dev/null
done
exit 0
`;

/** The beginning of each script: tells who it is, and is then alone with its own file descriptors. */
const PREAMBLE = (id: number) => `echo $$ >./${id}.pid; echo "started ${id} $$" >&9; exec 9>&-\n`;

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

/** A bash script, or what makes it for the job's id. */
export type Script = string | ((id: number) => string);

interface JobState extends Job {
  readonly fifos: PromiseWithResolvers<void>;
  readonly startedResolvers: PromiseWithResolvers<number>;
  readonly exitResolvers: PromiseWithResolvers<number>;
}

/** How a session's first process is started. */
export interface SessionInitOptions {
  /** The program and arguments that come before `bash init.sh …`: they make the namespace. */
  command: readonly string[];
  /** The session's own directory for scripts: absolute, of the same name inside of the namespace. It exists. */
  controlDirectory: string;
  /** The Bazel server's directory in the output base: only where the namespace has no pid namespace. */
  serverDirectory?: string;
  /** How long to wait for the first sign of life. Milliseconds. @default 10000 */
  timeoutMs?: number;
}

/** The agent's hold on the first process of the session's namespace. */
export class SessionInit {
  readonly #process: Deno.ChildProcess;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  readonly #jobs = new Map<number, JobState>();
  readonly #exited = Promise.withResolvers<void>();
  readonly #hello = Promise.withResolvers<void>();
  readonly #gone = new AbortController();
  #lastWords = "";
  #nextId = 1;
  /** The control directory without symlinks, before a program of the session could change anything. */
  readonly #files: string;
  /** Where the scripts are. */
  readonly controlDirectory: string;

  private constructor(options: SessionInitOptions) {
    this.controlDirectory = options.controlDirectory;
    this.#files = Deno.realPathSync(options.controlDirectory);
    const script = join(options.controlDirectory, "init.sh");
    writeControlFile(script, INIT);
    const inner = ["bash", script, options.controlDirectory, options.serverDirectory ?? ""];
    this.#process = new Deno.Command("bash", {
      args: ["-c", `exec "$@"`, "bash", ...options.command, ...inner],
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#writer = this.#process.stdin.getWriter();
    this.#readStderr();
    this.#readStdout();
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

  /** Runs a bash script with its standard input empty. Its outputs are in {@link output}, until {@link forget}. */
  run(script: Script): Job {
    return this.#run("run", script);
  }

  /**
   * Runs a bash script whose standard input, output and error are the fifos `<id>.in`, `.out` and `.err` in the control
   * directory; it starts once all three are opened. Resolves when the fifos are there.
   */
  async stream(script: Script): Promise<Job> {
    const job = this.#run("stream", script);
    await Promise.race([job.fifos.promise, job.exit]);
    return job;
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
    return readControlFile(`${this.file(job)}.${suffix}`);
  }

  /** The path of a job's files, without their suffixes and without symlinks. */
  file({ id }: Pick<Job, "id">): string {
    return join(this.#files, String(id));
  }

  /** Removes a job's files. */
  forget(job: Job): void {
    for (const suffix of ["sh", "pid", "in", "out", "err", "tty", "inner.sh", "inner.pid"]) {
      try {
        Deno.removeSync(join(this.controlDirectory, `${job.id}.${suffix}`));
      } catch {
        // It never had that one.
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
    const timer = setTimeout(() => this.#kill(), 2_000);
    await this.#exited.promise;
    clearTimeout(timer);
  }

  #run(verb: "run" | "stream", source: Script): JobState {
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
      fifos: Promise.withResolvers(),
      startedResolvers,
      exitResolvers,
      signal: (name) => this.signal(pid, name),
    };
    if (this.gone.aborted) {
      startedResolvers.resolve(0);
      exitResolvers.resolve(137);
      return job;
    }
    // Scripts hold the developer's environment: nobody else may read them.
    writeControlFile(join(this.controlDirectory, `${id}.sh`), PREAMBLE(id) + script);
    this.#jobs.set(id, job);
    this.#send(`${verb} ${id}`);
    return job;
  }

  #send(line: string): void {
    this.#writer.write(new TextEncoder().encode(line + "\n")).catch(() => {});
  }

  #kill(): void {
    try {
      this.#process.kill("SIGKILL");
    } catch {
      // It is gone already.
    }
  }

  async #readStderr(): Promise<void> {
    for await (const chunk of this.#process.stderr.pipeThrough(new TextDecoderStream())) {
      for (const line of chunk.split("\n").filter((l) => l.trim())) {
        this.#lastWords = line;
        log(`namespace: ${line}`);
      }
    }
  }

  async #readStdout(): Promise<void> {
    let rest = "";
    for await (const chunk of this.#process.stdout.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + chunk).split("\n");
      rest = lines.pop()!;
      for (const line of lines) this.#hear(line);
    }
    const { code } = await this.#process.status;
    this.#gone.abort(new RbsError("The session's namespace ended."));
    this.#hello.reject(
      new RbsError(
        code === 127
          ? "it is not installed"
          : this.#lastWords || `it ended with code ${code} before its first process was there`,
      ),
    );
    for (const job of this.#jobs.values()) {
      job.startedResolvers.resolve(0);
      job.exitResolvers.resolve(137);
    }
    this.#jobs.clear();
    this.#exited.resolve();
  }

  #hear(line: string): void {
    const [verb, id, value] = line.split(" ");
    if (verb === "hello") return this.#hello.resolve();
    const job = this.#jobs.get(Number(id));
    switch (verb) {
      case "fifos":
        job?.fifos.resolve();
        break;
      case "started":
        job?.startedResolvers.resolve(Number(value));
        break;
      case "exit":
        job?.startedResolvers.resolve(0);
        job?.exitResolvers.resolve(Number(value));
        this.#jobs.delete(Number(id));
        break;
    }
  }
}
