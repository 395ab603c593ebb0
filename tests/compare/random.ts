/** Random workspaces and steps, done to twins until the time is over or something differs. */
import fc from "fast-check";
import type { Bazel } from "../support/bazels.ts";
import type { Cluster } from "../support/cluster.ts";
import { makeTwin } from "./twin.ts";
import { BEGINNING, type Step, steps } from "./workspaces.ts";

/** What came of it. */
export interface Compared {
  workspaces: number;
  steps: number;
  /** What differed, with how to see it again. */
  failure?: string;
}

/** Compares for a while. @param seed Where to begin; each workspace is of the next one. */
export async function compareRandomly(
  bazel: Bazel,
  cluster: Cluster,
  { seed, seconds, say = () => {} }: { seed: number; seconds: number; say?(line: string): void },
): Promise<Compared> {
  const until = performance.now() + seconds * 1000;
  const compared: Compared = { workspaces: 0, steps: 0 };
  do {
    const [todo] = fc.sample(steps, { seed: seed + compared.workspaces, numRuns: 1 });
    const done: Step[] = [];
    try {
      await using twin = await makeTwin(bazel, cluster, {
        outputs: (seed + compared.workspaces) % 2 === 0 ? "all" : "toplevel",
      });
      await twin.sh(BEGINNING);
      for (const step of todo) {
        done.push(step);
        if ("sh" in step) await twin.sh(step.sh);
        else await twin.run(step.bazel, step);
        compared.steps++;
        if (performance.now() > until) break;
      }
    } catch (e) {
      const script = done.map((step) =>
        "sh" in step ? `  ${step.sh}` : `  bazel ${[...step.startup ?? [], ...step.bazel].join(" ")}`
      ).join("\n");
      compared.failure = `seed ${seed + compared.workspaces}, Bazel ${bazel.version}, ` +
        `${cluster.synced ? "synced" : "shared"}, after\n${script}\n${e instanceof Error ? e.message : e}`;
      return compared;
    }
    compared.workspaces++;
    say(`${compared.workspaces} workspaces, ${compared.steps} steps`);
  } while (performance.now() < until);
  return compared;
}
