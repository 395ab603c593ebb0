import { RbsError, sentence } from "../../proto/errors.ts";
import { commandEnvironment, HIDDEN_PREFIX, isLinkerVariable, withoutLinkerVariables } from "./environment.ts";
import { BazelExit } from "./exit_codes.ts";
import type { SignalSource } from "./signals.ts";

/**
 * Runs the Bazel of this machine in place of the build server's, connected to our own input and outputs.
 *
 * @param reason Why; the user reads it.
 * @returns Bazel's exit code
 */
export async function runLocalBazel(
  args: string[],
  reason: string,
  io: { say(line: string): void; signals: SignalSource },
): Promise<number> {
  io.say(`rbs: ${reason}`);
  // The local Bazel may meet the proxy, by the user's bazelrc: RBS's own variables are for it.
  const all = Deno.env.toObject();
  const own = Object.entries(all).filter(([name]) => name.startsWith("RBS_") && !name.startsWith(HIDDEN_PREFIX));
  const env = { ...commandEnvironment(all), ...Object.fromEntries(own) };
  const dropped = Object.keys(env).filter(isLinkerVariable);
  io.say(
    `rbs: running the local Bazel, because RBS_FALLBACK=local${
      dropped.length ? ` (without ${dropped.join(", ")})` : ""
    }.`,
  );
  let child: Deno.ChildProcess;
  try {
    child = new Deno.Command("bazel", {
      args,
      clearEnv: true,
      env: withoutLinkerVariables(env),
      stdin: "inherit",
      stdout: "inherit",
      stderr: "inherit",
    }).spawn();
  } catch (cause) {
    throw new RbsError(
      cause instanceof Deno.errors.NotFound || cause instanceof Deno.errors.NotCapable
        ? "There is no bazel on PATH to fall back to: install Bazel, or mend what is said above."
        : `The local bazel cannot be started: ${sentence(cause)}.`,
      { cause, exitCode: BazelExit.ENVIRONMENT },
    );
  }
  using cleanup = new DisposableStack();
  // The terminal's keys reach the child by themselves; a signal to this process alone does not.
  for (const signal of ["SIGINT", "SIGQUIT"] as const) cleanup.defer(io.signals.on(signal, () => {}));
  for (const signal of ["SIGTERM", "SIGHUP"] as const) {
    cleanup.defer(io.signals.on(signal, () => {
      try {
        child.kill(signal);
      } catch { /* it has ended */ }
    }));
  }
  return (await child.status).code;
}
