/** What a run with processes does, as data: drawn by fast-check from a seed, and printed. */
import fc from "fast-check";
import type { NewDatabase } from "../databases.ts";
import { calls, type Operation } from "../operation.ts";
import type { Scenario } from "../run.ts";
import { KEYS, type ProcessSetup, ProcessWorld, TAKEOVER } from "./process_world.ts";

const call = calls<ProcessWorld>();

/** What runs may be made of. */
export interface ScenarioOptions {
  readonly newDatabase: NewDatabase;
  /** Whether there is a Bazel for the agents. */
  readonly bazel: boolean;
  /** Whether disks can be filled. */
  readonly disk: boolean;
  /** Operations of a run at most. @default 50 */
  readonly operations?: number;
}

/** Runs of two orchestrators. */
export function processScenarios(options: ScenarioOptions): fc.Arbitrary<Scenario<ProcessWorld>> {
  const share = (weight: number) =>
    fc.oneof({ weight, arbitrary: fc.constant(true) }, { weight: 10 - weight, arbitrary: fc.constant(false) });
  const setup: fc.Arbitrary<ProcessSetup> = fc.record({ warm: fc.nat(1), bazel: share(3), disk: share(5) });
  return fc.tuple(setup, operations(options.operations ?? 50)).map(([drawn, operations]) => {
    // What there is not is left out after it was drawn, so that a seed means the same operations everywhere.
    const setup = { ...drawn, bazel: drawn.bazel && options.bazel, disk: drawn.disk && options.disk };
    return {
      operations,
      start: async (scope) => await ProcessWorld.start(setup, scope.use(await options.newDatabase())),
      toString: () => `${JSON.stringify(setup)} ${operations.join(" ")}`,
    };
  });
}

/** So many operations at most. */
export function operations(most: number): fc.Arbitrary<Operation<ProcessWorld>[]> {
  const node = fc.nat(1);
  const key = fc.constantFrom(...KEYS);
  const owner = fc.nat(2);
  const option = fc.oneof({ weight: 9, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.constant(1) });
  const milliseconds = (most: number) => fc.integer({ min: 1, max: most });
  const operation = fc.oneof(
    { weight: 30, arbitrary: call("ask", fc.tuple(node, key, owner, option)) },
    { weight: 12, arbitrary: call("wait", fc.tuple(milliseconds(800))) },
    { weight: 3, arbitrary: call("wait", fc.tuple(milliseconds(TAKEOVER * 2_000))) },
    { weight: 8, arbitrary: call("calm", fc.tuple(fc.constant(5_000))) },
    { weight: 3, arbitrary: call("release", fc.tuple(node, key)) },
    { weight: 3, arbitrary: call("heartbeat", fc.tuple(node, key, owner)) },
    { weight: 4, arbitrary: call("useFormer", fc.tuple(key)) },
    { weight: 2, arbitrary: call("lockOut", fc.tuple(fc.boolean())) },
    { weight: 4, arbitrary: call("kill", fc.tuple(node)) },
    { weight: 10, arbitrary: call("restart", fc.tuple(node)) },
    { weight: 4, arbitrary: call("pause", fc.tuple(node, milliseconds(TAKEOVER * 3_000))) },
    { weight: 2, arbitrary: call("terminate", fc.tuple(node)) },
    { weight: 3, arbitrary: call("killAgent", fc.tuple(key)) },
    { weight: 3, arbitrary: call("pauseAgent", fc.tuple(key, fc.oneof(milliseconds(2_000), fc.constant(12_000)))) },
    { weight: 2, arbitrary: call("cut", fc.tuple(node)) },
    { weight: 2, arbitrary: call("slow", fc.tuple(node, fc.nat(100))) },
    { weight: 1, arbitrary: call("silence", fc.tuple(node, milliseconds(5_000))) },
    { weight: 4, arbitrary: call("disk", fc.tuple(fc.constantFrom("full" as const, "works" as const))) },
  );
  // fast-check would rather draw what is near the ends: nothing to wait for, and few operations.
  return fc.noBias(fc.array(operation, { minLength: Math.min(20, most), maxLength: most, size: "max" }));
}
