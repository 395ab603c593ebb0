import type fc from "fast-check";

/** One step of a run. */
export interface Operation<W> {
  run(world: W): void | Promise<void>;
  /** For people, and to tell runs apart. */
  toString(): string;
}

/** The methods of a world that are done, as far as their names tell. */
type Step = (...values: never[]) => void | Promise<void>;
type StepName<W> = { [N in keyof W]: W[N] extends Step ? N : never }[keyof W] & string;
type StepArguments<W, N extends keyof W> = W[N] extends (...values: infer A) => unknown ? A : never;

/** Operations that are a method of the world, with arguments that are drawn. */
export function calls<W>() {
  return <N extends StepName<W>>(name: N, values: fc.Arbitrary<StepArguments<W, N>>): fc.Arbitrary<Operation<W>> =>
    values.map((drawn) => ({
      run: (world) => (world[name] as (...values: unknown[]) => void | Promise<void>)(...drawn as unknown[]),
      toString: () => `${name}(${(drawn as unknown[]).join(", ")})`,
    }));
}
