import { RbsError, sentence } from "../../proto/base/errors.ts";
import { commandEnvironment, HIDDEN_PREFIX, isLinkerVariable, withoutLinkerVariables } from "./environment.ts";
import { ExitCode } from "../../proto/bazel/exit_codes.ts";
import { inspectJavabase } from "./javabase.ts";
import type { SignalSource } from "./signals.ts";

/** Where a local Bazel runs. */
export interface LocalIo {
  /** Shows the user a line. */
  say(line: string): void;
  signals: SignalSource;
}

/**
 * Runs the Bazel of this machine in place of the build server's, connected to our own input and outputs.
 *
 * @param reason Why; the user reads it.
 * @returns Bazel's exit code
 */
export async function runLocalBazel(args: string[], reason: string, io: LocalIo): Promise<number> {
  const { env, without } = localEnvironment();
  io.say(`rbs: ${reason}`);
  io.say(`rbs: running the local Bazel, because RBS_FALLBACK=local${without}.`);
  return await run(
    args,
    env,
    io,
    "There is no bazel on PATH to fall back to: install Bazel, or fix what is said above.",
  );
}

/**
 * Runs the Bazel client of this machine with RBS's proxy as its server. @returns Bazel's exit code
 *
 * @param javabase Where the proxy is.
 */
export async function runThroughProxy(args: string[], javabase: string, io: LocalIo): Promise<number> {
  if (inspectJavabase(javabase) === "missing") {
    throw new RbsError(
      `RBS's proxy is not at ${javabase}: make it with "deno task compile", or name its folder in RBS_JAVABASE.`,
      { culprit: "caller", exitCode: ExitCode.LOCAL_ENVIRONMENTAL_ERROR },
    );
  }
  const { env, without } = localEnvironment();
  if (without) io.say(`rbs: running bazel${without}.`);
  // The first of the startup options: one of the user's own still counts.
  const all = [`--server_javabase=${javabase}`, ...args];
  return await run(all, env, io, NO_CLIENT);
}

const NO_CLIENT =
  "There is no bazel on PATH, and with --workspace=synced at the orchestrator jbazel needs one to send your workspace: " +
  "install Bazel or Bazelisk on this machine.";

/** What a local Bazel gets of our environment, and " (without …)" where that is not all. */
export function localEnvironment(): { env: Record<string, string>; without: string } {
  // The local Bazel may meet the proxy, by the user's bazelrc: RBS's own variables are for it.
  const all = Deno.env.toObject();
  const own = Object.entries(all).filter(([name]) => name.startsWith("RBS_") && !name.startsWith(HIDDEN_PREFIX));
  const env = { ...commandEnvironment(all), ...Object.fromEntries(own) };
  const dropped = Object.keys(env).filter(isLinkerVariable);
  return {
    env: withoutLinkerVariables(env),
    without: dropped.length ? ` (without ${dropped.join(", ")})` : "",
  };
}

/** @param missing The sentence for when there is no bazel. */
async function run(args: string[], env: Record<string, string>, io: LocalIo, missing: string): Promise<number> {
  let child: Deno.ChildProcess;
  try {
    child = new Deno.Command("bazel", {
      args,
      clearEnv: true,
      env,
      stdin: "inherit",
      stdout: "inherit",
      stderr: "inherit",
    }).spawn();
  } catch (cause) {
    throw new RbsError(
      cause instanceof Deno.errors.NotFound || cause instanceof Deno.errors.NotCapable
        ? missing
        : `The local bazel cannot be started: ${sentence(cause)}.`,
      { cause, exitCode: ExitCode.LOCAL_ENVIRONMENTAL_ERROR },
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
