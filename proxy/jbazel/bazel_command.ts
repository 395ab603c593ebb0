import { RbsError } from "../../proto/base/errors.ts";
import { findWorkspace, WORKSPACE_MARKERS } from "../../proto/bazel/workspace.ts";
import { commandEnvironment } from "./environment.ts";
import { ExitCode } from "../../proto/bazel/exit_codes.ts";
import { readsStdin } from "./invocation.ts";
import { runLocalBazel, runThroughProxy } from "./local_bazel.ts";
import { type BuildServer, OrchestratorSession } from "./orchestrator_session.ts";
import { outputBase } from "./output_base.ts";
import { oneLine, Progress, type ProgressOutput } from "./progress.ts";
import { localBazelLabel } from "./bazel_version.ts";
import { runProgram } from "./programs.ts";
import { installCommand } from "./orchestrator_program.ts";
import { explainUnreachable } from "./unreachable.ts";
import { findStartupOptions } from "./startup_options.ts";
import { type CommandIo, runRemoteCommand, StaleServer } from "./remote_command.ts";
import { type Settings, usage } from "./settings.ts";

/** Pauses before each new request for a server after the last one was gone, in milliseconds. */
const RETRY_PAUSES_MS = [100, 500, 1500];

/** Options of {@link runBazelCommand}. */
export interface BazelCommandOptions {
  settings: Settings;
  /** Absolute path. */
  workingDirectory: string;
  /** The user's environment. */
  env: Record<string, string>;
  io: CommandIo;
  progress: ProgressOutput;
  /** The directory of RBS's proxy, as the javabase for a local Bazel client. Called only when needed. */
  javabase(): string;
  /** The local Bazel's version label. Called only if an rc line depends on it. @default asks the local Bazel */
  bazelLabel?(): Promise<string | undefined>;
}

/**
 * Runs a Bazel command line on the workspace's build server, from any directory of the workspace: in the session
 * itself, or through the local client and the proxy if the session has only a copy of the workspace.
 *
 * @param args The arguments after `bazel`.
 * @returns Bazel's exit code
 */
export async function runBazelCommand(args: string[], options: BazelCommandOptions): Promise<number> {
  const { settings, workingDirectory, io } = options;
  const say = (line: string) => options.progress.write(`${line}\n`);
  const locally = (reason: string) => runLocalBazel(args, reason, { say, signals: io.signals });

  // Deno replaces bytes that are not UTF-8. Bazel would act on another name than the user's.
  const mangled = args.find((a) => a.includes("\ufffd"));
  if (mangled !== undefined) {
    throw usage(`The argument ${JSON.stringify(mangled)} is not valid UTF-8, which jbazel cannot pass on.`);
  }

  const workspace = findWorkspace(workingDirectory);
  if (workspace === undefined) {
    const reason = `${workingDirectory} is not within a Bazel workspace (no ${
      WORKSPACE_MARKERS.join(", ")
    } here or above)`;
    if (settings.fallback === "local") return await locally(`${reason}.`);
    throw usage(`${reason}: change to the directory of one.`);
  }

  let session: OrchestratorSession;
  try {
    session = new OrchestratorSession(settings);
  } catch (e) {
    return await fallBack(e);
  }
  using orchestrator = session;
  let base: string | undefined;
  for (let attempt = 0;; attempt++) {
    let server: BuildServer | "synced";
    try {
      server = await waitForServer(options, async (onStep, signal) => {
        base ??= await stockOutputBase(workspace, args, options);
        return await orchestrator.requestServer(workspace, { outputBase: base, onStep, signal });
      });
    } catch (e) {
      return await fallBack(e);
    }
    if (server === "synced") return await runThroughProxy(args, options.javabase(), { say, signals: io.signals });
    if (!server.joined && attempt === 0) {
      for (const w of server.response.warnings) say(`rbs: warning: ${oneLine(w)}`);
    }
    const heartbeats = new AbortController();
    try {
      // The user waits for the command's start, so the first heartbeat is not awaited.
      orchestrator.heartbeat(server.response.session!, heartbeats.signal);
      orchestrator.renewKeys();
      return await runRemoteCommand(
        server.response,
        {
          args: ["bazel", ...args],
          env: commandEnvironment(options.env),
          workingDirectory,
          readsStdin: readsStdin(args),
        },
        io,
        orchestrator.credentials,
      );
    } catch (e) {
      if (!(e instanceof StaleServer)) throw e;
      const pause = RETRY_PAUSES_MS[attempt];
      if (pause === undefined) {
        return await fallBack(
          new RbsError(
            `The agent of ${workspace} takes no commands (${e.message.replace(/\.+$/, "")}): see "jbazel doctor".`,
            { cause: e, exitCode: ExitCode.LOCAL_ENVIRONMENTAL_ERROR },
          ),
        );
      }
      await new Promise((resolve) => setTimeout(resolve, pause));
    } finally {
      heartbeats.abort();
    }
  }

  /** Only when there is no server; never for a command that may have begun. */
  async function fallBack(thrown: unknown): Promise<number> {
    const e = await explainUnreachable(thrown, settings, installCommand(options.javabase(), settings.orchestrator));
    if (
      settings.fallback !== "local" || !(e instanceof RbsError) || e.exitCode !== ExitCode.LOCAL_ENVIRONMENTAL_ERROR
    ) throw e;
    return await locally(e.message);
  }
}

/** The output base of the stock client for this command line, so that both find the same server. */
async function stockOutputBase(workspace: string, args: string[], options: BazelCommandOptions): Promise<string> {
  const command = args.findIndex((a) => !a.startsWith("-"));
  const typed = args.slice(0, command < 0 ? args.length : command).map((option) => ({ option, file: "" }));
  const found = await findStartupOptions({
    workspace,
    home: options.env.HOME,
    bazelLabel: options.bazelLabel ?? (() => localBazelLabel(runProgram)),
    warn: (sentence) => options.progress.write(`rbs: warning: ${sentence}\n`),
  });
  return outputBase(workspace, [...found, ...typed], (n) => options.env[n]);
}

/** Requests the server while the user sees progress, and can interrupt. */
async function waitForServer(
  options: BazelCommandOptions,
  request: (onStep: (description: string) => void, signal: AbortSignal) => Promise<BuildServer | "synced">,
): Promise<BuildServer | "synced"> {
  using progress = new Progress(options.progress, "waiting for the orchestrator");
  using cleanup = new DisposableStack();
  const interrupted = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    cleanup.defer(options.io.signals.on(signal, () => interrupted.abort()));
  }
  return await request((description) => progress.step(description), interrupted.signal);
}
