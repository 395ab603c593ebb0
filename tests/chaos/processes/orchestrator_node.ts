import assert from "node:assert/strict";
import { PROGRAMS } from "../../support/repository.ts";
import { TcpLink } from "../tcp_link.ts";

/** Where a program is in its life. `ending`: it was asked to end, and has not yet. */
export type NodeStatus = "down" | "starting" | "up" | "paused" | "ending";

/** How an {@link OrchestratorNode} is started. */
export interface NodeOptions {
  readonly index: number;
  readonly flags: readonly string[];
  readonly env: Record<string, string>;
  /** What happens to it, and each line that it logs. */
  note(line: string): void;
  /** It did what no program may do. */
  fault(what: string): void;
  /** Whether one that is asked to end may say that it could not write what it had to (exit code 1). */
  mayEndBadly(): boolean;
  /** Its status is another one. */
  changed(): void;
}

/** A start takes less. Milliseconds. */
const START_MS = 30_000;

/** One dist/orchestrator at its port, over its lives, and the link by which callers reach it. */
export class OrchestratorNode {
  readonly #options: NodeOptions;
  #status: NodeStatus = "down";
  #child?: Deno.ChildProcess;
  #ended: Promise<void> = Promise.resolve();
  #resume?: ReturnType<typeof setTimeout>;
  #port = 0;
  #link?: TcpLink;
  /** Rises with all that may keep a caller from its answer. */
  disturbances = 0;

  constructor(options: NodeOptions) {
    this.#options = options;
  }

  get status(): NodeStatus {
    return this.#status;
  }

  /** The way of callers to it, whatever life it is in. */
  get link(): TcpLink {
    return this.#link!;
  }

  /** Of the program that runs. */
  get pid(): number | undefined {
    return this.#status === "down" ? undefined : this.#child?.pid;
  }

  /** Starts it, at the port that it had before. Resolves with false when it could not begin to serve. */
  async start(): Promise<boolean> {
    if (this.#status === "ending") await this.#ended;
    if (this.#status !== "down") return true;
    const { index, flags, env, note, fault, mayEndBadly } = this.#options;
    this.#become("starting");
    const child = this.#child = new Deno.Command(PROGRAMS.orchestrator, {
      args: ["--local-mode", "--allow-shared-users", `--port=${this.#port}`, ...flags],
      env,
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const ready = Promise.withResolvers<number>();
    const logged = eachLine(child.stderr, (line) => {
      note(`  ${index}: ${line}`);
      if (/TypeError|cannot happen|Uncaught/.test(line)) fault(`orchestrator ${index}: ${line}`);
    });
    void eachLine(child.stdout, (line) => {
      const [, port] = /ready on \S+:(\d+) /.exec(line) ?? [];
      if (port) ready.resolve(Number(port));
    });
    const ended = this.#ended = child.status.then(async ({ code, signal }) => {
      await logged;
      if (this.#child !== child) return;
      note(`orchestrator ${index} has ended: ${signal ?? code}`);
      const isFine = code === 0 || signal === "SIGKILL" || mayEndBadly();
      if (this.#status === "ending" ? !isFine : this.#status === "up") {
        fault(`orchestrator ${index} ended by itself, or badly: ${signal ?? code}`);
      }
      this.#become("down");
    });
    const timer = setTimeout(() => this.kill(), START_MS);
    const port = await Promise.race([ready.promise, ended]);
    clearTimeout(timer);
    if (typeof port !== "number") return false;
    this.#port = port;
    this.#link ??= new TcpLink(port);
    this.#become("up");
    return true;
  }

  /** kill -9. */
  kill(): void {
    if (this.#status === "down") return;
    this.#note("kill");
    clearTimeout(this.#resume);
    // What ends now does so by this.
    this.#become("ending");
    this.#signal("SIGKILL");
  }

  /** SIGSTOP, and SIGCONT after a time. */
  pause(milliseconds: number): void {
    if (this.#status !== "up") return;
    this.#note(`pause for ${milliseconds} ms`);
    this.#become("paused");
    this.#signal("SIGSTOP");
    this.#resume = setTimeout(() => this.resume(), milliseconds);
  }

  resume(): void {
    if (this.#status !== "paused") return;
    clearTimeout(this.#resume);
    this.#note("resume");
    this.#signal("SIGCONT");
    this.#become("up");
  }

  /** SIGTERM. */
  terminate(): void {
    if (this.#status !== "up") return;
    this.#note("terminate");
    this.#become("ending");
    this.#signal("SIGTERM");
  }

  /** Resolves when nothing is paused, and what was to end has. */
  async settled(): Promise<void> {
    while (this.#status === "paused" || this.#status === "starting") {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    if (this.#status !== "ending") return;
    const timer = setTimeout(() => {
      this.#options.fault(`orchestrator ${this.#options.index} does not end`);
      this.kill();
    }, START_MS);
    await this.#ended;
    clearTimeout(timer);
  }

  /** Ends it for good. */
  async close(): Promise<void> {
    this.kill();
    await this.#ended;
    this.#link?.close();
    assert.equal(this.#status, "down");
  }

  #become(status: NodeStatus): void {
    this.#status = status;
    this.disturbances++;
    this.#options.changed();
  }

  #note(what: string): void {
    this.#options.note(`${what} ${this.#options.index}`);
  }

  #signal(name: Deno.Signal): void {
    try {
      this.#child?.kill(name);
    } catch {
      // It has ended.
    }
  }
}

async function eachLine(stream: ReadableStream<Uint8Array>, take: (line: string) => void): Promise<void> {
  let rest = "";
  for await (const text of stream.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split("\n");
    rest = lines.pop()!;
    for (const line of lines) take(line);
  }
  if (rest) take(rest);
}
