/** jbazel: sets up, inspects and drives RBS, and runs Bazel on its build server. */
import { RbsError, sentence } from "../../proto/base/errors.ts";
import { runBazelCommand } from "./bazel_command.ts";
import { HELP, VERSION } from "./help.ts";
import { parseInvocation } from "./invocation.ts";
import { defaultJavabase } from "./javabase.ts";
import { writeAll, writeTextSync } from "./output.ts";
import { ownCommand } from "./own_command.ts";
import type { ProgressOutput } from "./progress.ts";
import { readSettings, usage } from "./settings.ts";
import { processSignals } from "./signals.ts";
import { openTerminal } from "./terminal.ts";

/** The path or URL of this jbazel. */
const program = () => Deno.build.standalone ? Deno.execPath() : import.meta.url;
/** The javabase that belongs to it. */
const ownJavabase = () => defaultJavabase(program());

const progress: ProgressOutput = {
  write: (text) => writeTextSync(Deno.stderr, text),
  columns: () => Deno.stderr.isTerminal() ? Deno.consoleSize().columns || 80 : undefined,
};

async function main(args: string[]): Promise<number> {
  const invocation = parseInvocation(args);
  switch (invocation.kind) {
    case "help":
      writeTextSync(Deno.stdout, HELP);
      return 0;
    case "version":
      writeTextSync(Deno.stdout, `jbazel ${VERSION}\n`);
      return 0;
    case "verb": {
      // Loaded only when needed, so that a Bazel command does not wait for it.
      const { runVerb } = await import("./verbs.ts");
      return await runVerb(invocation.verb, invocation.args, {
        workingDirectory: workingDirectory(),
        env: (name) => Deno.env.get(name),
        defaultJavabase: ownJavabase(),
        self: ownCommand(program(), Deno.env.get("PATH")),
        say: (line) => writeTextSync(Deno.stdout, `${line}\n`),
        warn: (sentence) => writeTextSync(Deno.stderr, `jbazel: warning: ${sentence}\n`),
        progress,
        signals: processSignals,
        readToken: async () => {
          if (Deno.stdin.isTerminal()) return prompt("Token:") ?? undefined;
          return await new Response(Deno.stdin.readable).text();
        },
        ask: Deno.stdin.isTerminal() && Deno.stdout.isTerminal() ? prompt : undefined,
      });
    }
    case "bazel":
      return await runBazelCommand(invocation.args, {
        settings: readSettings(),
        workingDirectory: workingDirectory(),
        env: Deno.env.toObject(),
        io: {
          get stdin() {
            return Deno.stdin.readable;
          },
          writeStdout: (bytes) => writeAll(Deno.stdout, bytes),
          writeStderr: (bytes) => writeAll(Deno.stderr, bytes),
          terminal: openTerminal(),
          signals: processSignals,
        },
        progress,
        javabase: () => Deno.env.get("RBS_JAVABASE") || ownJavabase(),
      });
  }
}

function workingDirectory(): string {
  try {
    return Deno.cwd();
  } catch (cause) {
    throw usage(
      cause instanceof Deno.errors.NotFound
        ? "The working directory does not exist any more: change to another."
        : `The working directory cannot be used (${sentence(cause)}): change to another.`,
    );
  }
}

let exitCode: number;
try {
  exitCode = await main(Deno.args);
} catch (e) {
  writeTextSync(Deno.stderr, `jbazel: ${sentence(e)}\n`);
  if (Deno.env.get("RBS_DEBUG")) console.error(e);
  exitCode = e instanceof RbsError ? e.exitCode : 1;
}
// Open connections and a pending read of standard input must not keep the process alive.
Deno.exit(exitCode);
