import { RbsError, sentence } from "../../proto/base/errors.ts";
import { commandEnvironment, HIDDEN_PREFIX, isLinkerVariable, withoutLinkerVariables } from "./environment.ts";
import { ExitCode } from "../../proto/bazel/exit_codes.ts";
import { inspectJavabase } from "./javabase.ts";
import type { SignalSource } from "./signals.ts";

/** The surroundings of a local Bazel. */
export interface LocalIo {
  /** Shows a line to the user. */
  say(line: string): void;
  signals: SignalSource;
}

/**
 * Runs this machine's Bazel instead of the build server's, connected to jbazel's own input and outputs.
 *
 * @param reason Shown to the user.
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
 * Runs this machine's Bazel client with RBS's proxy as its server.
 *
 * @param javabase The directory of the proxy.
 * @returns Bazel's exit code
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
  // First among the startup options, so that one of the user's still overrides it.
  const all = [`--server_javabase=${javabase}`, ...args];
  return await run(all, env, io, NO_CLIENT);
}

const NO_CLIENT =
  "There is no bazel on PATH, and with --workspace=synced at the orchestrator jbazel needs one to send your workspace: " +
  "install Bazel or Bazelisk on this machine.";

/** The environment for a local Bazel, and " (without …)" if variables are left out. */
export function localEnvironment(): { env: Record<string, string>; without: string } {
  // A local Bazel may use the proxy through the user's bazelrc, which needs RBS's own variables.
  const all = Deno.env.toObject();
  const own = Object.entries(all).filter(([name]) => name.startsWith("RBS_") && !name.startsWith(HIDDEN_PREFIX));
  const env = { ...commandEnvironment(all), ...Object.fromEntries(own) };
  const dropped = Object.keys(env).filter(isLinkerVariable);
  return {
    env: withoutLinkerVariables(env),
    without: dropped.length ? ` (without ${dropped.join(", ")})` : "",
  };
}

/** @param missing The error if there is no bazel. */
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
  // The child gets the terminal's keys itself, but not a signal to this process alone.
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
