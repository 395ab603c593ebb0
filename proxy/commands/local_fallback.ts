/**
 * RBS_FALLBACK=local: the command runs on this machine because there is no agent.
 *
 * The client executes whatever a finished response asks for (`bazel run` works that way). So the response asks for the
 * client itself with the same command line, but with a real JDK and another output base. That server stays warm beside
 * this proxy, and the proxy needs no permission to run anything. Once an agent is available, the next command goes
 * there.
 */
import { Buffer } from "node:buffer";
import { encodeFields, lengthPrefix } from "../../proto/base/protobuf_fields.ts";

/** The part of a Run request that is needed to run it again. */
export interface LocalCommand {
  command: string;
  /** As the client sent them: the command, the client's additions, then what the user typed. */
  args: Uint8Array[];
  startupOptions: { option: Uint8Array; source: string }[];
}

/** The response that replaces the command's. */
export interface Instead {
  exitCode: number;
  text: string;
  fields: [number, Uint8Array | boolean][];
}

/** Field number of RunResponse.exec_request, and those of an ExecRequest. */
const EXEC_REQUEST = 8;
const Exec = { workingDirectory: 1, argv: 2, environmentVariable: 3, shouldExec: 5 };

/** A variable of the environment in which the user called the client; undefined if it was not set. */
export function clientVariable(request: { args: Uint8Array[] }, name: string): string | undefined {
  const prefix = `--client_env=${name}=`;
  return request.args.map((a) => Buffer.from(a).toString()).findLast((a) => a.startsWith(prefix))?.slice(prefix.length);
}

/** The output base of commands that run on this machine. */
export function localOutputBase(outputBase: string): string {
  // Inside the usual one: a server there recognizes links into its own output base as convenience symlinks, and does
  // not look for packages behind them.
  return `${outputBase}/local`;
}

/**
 * Removes the convenience symlinks to the session's outputs, which the local server would treat as directories with
 * packages (it makes its own at the end). Then executes the client.
 */
const SCRIPT = `outputs=$1 workspace=$2; shift 2
for link in "$workspace"/bazel-*; do
  if [ -L "$link" ]; then case $(readlink "$link") in "$outputs"/*) rm -f "$link" ;; esac; fi
done
exec "$@"`;

/**
 * The response that makes the client run the same command on this machine.
 *
 * @param outputBase The client's own output base, absolute.
 * @param workspace Absolute.
 */
export function runLocally(request: LocalCommand, outputBase: string, workspace: string): Instead {
  const args = request.args.map((a) => Buffer.from(a));
  const own = (name: string) =>
    args.find((a) => a.toString("latin1").startsWith(`--${name}=`))?.subarray(name.length + 3);
  // What the user typed follows the client's additions, the last of which is the working directory.
  const typed = args.findIndex((a) => a.toString("latin1").startsWith("--client_cwd=")) + 1;
  const argv: Uint8Array[] = [
    ...["/bin/sh", "-c", SCRIPT, "sh", `${outputBase}/execroot`, workspace].map((a) => Buffer.from(a)),
    own("binary_path") ?? Buffer.from("bazel"),
    // Options from rc files have a source, and are read again.
    ...request.startupOptions.filter((o) => o.option.length > 0 && o.source === "").map((o) => o.option),
    Buffer.from(`--output_base=${localOutputBase(outputBase)}`),
    args[0] ?? Buffer.from("help"),
    ...args.slice(typed || 1),
  ];
  const exec = Buffer.concat([
    encodeFields([[Exec.workingDirectory, own("client_cwd")]]),
    // An empty argument is kept, which encodeFields would leave out.
    ...argv.flatMap((a) => [lengthPrefix(Exec.argv, a.length), a]),
    // With it, the javabase's bin/java executes the JDK that the client would have chosen.
    encodeFields([[Exec.environmentVariable, encodeFields([[1, "RBS_IN_SESSION"], [2, "1"]])], [
      Exec.shouldExec,
      true,
    ]]),
  ]);
  return {
    exitCode: 0,
    text: `rbs: RBS_FALLBACK=local: running on this machine, with the output base ${localOutputBase(outputBase)}.\n`,
    fields: [[EXEC_REQUEST, exec]],
  };
}
