import { showAllUsers } from "./all_users_status.ts";
import { findWorkspace, repoHash } from "../../proto/bazel/workspace.ts";
import { inspectJavabase } from "./javabase.ts";
import { OrchestratorSession } from "./orchestrator_session.ts";
import { findLocalServer, outputBase } from "./output_base.ts";
import { oneLine } from "./progress.ts";
import { localBazelLabel } from "./bazel_version.ts";
import { runProgram } from "./programs.ts";
import { lastOption } from "./rc_options.ts";
import { describeSession, renderSessions } from "./session_table.ts";
import type { Settings } from "./settings.ts";
import { findStartupOptions } from "./startup_options.ts";
import { explainUnreachable } from "./unreachable.ts";

/** Input of {@link runStatus}. */
export interface StatusContext {
  settings: Settings;
  /** Absolute path. */
  workingDirectory: string;
  env(name: string): string | undefined;
  json: boolean;
  /** Shows the sessions of all users instead, to an operator. */
  allUsers: boolean;
  say(line: string): void;
  /** Shows a sentence that is not part of the answer. */
  warn(sentence: string): void;
  /** The command line that starts an orchestrator on this machine. */
  installCommand: string;
}

/** Shows sessions, or explains why there is no answer. @returns the exit code */
export async function runStatus(context: StatusContext): Promise<number> {
  try {
    return await (context.allUsers ? showAllUsers(context) : showStatus(context));
  } catch (e) {
    throw await explainUnreachable(e, context.settings, context.installCommand);
  }
}

/** Shows the user's sessions, and the state of the working directory's workspace. @returns the exit code */
async function showStatus(context: StatusContext): Promise<number> {
  const { say, settings } = context;
  const workspace = findWorkspace(context.workingDirectory);
  using orchestrator = new OrchestratorSession(settings);
  const here = workspace === undefined ? undefined : await localState(workspace, orchestrator, context);
  const listed = await orchestrator.listSessions();
  const sessions = listed.sessions.map(describeSession);

  if (context.json) {
    say(
      JSON.stringify(
        {
          user: orchestrator.userId,
          orchestrator: settings.orchestrator,
          synced: listed.synced,
          sessions,
          workspace: here ?? null,
        },
        null,
        2,
      ),
    );
    return 0;
  }
  if (sessions.length === 0) {
    say(`No sessions of ${orchestrator.userId} at ${settings.orchestrator}.`);
  } else {
    for (const line of renderSessions(sessions, { isHere: (s) => isHere(s, here) })) say(line);
  }
  say(
    `\nBuild servers there ${
      listed.synced ? "get a copy of your files (synced)" : "work on your files, on a disk that is shared"
    }.`,
  );
  if (!here) {
    say("You are not within a workspace.");
    return 0;
  }
  say(`This workspace: ${oneLine(here.path)}`);
  const uses = here.server === "none" ? "would use" : "uses";
  say(`  bazel ${uses} the server ${here.server_id} here, with the output base ${oneLine(here.output_base)}.`);
  for (const s of sessions.filter((s) => s.repo_hash === here.repo_hash && !isHere(s, here))) {
    const where = s.output_base === null ? "" : `, with the output base ${oneLine(s.output_base)}`;
    say(`  beside it: ${s.server_id ?? "a server without an id"}${where}.`);
  }
  say(
    here.javabase === null
      ? '  not set up: the stock bazel runs locally here; "jbazel setup" changes that, and "jbazel build" needs no setup.'
      : `  set up by ${here.rc_file}: bazel uses ${here.javabase}${here.javabase_present ? "" : ", which is missing"}.`,
  );
  say(
    `  ${
      {
        proxy: "a proxy is running",
        bazel: "a local Bazel server is running",
        none: "no proxy is running",
      }[here.server]
    }.`,
  );
  return 0;
}

/** Whether a session is the one that `bazel` uses here. A session without a server id belongs to an old proxy. */
function isHere(
  session: { repo_hash: string; server_id: string | null },
  here: { repo_hash: string; server_id: string } | undefined,
): boolean {
  return session.repo_hash === here?.repo_hash && (session.server_id ?? here.server_id) === here.server_id;
}

async function localState(workspace: string, orchestrator: OrchestratorSession, { env, warn }: StatusContext) {
  const options = await findStartupOptions({
    workspace,
    home: env("HOME"),
    bazelLabel: () => localBazelLabel(runProgram),
    warn,
  });
  const javabase = lastOption(options, "server_javabase");
  const base = outputBase(workspace, options, env);
  const server = await findLocalServer(base);
  return {
    path: workspace,
    repo_hash: repoHash(workspace),
    server_id: orchestrator.serverId(base),
    output_base: base,
    javabase: javabase?.value ?? null,
    rc_file: javabase?.file ?? null,
    javabase_present: javabase !== undefined && inspectJavabase(javabase.value) === "ours",
    server: !server.listening
      ? "none" as const
      : server.javabase && inspectJavabase(server.javabase) === "ours"
      ? "proxy" as const
      : "bazel" as const,
  };
}
