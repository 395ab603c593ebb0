/** What a flood costs its victim, and those who have a right to be served. */
import type { Flood } from "./floods.ts";
import type { Order, Progress } from "./attacker.ts";
import type { Victim } from "./victims.ts";

/** What a flood may cost. */
export interface Bounds {
  /** By how much a victim may grow while it is attacked, and by how much it may be larger afterwards. Bytes. */
  memory: number;
  /** What an honest caller waits at most. Milliseconds. */
  waitMs: number;
  /** Which share of honest calls, those of new connections among them, may come to nothing. */
  unanswered: number;
}

/** Where attacker and victim have a core each, and nothing else runs. */
export const BOUNDS: Bounds = { memory: 50 << 20, waitMs: 250, unanswered: 0 };
/** How long a victim may take to give memory back. Milliseconds. */
const SETTLE_MS = 30_000;
/** Between two honest calls, and between two looks at the memory. Milliseconds. */
const PAUSE_MS = 20, LOOK_MS = 50;

/** What was measured. Bytes, milliseconds. */
export interface Measured {
  flood: string;
  victim: string;
  before: number;
  peak: number;
  after: number;
  /** Of the calls of honest callers while the attack lasted. */
  calls: number;
  unanswered: number;
  /** What the first that was not answered was told. */
  why?: string;
  median: number;
  worst: number;
  /** Connections that the attacker made, or tried to make. */
  attempts: number;
  /** The victim is still there. */
  alive: boolean;
}

/** What is wrong with it, in clauses: nothing, if the victim held. */
export function misses(
  { before, peak, after, calls, unanswered, why, worst, alive }: Measured,
  bounds: Bounds,
): string[] {
  if (!alive) return ["the program ended"];
  const grown = (bytes: number) => `${mb(bytes - before)} MB more`;
  return [
    ...peak - before > bounds.memory ? [`${grown(peak)} while it lasted`] : [],
    ...after - before > bounds.memory ? [`${grown(after)} are not given back`] : [],
    ...unanswered > bounds.unanswered * calls ? [`${unanswered} of ${calls} honest calls failed (${why})`] : [],
    ...worst > bounds.waitMs ? [`an honest caller waited ${Math.round(worst)} ms`] : [],
  ];
}

/** Whether a victim is not what it was, so that the next flood would suffer from this one. */
export function isHarmed({ before, after, calls, unanswered, alive }: Measured, bounds: Bounds): boolean {
  return !alive || unanswered > bounds.unanswered * calls || after - before > bounds.memory;
}

/** Bytes as whole megabytes. */
export function mb(bytes: number): number {
  return Math.round(bytes / (1 << 20));
}

/** The resident memory of a process, in bytes; undefined: it has ended. */
export async function residentMemory(pid: number): Promise<number | undefined> {
  const status = await Deno.readTextFile(`/proc/${pid}/status`).catch(() => "");
  const found = /^VmRSS:\s+(\d+) kB/m.exec(status);
  return found ? Number(found[1]) * 1024 : undefined;
}

/** The processors that this process may use, by number. */
function processors(): number[] {
  const list = /^Cpus_allowed_list:\s*(.*)$/m.exec(Deno.readTextFileSync("/proc/self/status"))?.[1] ?? "0";
  return list.split(",").flatMap((part) => {
    const [first, last = first] = part.split("-").map(Number);
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  });
}

const [VICTIMS, ATTACKERS] = processors();

/** Gives a program a processor of its own, with all its threads, if there are two. */
async function pin(pid: number) {
  if (ATTACKERS === undefined) return;
  await new Deno.Command("taskset", { args: ["-acp", String(VICTIMS), String(pid)], stdout: "null" }).output();
}

/** An attack that goes on. It ends with the scope. */
class Attack implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #reading: Promise<void>;
  #said: () => void = () => {};
  progress: Progress = { attempts: 0, open: 0 };
  /** Resolves when it has begun in earnest. */
  readonly begun: Promise<void>;

  constructor(order: Order) {
    const script = new URL("./attacker.ts", import.meta.url).pathname;
    const deno = [Deno.execPath(), "run", "--quiet", "--allow-all", "--frozen", script];
    const argv = [...ATTACKERS === undefined ? [] : ["taskset", "-c", String(ATTACKERS)], ...deno];
    this.#child = new Deno.Command(argv[0], { args: argv.slice(1), stdin: "piped", stdout: "piped" }).spawn();
    const writer = this.#child.stdin.getWriter();
    // Not on the command line: there is a key in it.
    void writer.write(new TextEncoder().encode(JSON.stringify(order) + "\n")).then(() => writer.releaseLock());
    this.begun = new Promise((resolve) => this.#said = resolve);
    this.#reading = this.#read();
  }

  async #read() {
    for await (const text of this.#child.stdout.pipeThrough(new TextDecoderStream())) {
      const line = text.trimEnd().split("\n").at(-1)!;
      this.progress = JSON.parse(line);
      this.#said();
    }
    this.#said();
  }

  async [Symbol.asyncDispose]() {
    try {
      this.#child.kill("SIGKILL");
    } catch {
      // It has ended.
    }
    await Promise.all([this.#child.status, this.#reading]);
    await this.#child.stdin.close().catch(() => {});
  }
}

/** How a flood is measured. */
export interface MeasureOptions {
  /** The victim gets some time to come back within them. */
  bounds: Bounds;
  /** How long it lasts. */
  seconds: number;
  /** The victim's memory without attackers. @default what it has now */
  before?: number;
  /** Ends it early. */
  signal?: AbortSignal;
  /** Told each few seconds how it goes. */
  progress?(line: string): void;
}

/** Lets a flood loose on a victim, with honest callers all the while. */
export async function measure(flood: Flood, victim: Victim, options: MeasureOptions): Promise<Measured> {
  const { seconds, signal, progress, bounds } = options;
  const { pid } = victim;
  await pin(pid);
  const before = options.before ?? await residentMemory(pid) ?? 0;
  let peak = before, last = before;
  const took: number[] = [];
  let unanswered = 0, why: string | undefined;

  let over = false;
  const look = async () => {
    last = await residentMemory(pid) ?? 0;
    peak = Math.max(peak, last);
  };
  const watching = (async () => {
    for (; !over; await pause(LOOK_MS)) await look();
  })();
  let attempts = 0;
  {
    await using attack = new Attack({ wants: flood.wants, target: victim.target });
    await attack.begun;
    const ends = performance.now() + seconds * 1000;
    let said = performance.now();
    const calling = [victim.honest, victim.honestAgain].map(async (call) => {
      while (performance.now() < ends && !signal?.aborted && last > 0) {
        const began = performance.now();
        try {
          await call();
        } catch (e) {
          unanswered++;
          why ??= String(e instanceof Error ? e.message : e).split("\n")[0];
        }
        took.push(performance.now() - began);
        await pause(PAUSE_MS);
        if (performance.now() - said > 3_000) {
          said = performance.now();
          progress?.(
            `${Math.max(0, Math.round((ends - said) / 1000))} s left, ${mb(last - before)} MB more, ` +
              `${took.length} honest calls, worst ${Math.round(Math.max(...took))} ms, ` +
              `${attack.progress.open} of ${attack.progress.attempts} connections`,
          );
        }
      }
    });
    await Promise.all(calling);
    attempts = attack.progress.attempts;
  }
  over = true;
  await watching;
  const settled = performance.now() + SETTLE_MS;
  do {
    await look();
    // Somebody goes on calling, as in life: what nobody moves is not collected.
    await victim.honestAgain().catch(() => {});
    await pause(100);
  } while (last - before > bounds.memory && performance.now() < settled && last > 0 && !signal?.aborted);
  took.sort((a, b) => a - b);
  return {
    ...{ flood: flood.wants, victim: victim.name, before, peak, after: last, attempts, unanswered, why },
    ...{ calls: took.length, median: took[took.length >> 1] ?? 0, worst: took.at(-1) ?? 0, alive: last > 0 },
  };
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
