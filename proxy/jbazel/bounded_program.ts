import { pause } from "../../proto/base/timers.ts";
import { localEnvironment } from "./local_bazel.ts";
import type { SignalSource } from "./signals.ts";

/** How a program ended. */
export interface BoundedResult {
  outcome: "ran" | "timeout" | "interrupted";
  code: number;
  stdout: string;
  stderr: string;
}

/** Options of {@link runBounded}. */
export interface BoundedOptions {
  /** Absolute path. */
  cwd: string;
  /** Added to the environment of a local Bazel. */
  env?: Record<string, string>;
  timeoutMs: number;
  signals: SignalSource;
  /** Called with each line of the error output. */
  onErrorLine(line: string): void;
}

/** Number of characters kept of each output, from its end. */
const KEPT = 1 << 20;
/** How long a program has to end after SIGTERM. Milliseconds. */
const GRACE_MS = 5_000;
/** How long to wait for processes that hold the program's outputs open after its end. Milliseconds. */
const DRAIN_MS = 500;

/**
 * Runs a program without input until it ends or times out; a signal ends it sooner. The program never outlives the
 * call. Throws Deno's errors if it cannot be started.
 */
export async function runBounded(program: string, args: string[], options: BoundedOptions): Promise<BoundedResult> {
  const child = new Deno.Command(program, {
    args,
    cwd: options.cwd,
    clearEnv: true,
    env: { ...localEnvironment().env, ...options.env },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  using cleanup = new DisposableStack();
  let outcome: BoundedResult["outcome"] = "ran";
  const end = (reason: "timeout" | "interrupted") => {
    if (outcome !== "ran") return;
    outcome = reason;
    kill(child, "SIGTERM");
    const hard = setTimeout(() => kill(child, "SIGKILL"), GRACE_MS);
    cleanup.defer(() => clearTimeout(hard));
  };
  const timer = setTimeout(() => end("timeout"), options.timeoutMs);
  cleanup.defer(() => clearTimeout(timer));
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    cleanup.defer(options.signals.on(signal, () => end("interrupted")));
  }
  const out = new Collected(child.stdout), err = new Collected(child.stderr, options.onErrorLine);
  const { code } = await child.status;
  const drained = new AbortController();
  cleanup.defer(() => drained.abort());
  await Promise.race([Promise.all([out.end, err.end]), pause(DRAIN_MS, drained.signal)]);
  out.stop();
  err.stop();
  return { outcome, code, stdout: out.text, stderr: err.text };
}

/** Collects the end of a program's output. */
class Collected {
  text = "";
  readonly end: Promise<void>;
  readonly #reader: ReadableStreamDefaultReader<string>;

  constructor(stream: ReadableStream<Uint8Array<ArrayBuffer>>, onLine: (line: string) => void = () => {}) {
    this.#reader = stream.pipeThrough(new TextDecoderStream()).getReader();
    this.end = this.#read(onLine).catch(() => {});
  }

  async #read(onLine: (line: string) => void): Promise<void> {
    let rest = "";
    for (;;) {
      const { value, done } = await this.#reader.read();
      if (done) return;
      this.text = (this.text + value).slice(-KEPT);
      const lines = (rest + value).split("\n");
      rest = (lines.pop() ?? "").slice(-KEPT);
      for (const line of lines) if (line.trim() !== "") onLine(line.trim());
    }
  }

  stop(): void {
    this.#reader.cancel().catch(() => {});
  }
}

function kill(child: Deno.ChildProcess, signal: Deno.Signal): void {
  try {
    child.kill(signal);
  } catch { /* it has ended */ }
}
