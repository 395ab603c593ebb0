/**
 * Floods on the ports of the real programs, with honest callers all the while. `deno task attacks` is the same for longer,
 * and holds honest callers' waiting to its true bound, which a machine that is busy with other tests would break.
 *
 * RBS_ATTACK_SECONDS: how long each flood for memory or connections lasts, on all its ports together: those fill with time.
 * A flood for anything else keeps its victim from serving as soon as it has begun, and lasts for two fifths of that.
 */
import assert from "node:assert/strict";
import { findBazels } from "../support/bazels.ts";
import { FLOODS, type PortName } from "./floods/floods.ts";
import { BOUNDS, type Bounds, isHarmed, mb, measure, misses } from "./floods/measure.ts";
import { startVictims, type Victims } from "./floods/victims.ts";

const SECONDS = Number(Deno.env.get("RBS_ATTACK_SECONDS") ?? 20);
/**
 * Beside other tests nobody has a core of its own: garbage waits for its collector, and callers for theirs. What takes
 * longer than this was kept back all the same, and a flood that is not counted takes hundreds of megabytes. A flood of
 * connections pushes out a new one now and then that is not served in time.
 */
const CI_BOUNDS: Bounds = { memory: 2 * BOUNDS.memory, waitMs: 10 * BOUNDS.waitMs, unanswered: 0.1 };
/** By what they are to an attacker. */
const AT: Record<PortName, string> = {
  orchestrator: "the orchestrator's port, without a certificate",
  agent: "an agent's first port, with another user's certificate",
  commands: "an agent's second port, with another user's certificate",
  proxy: "the proxy's loopback port, without the cookie",
};
const PORTS: readonly PortName[] = ["orchestrator", "agent", "commands", "proxy"];
const { found: [bazel] } = await findBazels({ npm: false });

let shared: Promise<Victims> | undefined;

/** The programs that are flooded one time after the other. */
function victims(): Promise<Victims> {
  return shared ??= startVictims();
}

/** Ends them: the next ones have nothing of what befell these. */
async function end() {
  const ending = shared;
  shared = undefined;
  await (await ending)?.[Symbol.asyncDispose]();
}

Deno.test.afterAll(end);

for (const flood of FLOODS) {
  const { wants, ports = PORTS } = flood;
  for (const port of ports) {
    Deno.test({
      name: `flood at ${AT[port]}, for ${wants}`,
      ignore: !bazel,
      // The programs outlive a test.
      sanitizeOps: false,
      sanitizeResources: false,
      async fn() {
        for (let tries = 2;;) {
          const measured = await measure(flood, (await victims()).ports[port], {
            seconds: (/memory|connections/.test(wants) ? SECONDS : 0.4 * SECONDS) / ports.length,
            bounds: CI_BOUNDS,
          });
          const wrong = misses(measured, CI_BOUNDS);
          if (isHarmed(measured, CI_BOUNDS)) await end();
          if (wrong.length === 0) return;
          const { before, peak, after, calls } = measured;
          const figures = `${mb(before)}, ${mb(peak)} and ${
            mb(after)
          } MB before, while and after; ${calls} honest calls`;
          // Whoever else works on this machine may have been the reason, once.
          if (--tries === 0) assert.fail(`${wrong.join("; ")} (${figures})`);
        }
      },
    });
  }
}

Deno.test({
  name: "after all floods the same programs build",
  ignore: !bazel,
  sanitizeOps: false,
  sanitizeResources: false,
  async fn() {
    const { rig, ports } = await victims();
    await rig.buildsQuickly();
    assert.equal(await rig.proxy(), ports.proxy.pid);
    assert.equal((await rig.agent()).pid, ports.agent.pid);
  },
});
