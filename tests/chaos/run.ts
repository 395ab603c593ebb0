/** Runs of operations and faults, one after another, until one fails or the time is up. */
import fc from "fast-check";
import { ChaosWorld } from "./chaos_world.ts";
import { type Operation, operations } from "./operations.ts";
import type { SessionStore } from "../../orchestrator/sessions/store.ts";

/** What is to be run. */
export interface RunOptions {
  readonly seed: number;
  readonly seconds: number;
  /** Look for fewer operations that fail as well, for so many more runs. @default 0 */
  readonly shrink?: number;
  /** Makes a database for one run. */
  newDatabase(): Promise<{ open(): Promise<SessionStore> | SessionStore } & AsyncDisposable>;
}

/** How it went. */
export interface Outcome {
  readonly runs: number;
  readonly operations: number;
  /** Why the last run failed, with all that helps to see why; undefined: none did. */
  readonly failure?: string;
}

const ORCHESTRATORS = 3;

/** Never rejects for a failed run. Its operations are a function of the seed, and of the number of the run alone. */
export async function runChaos({ seed, seconds, shrink = 0, newDatabase }: RunOptions): Promise<Outcome> {
  const until = performance.now() + seconds * 1000;
  let [runs, count] = [0, 0];
  for (; performance.now() < until; runs++) {
    let log: string[] = [];
    let left = shrink;
    const property = fc.asyncProperty(operations(ORCHESTRATORS), async (run: Operation[]) => {
      if (log.length > 0 && left-- <= 0) return;
      count += run.length;
      await using database = await newDatabase();
      await using world = await ChaosWorld.start({ orchestrators: ORCHESTRATORS, open: () => database.open() });
      try {
        for (const operation of run) await operation.run(world);
        await world.check();
      } catch (e) {
        log = world.log;
        throw e;
      }
    });
    const result = await fc.check(property, { seed: seed + runs, numRuns: 1, endOnFailure: shrink === 0 });
    if (!result.failed) continue;
    const [run] = result.counterexample ?? [[]];
    const cause = result.errorInstance instanceof Error ? result.errorInstance.stack : result.errorInstance;
    const failure = [
      `seed ${seed + runs}: ${cause}`,
      `operations: ${run.join(" ")}`,
      "the last that happened:",
      ...log.slice(-120),
      `again: deno task chaos --seed=${seed + runs}`,
    ].join("\n");
    return { runs: runs + 1, operations: count, failure };
  }
  return { runs, operations: count };
}
