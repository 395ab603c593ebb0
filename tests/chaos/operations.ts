/** What a chaos run does, as data: drawn by fast-check from a seed, printed, and shrunk. */
import fc from "fast-check";
import { ChaosWorld, KEYS, TAKEOVER_MS } from "./chaos_world.ts";
import type { NewDatabase } from "./databases.ts";
import { calls, type Operation } from "./operation.ts";
import type { Scenario } from "./run.ts";

const ORCHESTRATORS = 3;
const call = calls<ChaosWorld>();

/** Runs over three orchestrators, each on a new database. */
export function scenarios(newDatabase: NewDatabase): fc.Arbitrary<Scenario<ChaosWorld>> {
  return operations(ORCHESTRATORS).map((operations) => ({
    operations,
    async start(scope) {
      const database = scope.use(await newDatabase());
      return await ChaosWorld.start({ orchestrators: ORCHESTRATORS, open: () => database.open() });
    },
    toString: () => operations.join(" "),
  }));
}

/** Runs over so many orchestrators. */
export function operations(orchestrators: number): fc.Arbitrary<Operation<ChaosWorld>[]> {
  const node = fc.nat(orchestrators - 1);
  const key = fc.constantFrom(...KEYS);
  const owner = fc.nat(2);
  const option = fc.oneof({ weight: 9, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.constant(1) });
  const milliseconds = (most: number) => fc.integer({ min: 1, max: most });
  const operation = fc.oneof(
    { weight: 30, arbitrary: call("ask", fc.tuple(node, key, owner, option)) },
    { weight: 20, arbitrary: call("wait", fc.tuple(milliseconds(80))) },
    { weight: 2, arbitrary: call("wait", fc.tuple(milliseconds(TAKEOVER_MS * 2))) },
    { weight: 5, arbitrary: call("release", fc.tuple(node, key)) },
    { weight: 5, arbitrary: call("heartbeat", fc.tuple(node, key, owner)) },
    { weight: 5, arbitrary: call("useFormer", fc.tuple(key)) },
    { weight: 4, arbitrary: call("kill", fc.tuple(node)) },
    { weight: 6, arbitrary: call("restart", fc.tuple(node)) },
    { weight: 5, arbitrary: call("pause", fc.tuple(node, milliseconds(TAKEOVER_MS * 4))) },
    { weight: 2, arbitrary: call("killAgent", fc.tuple(key)) },
    { weight: 2, arbitrary: call("cut", fc.tuple(node)) },
    { weight: 2, arbitrary: call("slow", fc.tuple(node, fc.nat(40))) },
    {
      weight: 6,
      arbitrary: call(
        "failWrites",
        fc.tuple(node, fc.constantFrom("refused" as const, "unheard" as const), milliseconds(3)),
      ),
    },
    { weight: 2, arbitrary: call("disk", fc.tuple(node, fc.constantFrom("full" as const, "works" as const))) },
    { weight: 2, arbitrary: call("setClock", fc.tuple(node, fc.integer({ min: -600_000, max: 600_000 }))) },
  );
  return fc.array(operation, { minLength: 10, maxLength: 120, size: "max" });
}
