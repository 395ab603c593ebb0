import { formatHostPort } from "../../proto/base/host_port.ts";
import { RbsError } from "../../proto/base/errors.ts";
import { Agent, type ExecuteCommandRequestSchema } from "../../proto/contract/gen/rbs/v1/agent_pb.ts";
import type { GetServerResponse } from "../../proto/contract/gen/rbs/v1/orchestrator_pb.ts";
import type { Credentials } from "../../proto/identity/credentials.ts";
import { Code, createRpcClient, RpcError, TrustError, withClocks } from "../../proto/transport/rpc/client.ts";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { ExitCode } from "../../proto/bazel/exit_codes.ts";
import { BROKEN_PIPE_EXIT, HANGUP_EXIT } from "./shell_exit_codes.ts";
import { InterruptCounter, type SignalSource } from "./signals.ts";
import type { Terminal } from "./terminal.ts";

/** A command to run at an agent. */
export interface RemoteCommand {
  args: string[];
  env: Record<string, string>;
  /** Absolute path. */
  workingDirectory: string;
  /** If false, the command's standard input is closed, and ours is not read. */
  readsStdin: boolean;
}

/** The local ends of a command's streams. */
export interface CommandIo {
  /** Read only if the command reads its standard input. */
  stdin: ReadableStream<Uint8Array>;
  /** Both resolve when everything is written. Deno.errors.BrokenPipe means that the reader is gone. */
  writeStdout(bytes: Uint8Array): Promise<void>;
  writeStderr(bytes: Uint8Array): Promise<void>;
  /** If present, the command gets a terminal too. */
  terminal?: Terminal;
  signals: SignalSource;
}

/** The agent refused the call or was gone: nothing was run, and asking the orchestrator again may help. */
export class StaleServer extends Error {
  override readonly name = "StaleServer";
}

/** How long a command may take to end after a hang-up. Milliseconds. */
const HANGUP_GRACE_MS = 2_000;
const CTRL_C = 0x03;

/**
 * Runs a command at a session's agent, connected to `io`.
 *
 * Signals reach the command as if it ran here. For a command that reads standard input, the local terminal is set to
 * raw mode, so that the remote terminal interprets Ctrl-C like any other key. For other commands it stays unchanged:
 * typed input waits for the shell.
 *
 * @param credentials The user's.
 * @returns the command's exit code
 * @throws {StaleServer} if nothing was run.
 * @throws {RbsError} if the agent was lost.
 */
export async function runRemoteCommand(
  server: GetServerResponse,
  command: RemoteCommand,
  io: CommandIo,
  credentials: Credentials,
): Promise<number> {
  const { host, port, agentId } = server.session!.agent!;
  const address = formatHostPort(host, port);
  using agent = createRpcClient(Agent, address, {
    token: server.accessToken,
    tls: { credentials, expected: { kind: "agent", agentId } },
  });
  using cleanup = new DisposableStack();
  const call = agent.executeCommand({ metadata: { "rbs-epoch": String(server.session!.epoch) } });
  // Leaves early: the agent interrupts the command when the call ends.
  const left = Promise.withResolvers<number>();
  const leave = (exitCode: number) => {
    left.resolve(exitCode);
    call.cancel();
  };
  const { terminal } = io;
  const raw = terminal !== undefined && command.readsStdin;

  const send = (message: MessageInitShape<typeof ExecuteCommandRequestSchema>["message"]) => call.send({ message });
  const init = send({
    case: "init",
    value: {
      args: command.args,
      env: command.env,
      workingDirectory: command.workingDirectory,
      terminal: terminal?.size(),
    },
  });

  const interrupts = new InterruptCounter();
  let lastOutput = 0;
  const interrupt = () => {
    if (interrupts.interrupt()) return leave(ExitCode.INTERRUPTED);
    send({ case: "signal", value: "INT" });
  };
  const hangUp = () => {
    send({ case: "signal", value: "HUP" });
    const timer = setTimeout(() => leave(HANGUP_EXIT), HANGUP_GRACE_MS);
    cleanup.defer(() => clearTimeout(timer));
  };
  cleanup.defer(io.signals.on("SIGINT", interrupt));
  cleanup.defer(io.signals.on("SIGTERM", () => send({ case: "signal", value: "TERM" })));
  cleanup.defer(io.signals.on("SIGQUIT", () => send({ case: "signal", value: "QUIT" })));
  cleanup.defer(io.signals.on("SIGHUP", hangUp));

  if (terminal) {
    const resize = () => send({ case: "windowSize", value: terminal.size() });
    cleanup.defer(io.signals.on("SIGWINCH", resize));
    if (raw) {
      cleanup.defer(() => terminal.restore());
      terminal.makeRaw();
      // A shell that resumes a stopped job resets the terminal's mode.
      cleanup.defer(io.signals.on("SIGCONT", () => (terminal.makeRaw(), resize())));
    }
  }

  const pump = async () => {
    await init;
    if (command.readsStdin) {
      const reader = io.stdin.getReader();
      cleanup.defer(() => void reader.cancel().catch(() => {}));
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        // The remote side interprets Ctrl-C. But if no output comes, the third one leaves.
        const keys = raw ? value.filter((b) => b === CTRL_C).length : 0;
        for (let i = 0; i < keys; i++) {
          if (interrupts.interrupt() && lastOutput < interrupts.since!) return leave(ExitCode.INTERRUPTED);
        }
        await send({ case: "stdin", value });
      }
    }
    // A terminal's input does not end; without it Ctrl-C could no longer be typed.
    if (!terminal) await send({ case: "stdinClosed", value: {} });
  };
  // Input that can no longer be read has ended.
  pump().catch(() => terminal ? undefined : send({ case: "stdinClosed", value: {} }));

  let answered = false;
  const receive = async (): Promise<number> => {
    try {
      for await (const { message } of call) {
        answered = true;
        if (message.case === "exitCode") {
          return message.value;
        } else if (message.case === "stdout" || message.case === "stderr") {
          lastOutput = Date.now();
          await (message.case === "stdout" ? io.writeStdout(message.value) : io.writeStderr(message.value));
        }
      }
    } catch (e) {
      // For example `| head` has read enough: like the stock client, cancel the command and end as a broken pipe ends
      // programs.
      if (e instanceof Deno.errors.BrokenPipe) return BROKEN_PIPE_EXIT;
      const error = RpcError.from(e);
      if (!(e instanceof RpcError)) {
        throw new RbsError(`Bazel's output cannot be written: ${error.message}.`, { cause: e });
      }
      const distrust = answered ? e : await withClocks(e, address, "agent");
      if (distrust instanceof TrustError && distrust.clocks) {
        throw new RbsError(
          `The agent at ${address} is not trusted because the clocks differ: ${distrust.why}; correct the clock that is wrong.`,
          { cause: distrust, exitCode: ExitCode.LOCAL_ENVIRONMENTAL_ERROR },
        );
      }
      const { kind } = error.noAnswer ?? {};
      const neverConnected = kind === "unknown name" || kind === "not connected";
      const refused = error.code === Code.UNAUTHENTICATED || error.code === Code.FAILED_PRECONDITION;
      if (!answered && (refused || neverConnected)) throw new StaleServer(error.message, { cause: error });
      // The agent answered that it could not start the command.
      if (!answered && error.code === Code.UNAVAILABLE && kind !== "broken off") {
        throw new RbsError(`The command cannot be started on the build server: ${error.message}`, {
          cause: error,
          exitCode: ExitCode.LOCAL_ENVIRONMENTAL_ERROR,
        });
      }
      throw lostAgent(address, error.message, error);
    }
    throw lostAgent(address, "its answer ended without an exit code");
  };
  const received = receive();
  received.catch(() => {}); // The loser of the race below.
  return await Promise.race([left.promise, received]);
}

/** The error for an agent that was lost during a command. */
export function lostAgent(address: string, reason: string, cause?: unknown): RbsError {
  return new RbsError(
    `The agent at ${address} was lost while Bazel ran (${
      reason.replace(/\.+$/, "")
    }): run the command again, a new agent ` +
      `starts by itself.`,
    { cause, exitCode: ExitCode.INTERNAL_ERROR },
  );
}
