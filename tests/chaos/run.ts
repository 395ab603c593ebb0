/** Runs of operations and faults, one after another, until one fails or the time is up. */
import fc from "fast-check";
import type { Operation } from "./operation.ts";

/** What operations and faults happen to. */
export interface World extends AsyncDisposable {
  /** What happened, for whoever looks at a failed run. */
  readonly log: readonly string[];
  /** Ends all faults, and checks that what must hold does. Throws an AssertionError. */
  check(): Promise<void>;
}

/** One run, as it was drawn. */
export interface Scenario<W extends World> {
  readonly operations: readonly Operation<W>[];
  /** Makes a new world. @param scope What the world needs until it has ended. */
  start(scope: AsyncDisposableStack): Promise<W>;
  /** For people, and to tell runs apart. */
  toString(): string;
}

/** What is to be run. */
export interface RunOptions<W extends World> {
  readonly seed: number;
  readonly seconds: number;
  /** Look for fewer operations that fail as well, for so many more runs. @default 0 */
  readonly shrink?: number;
  readonly scenarios: fc.Arbitrary<Scenario<W>>;
  /** The command line that makes the same run again, but for the seed. @default "deno task chaos" */
  readonly command?: string;
}

/** How it went. */
export interface Outcome {
  readonly runs: number;
  readonly operations: number;
  /** Why the last run failed, with all that helps to see why; undefined: none did. */
  readonly failure?: string;
}

/** Never rejects for a failed run. Its operations are a function of the seed, and of the number of the run alone. */
export async function runChaos<W extends World>(options: RunOptions<W>): Promise<Outcome> {
  const { seed, seconds, shrink = 0, scenarios, command = "deno task chaos" } = options;
  const until = performance.now() + seconds * 1000;
  let [runs, count] = [0, 0];
  for (; performance.now() < until; runs++) {
    let log: readonly string[] = [];
    let left = shrink;
    const property = fc.asyncProperty(scenarios, async (scenario) => {
      if (log.length > 0 && left-- <= 0) return;
      count += scenario.operations.length;
      await using scope = new AsyncDisposableStack();
      await using world = await scenario.start(scope);
      try {
        for (const operation of scenario.operations) await operation.run(world);
        await world.check();
      } catch (e) {
        log = world.log;
        throw e;
      }
    });
    const result = await fc.check(property, { seed: seed + runs, numRuns: 1, endOnFailure: shrink === 0 });
    if (!result.failed) continue;
    const failure = [
      `seed ${seed + runs}: ${causes(result.errorInstance).join("\n")}`,
      `operations: ${result.counterexample?.[0]}`,
      "the last that happened:",
      ...log.slice(-200),
      `again: ${command} --seed=${seed + runs}`,
    ].join("\n");
    return { runs: runs + 1, operations: count, failure };
  }
  return { runs, operations: count };
}

/** Of a run that could not be cleaned up either there are two. */
function causes(thrown: unknown): string[] {
  if (thrown instanceof SuppressedError) return [...causes(thrown.suppressed), ...causes(thrown.error)];
  return [String(thrown instanceof Error ? thrown.stack : thrown)];
}
