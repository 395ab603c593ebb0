/**
 * The attacker: a process of its own. On standard input: which flood and where, as JSON. It goes on until it is killed, or
 * until its standard input ends, and says each half second how far it is.
 */
import { FLOODS } from "./floods.ts";
import type { Target } from "./wire.ts";
import { LineReader } from "../../../proto/base/line_reader.ts";

/** What it is told. */
export interface Order {
  /** See {@link FLOODS}. */
  wants: string;
  target: Target;
}

/** What it says, a line each. */
export interface Progress {
  /** Connections that were made so far, or tried in vain. */
  attempts: number;
  /** Those that are there now. */
  open: number;
}

/** Between two attempts in the same place. Milliseconds: whoever is refused must not be busy with nothing else. */
const PAUSE_MS = 5;

if (import.meta.main) {
  const input = new LineReader(Deno.stdin.readable);
  const { wants, target }: Order = JSON.parse((await input.next())!);
  // Whoever started it is gone: so is it.
  void input.next().then(() => Deno.exit(0));
  const flood = FLOODS.find((one) => one.wants === wants)!;
  const progress: Progress = { attempts: 0, open: 0 };
  for (let n = 0; n < flood.connections; n++) {
    (async () => {
      for (;;) {
        progress.attempts++;
        progress.open++;
        await flood.attack(target).catch(() => {});
        progress.open--;
        await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
      }
    })();
    // A thousand at once would be refused by the kernel.
    if (n % 20 === 19) await new Promise((resolve) => setTimeout(resolve, 1));
    if (n === Math.min(flood.connections, 20) - 1) setInterval(() => console.log(JSON.stringify(progress)), 500);
  }
}
