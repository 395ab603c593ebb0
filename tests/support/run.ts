/** Running commands in tests: both outputs, the exit code, and a deadline after which the test fails with what was said. */
import type { Machine } from "./two_machines.ts";

/** How a command is run. */
export interface RunOptions {
  cwd?: string;
  /** Another machine, to run there. */
  on?: Machine;
  /** Set on top of the test's own environment; undefined removes a variable. */
  env?: Record<string, string | undefined>;
  /** Given to the command's standard input, which is then closed. @default nothing */
  stdin?: string | Uint8Array;
  /** Milliseconds until the command is killed and `finished` rejects. @default 120_000 */
  timeout?: number;
}

/** What a finished command left. */
export interface Finished {
  /** 128 + N for a command that ended by signal N, as a shell says it. */
  code: number;
  signal: Deno.Signal | null;
  stdoutBytes: Uint8Array;
  stdout: string;
  stderr: string;
  /** Milliseconds. */
  took: number;
}

/** A command that runs. Killed at the end of its scope. */
export interface Running extends AsyncDisposable {
  pid: number;
  finished: Promise<Finished>;
  /** Resolves when the output so far, both streams, matches. Rejects when the command ends without. */
  says(pattern: RegExp): Promise<RegExpMatchArray>;
  kill(signal: Deno.Signal): void;
}

/** Runs a command to its end. A code other than 0 is no error. */
export function run(argv: readonly string[], options: RunOptions = {}): Promise<Finished> {
  return start(argv, options).finished;
}

/** Runs a command that must succeed, and returns its standard output. */
export async function output(argv: readonly string[], options: RunOptions = {}): Promise<string> {
  const { code, stdout, stderr } = await run(argv, options);
  if (code !== 0) throw new Error(`${argv.join(" ")} ended with ${code}:\n${stdout}${stderr}`);
  return stdout;
}

/** Starts a command. */
export function start(argv: readonly string[], options: RunOptions = {}): Running {
  const { cwd, on, env = {}, stdin, timeout = 120_000 } = options;
  if (on) argv = [...on.enter, "env", `--chdir=${cwd ?? Deno.cwd()}`, ...argv];
  const merged: Record<string, string> = Deno.env.toObject();
  for (const [name, value] of Object.entries(env)) {
    if (value === undefined) delete merged[name];
    else merged[name] = value;
  }
  // The one of this machine may not be there.
  if (on) merged.TMPDIR = on.directory;
  const started = performance.now();
  const child = new Deno.Command(argv[0], {
    args: argv.slice(1),
    cwd,
    env: merged,
    clearEnv: true,
    stdin: stdin === undefined ? "null" : "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();

  const streams = [new Collected(), new Collected()];
  const waiters = new Set<() => void>();
  const read = async (from: ReadableStream<Uint8Array>, into: Collected) => {
    for await (const chunk of from) {
      into.add(chunk);
      for (const check of waiters) check();
    }
  };
  const reading = [read(child.stdout, streams[0]), read(child.stderr, streams[1])];
  if (stdin !== undefined) feed(child.stdin, stdin);

  let late = false;
  const deadline = setTimeout(() => {
    late = true;
    quietly(() => child.kill("SIGKILL"));
  }, timeout);
  const finished = (async () => {
    const status = await child.status;
    const took = performance.now() - started;
    // Whoever inherited the pipes (a Bazel server does not) may keep them open for longer.
    await Promise.race([Promise.all(reading), new Promise((resolve) => setTimeout(resolve, 2_000).unref?.())]);
    clearTimeout(deadline);
    const [stdoutBytes, stderr] = [streams[0].bytes(), streams[1].text()];
    const stdout = streams[0].text();
    if (late) {
      throw new Error(`${argv.join(" ")} did not end within ${timeout} ms. It said:\n${tail(stdout)}\n${tail(stderr)}`);
    }
    return { code: status.code, signal: status.signal, stdoutBytes, stdout, stderr, took };
  })();
  finished.catch(() => {}); // Whoever awaits it gets the error; a test that does not wait for it shall not fail by it.

  return {
    pid: child.pid,
    finished,
    kill: (signal) => child.kill(signal),
    says(pattern) {
      const { promise, resolve, reject } = Promise.withResolvers<RegExpMatchArray>();
      const check = () => {
        const match = pattern.exec(streams[0].text() + streams[1].text());
        if (match) {
          waiters.delete(check);
          resolve(match);
        }
      };
      waiters.add(check);
      check();
      finished.then(({ code, stdout, stderr }) => {
        check();
        reject(
          new Error(
            `${argv.join(" ")} ended with ${code} without saying ${pattern}:\n${tail(stdout)}\n${tail(stderr)}`,
          ),
        );
      }, reject);
      return promise;
    },
    async [Symbol.asyncDispose]() {
      quietly(() => child.kill("SIGKILL"));
      await finished.catch(() => {});
    },
  };
}

/** The bytes of one stream. */
class Collected {
  #chunks: Uint8Array[] = [];

  add(chunk: Uint8Array) {
    this.#chunks.push(chunk);
  }

  bytes(): Uint8Array<ArrayBuffer> {
    const all = new Uint8Array(this.#chunks.reduce((sum, chunk) => sum + chunk.length, 0));
    let at = 0;
    for (const chunk of this.#chunks) {
      all.set(chunk, at);
      at += chunk.length;
    }
    return all;
  }

  text(): string {
    return new TextDecoder().decode(this.bytes());
  }
}

async function feed(to: WritableStream<Uint8Array>, input: string | Uint8Array) {
  const writer = to.getWriter();
  try {
    await writer.write(typeof input === "string" ? new TextEncoder().encode(input) : input);
    await writer.close();
  } catch {
    // The command ended without reading all of it.
  }
}

function tail(text: string): string {
  return text.length > 4_000 ? `…${text.slice(-4_000)}` : text;
}

function quietly(action: () => void) {
  try {
    action();
  } catch {
    // It has ended by itself.
  }
}
