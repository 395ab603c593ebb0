import { pause } from "../../proto/base/timers.ts";
import { RbsError } from "../../proto/base/errors.ts";
import {
  type GetServerResponse,
  type ListSessionsResponse,
  Orchestrator,
  type Session,
  SessionStatus,
} from "../../proto/contract/gen/rbs/v1/orchestrator_pb.ts";
import { type HeldCredentials, readValidCredentials, userOf } from "../../proto/identity/key_directory.ts";
import { renewIfDue } from "../../proto/enrolment/renewal.ts";
import {
  Code,
  createRpcClient,
  type RpcClient,
  RpcError,
  TrustError,
  withClocks,
} from "../../proto/transport/rpc/client.ts";
import { randomToken } from "../../proto/base/state_directory.ts";
import { OrchestratorAddresses } from "../../proto/base/orchestrator_addresses.ts";
import { repoHash } from "../../proto/bazel/workspace.ts";
import { ExitCode } from "../../proto/bazel/exit_codes.ts";
import { machineId } from "../session/machine_id.ts";
import { wantedRegion } from "../session/region.ts";
import { serverId } from "../session/server_id.ts";
import type { Settings } from "./settings.ts";

/** An orchestrator that has not answered a simple call by then counts as down. Milliseconds. */
export const ANSWER_TIMEOUT_MS = 10_000;

/** A session's server, as returned by the orchestrator. */
export interface BuildServer {
  response: GetServerResponse;
  /** The session was READY before, so its warnings were already shown. */
  joined: boolean;
}

/** jbazel's connection to the orchestrator. Every method throws an RbsError with a remedy. */
export class OrchestratorSession implements Disposable {
  readonly #settings: Settings;
  /** The user's credentials. */
  readonly credentials: HeldCredentials;
  readonly #addresses: OrchestratorAddresses;
  #client: RpcClient<typeof Orchestrator>;

  /** Reads the keys; connects on the first call. */
  constructor(settings: Settings) {
    this.#settings = settings;
    try {
      this.credentials = readValidCredentials(settings.stateDirectory);
    } catch (e) {
      throw environmentError((e as Error).message, e, "caller");
    }
    this.#addresses = new OrchestratorAddresses(settings.orchestrator);
    this.#client = this.#connect();
  }

  #connect(): RpcClient<typeof Orchestrator> {
    return createRpcClient(Orchestrator, this.#addresses.current, {
      tls: { credentials: this.credentials, expected: { kind: "orchestrator" } },
    });
  }

  /** The user in the caller's certificate. */
  get userId(): string {
    return userOf(this.credentials);
  }

  /** The ServerId of an output base on this machine. */
  serverId(outputBase: string): string {
    return serverId(machineId({ stateDirectory: this.#settings.stateDirectory }), outputBase);
  }

  [Symbol.dispose](): void {
    this.#client.close();
  }

  /**
   * Renews the user's certificate in the background when it is due, so that regular use needs no new login. A failure
   * is retried by the next command.
   */
  renewKeys(): void {
    renewIfDue(this.#settings.stateDirectory, this.#addresses.current).catch(() => {});
  }

  /** The user's sessions, oldest first, and whether new ones are synced. */
  async listSessions(
    signal?: AbortSignal,
    timeoutMs: number = ANSWER_TIMEOUT_MS,
  ): Promise<{ sessions: Session[]; synced: boolean }> {
    const { sessions, synced } = await this.#list(signal, timeoutMs);
    return { sessions, synced };
  }

  async #list(signal: AbortSignal | undefined, timeoutMs: number): Promise<ListSessionsResponse> {
    for (;;) {
      try {
        const answer = await this.#client.listSessions({}, { signal, timeoutMs });
        this.#addresses.answered();
        return answer;
      } catch (e) {
        const { code } = RpcError.from(e);
        const mayTryAnother = (code === Code.UNAVAILABLE || code === Code.DEADLINE_EXCEEDED) && !signal?.aborted;
        if (!mayTryAnother || !this.#addresses.next()) {
          throw orchestratorError(await withClocks(RpcError.from(e), this.#addresses.current), String(this.#addresses));
        }
        this.#client.close();
        this.#client = this.#connect();
      }
    }
  }

  /**
   * Requests the server of `workspace`, and waits until it is ready.
   *
   * An existing session is joined by its own id, not taken over: a proxy that has it keeps its epoch, and any number of
   * commands can run side by side.
   *
   * @returns "synced" if agents and users share no disk: a command must then use the proxy, which sends the workspace,
   * and no server is requested.
   */
  async requestServer(
    workspace: string,
    options: { outputBase: string; onStep?(description: string): void; signal?: AbortSignal },
  ): Promise<BuildServer | "synced"> {
    const { signal } = options;
    const key = { repoHash: repoHash(workspace), serverId: this.serverId(options.outputBase) };
    // This call also detects an orchestrator that is down or hangs; the next one may take minutes.
    const { sessions, synced } = await this.#list(signal, ANSWER_TIMEOUT_MS);
    if (synced) return "synced";
    const live = sessions.filter((s) =>
      s.repoHash === key.repoHash && (s.status === SessionStatus.PENDING || s.status === SessionStatus.READY)
    );
    // A session without a server id belongs to an old proxy. With the same output base it is the right one.
    const present = live.find((s) => s.serverId === key.serverId) ??
      live.find((s) => s.serverId === "" && s.outputBase === options.outputBase);
    try {
      const events = this.#client.getServerStream({
        ...key,
        sessionId: present?.sessionId || randomToken(),
        sourcePath: workspace,
        startupOptions: [`--output_base=${options.outputBase}`],
        region: await wantedRegion(this.#settings),
      }, { signal });
      let response: GetServerResponse | undefined;
      for await (const { event } of events) {
        if (event.case === "step") options.onStep?.(event.value.description);
        else if (event.case === "server") response = event.value;
      }
      if (!response?.session?.agent) throw new RpcError(Code.INTERNAL, "the answer names no agent");
      const { sessionId, serverId } = response.session;
      const joined = present?.status === SessionStatus.READY && present.sessionId === sessionId &&
        present.serverId === serverId;
      return { response, joined };
    } catch (e) {
      throw orchestratorError(e, String(this.#addresses));
    }
  }

  /**
   * Sends heartbeats until `signal` is aborted. Never rejects: a running command counts as activity at its agent, so a
   * short absence of the orchestrator has no effect.
   */
  async heartbeat(session: Session, signal: AbortSignal): Promise<void> {
    let seconds = 5;
    while (!signal.aborted) {
      try {
        const { repoHash, serverId, sessionId } = session;
        const answer = await this.#client.heartbeat({ repoHash, serverId, sessionId }, { signal, timeoutMs: 5_000 });
        seconds = Math.min(Math.max(answer.intervalSeconds, 1), 600);
      } catch (e) {
        const { code } = RpcError.from(e);
        // The session has another owner, who sends heartbeats.
        if (code === Code.NOT_FOUND || code === Code.FAILED_PRECONDITION) return;
        if (code === Code.UNAVAILABLE && !signal.aborted) {
          this.#addresses.next();
          // In Deno, a channel whose server was restarted does not recover reliably; a new one does.
          this.#client.close();
          this.#client = this.#connect();
        }
        seconds = 2;
      }
      await pause(seconds * 1000, signal);
    }
  }
}

/** The sentence for a failed call to the orchestrator at `address`. */
export function orchestratorError(thrown: unknown, address: string): RbsError {
  const error = RpcError.from(thrown);
  switch (error.code) {
    case Code.UNAVAILABLE: {
      const { kind, systemCode } = error.noAnswer ?? {};
      if (kind === "unknown name") {
        return environmentError(
          `The orchestrator's host name in ${address} is not known: correct RBS_ORCHESTRATOR_ADDR.`,
          error,
        );
      }
      if (kind === "not connected") {
        const reason = systemCode === "ECONNREFUSED" ? "nothing listens there" : systemCode ?? "no connection";
        return environmentError(
          `No orchestrator can be reached at ${address} (${reason}): ${remedy(address)}, or correct ` +
            `RBS_ORCHESTRATOR_ADDR; with RBS_FALLBACK=local Bazel runs on this machine instead.`,
          error,
        );
      }
      if (kind === "broken off") {
        return environmentError(
          `The connection to the orchestrator at ${address} broke off: run the command again.`,
          error,
        );
      }
      return environmentError(`No build server is available now: ${error.message}`, error);
    }
    case Code.DEADLINE_EXCEEDED:
      return environmentError(
        `The orchestrator at ${address} has not answered within ${
          ANSWER_TIMEOUT_MS / 1000
        } s: see whether it hangs, or ` +
          `whether RBS_ORCHESTRATOR_ADDR names something else.`,
        error,
      );
    case Code.UNAUTHENTICATED:
    case Code.PERMISSION_DENIED:
      return environmentError(
        error instanceof TrustError && error.clocks
          ? `The orchestrator at ${address} is not trusted because the clocks differ: ${error.why}; correct the clock that ` +
            `is wrong.`
          : error instanceof TrustError
          ? `The orchestrator at ${address} is not to be trusted: ${error.why}. Correct RBS_ORCHESTRATOR_ADDR, or use ` +
            `the keys that belong to it (RBS_STATE_DIR, or \`jbazel login\`).`
          : error.code === Code.UNAUTHENTICATED
          ? `The orchestrator at ${address} refuses this user's certificate: ${error.message}`
          : `The orchestrator at ${address} refuses: ${error.message}`,
        error,
        "caller",
      );
    case Code.UNIMPLEMENTED:
      return environmentError(
        `What listens at ${address} is not an orchestrator of this version: correct RBS_ORCHESTRATOR_ADDR.`,
        error,
      );
    case Code.FAILED_PRECONDITION:
      return environmentError(`The build server cannot start: ${error.message}`, error, "caller");
    case Code.CANCELLED:
      return new RbsError("Interrupted while waiting for the build server.", {
        cause: error,
        culprit: "caller",
        exitCode: ExitCode.INTERRUPTED,
      });
    default:
      return environmentError(`The orchestrator at ${address} failed: ${error.message}`, error);
  }
}

/** What to do about an orchestrator that does not answer. It can only be started on its own machine. */
function remedy(address: string): string {
  return new OrchestratorAddresses(address.replaceAll(" or ", ",")).areLocal
    ? 'start one with "orchestrator install"'
    : "ask its operator whether it runs";
}

function environmentError(message: string, cause: unknown, culprit?: "caller"): RbsError {
  return new RbsError(message, { cause, culprit, exitCode: ExitCode.LOCAL_ENVIRONMENTAL_ERROR });
}
