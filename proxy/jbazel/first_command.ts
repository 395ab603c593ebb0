import { RbsError, sentence } from "../../proto/base/errors.ts";
import { ExitCode } from "../../proto/bazel/exit_codes.ts";
import { findWorkspace } from "../../proto/bazel/workspace.ts";
import { localBazelLabel } from "./bazel_version.ts";
import { type BoundedResult, runBounded } from "./bounded_program.ts";
import { inspectJavabase } from "./javabase.ts";
import { findLocalServer, outputBase } from "./output_base.ts";
import { oneLine, Progress, type ProgressOutput } from "./progress.ts";
import { runProgram } from "./programs.ts";
import { lastOption, type RcStartupOption } from "./rc_options.ts";
import type { Settings } from "./settings.ts";
import type { SignalSource } from "./signals.ts";
import { findStanding } from "./standing.ts";
import { findStartupOptions } from "./startup_options.ts";

/** Input of {@link tryFirstCommand}. */
export interface FirstCommandContext {
  settings: Settings;
  /** Absolute path. */
  workingDirectory: string;
  /** The javabase that was set up. Absolute path. */
  javabase: string;
  env(name: string): string | undefined;
  say(line: string): void;
  warn(sentence: string): void;
  progress: ProgressOutput;
  signals: SignalSource;
  /** @default this machine's */
  systemRcFiles?: string[];
  /** @default the one on the PATH */
  bazel?: string;
  /** Timeout of the command. @default 3 minutes */
  timeoutMs?: number;
}

/** Cheap, changes nothing, and needs the build server, which answers it. */
const COMMAND = ["info", "release"];
const SHOWN = `bazel ${COMMAND.join(" ")}`;
const TIMEOUT_MS = 180_000;
const STAYS = "The settings stay written";

/**
 * Shows by a first command that the stock bazel works through RBS. Says why if it cannot be tried yet.
 *
 * @throws {RbsError} if it was tried and does not work
 */
export async function tryFirstCommand(context: FirstCommandContext): Promise<void> {
  const { workingDirectory, javabase, env, say, warn, systemRcFiles } = context;
  const workspace = findWorkspace(workingDirectory);
  if (workspace === undefined) {
    say(
      `It was not tried, because ${
        oneLine(workingDirectory)
      } is not within a workspace: run \`${SHOWN}\` in one of yours.`,
    );
    return;
  }
  const bazelLabel = () => localBazelLabel(runProgram);
  const options = await findStartupOptions({ workspace, home: env("HOME"), systemRcFiles, bazelLabel, warn });
  const reason = await obstacle(context, options);
  if (reason) {
    say(`It was not tried, because ${oneLine(reason)}`);
    return;
  }
  const started = Date.now();
  const result = await runFirstCommand(workspace, context);
  judge(result, workspace, context.timeoutMs ?? TIMEOUT_MS);
  const server = await findLocalServer(outputBase(workspace, options, env));
  if (!server.javabase || inspectJavabase(server.javabase) !== "ours") {
    throw failed(
      `bazel answered in ${workspace}, but not through RBS: its server is not ${javabase}/bin/java`,
      "run `bazel shutdown`, then `jbazel setup` again",
    );
  }
  const seconds = ((Date.now() - started) / 1000).toFixed(1);
  say(`It works: \`${SHOWN}\` has answered through RBS ("${oneLine(result.stdout.trim())}", ${seconds} s).`);
  say("Next: `bazel build //...`");
}

/** Why a first command makes no sense yet; undefined if it does. */
async function obstacle(
  { settings, javabase }: FirstCommandContext,
  options: RcStartupOption[],
): Promise<string | undefined> {
  const named = lastOption(options, "server_javabase");
  if (!named) return `no bazelrc of this workspace imports that file: add an import line, then run \`${SHOWN}\`.`;
  if (named.value !== javabase) return `${named.file} names another javabase: remove that line, then run \`${SHOWN}\`.`;
  const { nothingListens, keyMissing } = await findStanding(settings);
  if (nothingListens) return `no orchestrator runs yet: start it, then run \`${SHOWN}\`.`;
  return keyMissing
    ? `there is no key for the orchestrator at ${settings.orchestrator} yet: run \`jbazel login\`, then \`${SHOWN}\`.`
    : undefined;
}

async function runFirstCommand(workspace: string, context: FirstCommandContext): Promise<BoundedResult> {
  using progress = new Progress(context.progress, `first command through RBS: ${SHOWN}`);
  try {
    return await runBounded(context.bazel ?? "bazel", COMMAND, {
      cwd: workspace,
      // A local build would prove nothing.
      env: { RBS_FALLBACK: "error" },
      timeoutMs: context.timeoutMs ?? TIMEOUT_MS,
      signals: context.signals,
      // The proxy's lines end with their own time.
      onErrorLine: (line) => progress.step(`${SHOWN}: ${line.replace(/^rbs: /, "").replace(/ \d+\.\ds$/, "")}`),
    });
  } catch (cause) {
    if (cause instanceof Deno.errors.NotFound || cause instanceof Deno.errors.NotCapable) {
      throw failed("there is no bazel on the PATH", "install Bazel or Bazelisk, then run `jbazel setup` again", {
        cause,
      });
    }
    throw failed(`bazel cannot be started (${sentence(cause)})`, "fix that, then run `jbazel setup` again", { cause });
  }
}

/** Throws unless the command succeeded. */
function judge({ outcome, code, stderr }: BoundedResult, workspace: string, timeoutMs: number): void {
  if (outcome === "interrupted") {
    throw new RbsError(`Interrupted while \`${SHOWN}\` was tried. ${STAYS}: --remove takes them out.`, {
      culprit: "caller",
      exitCode: ExitCode.INTERRUPTED,
    });
  }
  if (outcome === "timeout") {
    throw failed(
      `\`${SHOWN}\` in ${workspace} has not ended within ${timeoutMs / 1000} s (${why(stderr)})`,
      `see \`jbazel doctor\`, or wait for \`${SHOWN}\` yourself`,
    );
  }
  if (code !== 0) {
    const reason = why(stderr).replace(/\.$/, "");
    throw failed(
      `\`${SHOWN}\` in ${workspace} ended with exit code ${code} (${reason})`,
      "see `jbazel doctor`, then run `jbazel setup` again",
    );
  }
}

/** The most informative line of Bazel's output. */
function why(stderr: string): string {
  const lines = stderr.split("\n").map((line) => oneLine(line).trim()).filter((line) => line !== "");
  const telling = lines.findLast((line) => /^(rbs: |ERROR: |FATAL: )/.test(line)) ?? lines.at(-1);
  return telling?.replace(/^rbs: /, "") ?? "it said nothing";
}

function failed(what: string, fix: string, { cause }: { cause?: unknown } = {}): RbsError {
  return new RbsError(
    `The first command through RBS failed: ${what}. ${STAYS}: ${fix}, or take them out with --remove.`,
    {
      cause,
      culprit: "caller",
    },
  );
}
