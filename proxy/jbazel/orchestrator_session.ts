import {
  type GetServerResponse,
  type ListSessionsResponse,
  Orchestrator,
  type Session,
  SessionStatus,
} from "../../proto/contract/gen/rbs/v1/orchestrator_pb.ts";
import { type HeldCredentials, userOf } from "../../proto/identity/key_directory.ts";
import { randomToken } from "../../proto/base/state_directory.ts";
import { repoHash } from "../../proto/bazel/workspace.ts";
import { sendHeartbeats } from "../session/heartbeats.ts";
import { machineId } from "../session/machine_id.ts";
import { OrchestratorClient } from "../session/orchestrator_client.ts";
import { ANSWER_TIMEOUT_MS } from "../session/orchestrator_error.ts";
import { wantedRegion } from "../session/region.ts";
import { requestServer, SILENT_MS } from "../session/server_request.ts";
import { serverId } from "../session/server_id.ts";
import type { Settings } from "./settings.ts";

/** A session's server, as returned by the orchestrator. */
export interface BuildServer {
  response: GetServerResponse;
  /** The session was READY before, so its warnings were already shown. */
  joined: boolean;
}

/** jbazel's calls of the orchestrator. Every method throws an OrchestratorError with a remedy. */
export class OrchestratorSession implements Disposable {
  readonly #settings: Settings;
  readonly #client: OrchestratorClient;
  /** The user's credentials. */
  readonly credentials: HeldCredentials;

  /** Reads the keys; connects on the first call. */
  constructor(settings: Settings) {
    this.#settings = settings;
    this.#client = new OrchestratorClient(Orchestrator, {
      address: settings.orchestrator,
      stateDirectory: () => settings.stateDirectory,
    });
    this.credentials = this.#client.credentials;
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

  /** Renews the user's certificate in the background when it is due. A failure is retried by the next command. */
  renewKeys(): void {
    this.#client.renewKeys();
  }

  /** The user's sessions, oldest first, and whether new ones are synced. */
  listSessions(signal?: AbortSignal, timeoutMs: number = ANSWER_TIMEOUT_MS): Promise<ListSessionsResponse> {
    return this.#client.ask((rpc) => rpc.listSessions({}, { signal, timeoutMs }), { signal, timeoutMs });
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
    const { signal, onStep } = options;
    const key = { repoHash: repoHash(workspace), serverId: this.serverId(options.outputBase) };
    // This call also detects an orchestrator that is down or hangs; the next one may take minutes.
    const { sessions, synced } = await this.listSessions(signal);
    if (synced) return "synced";
    const live = sessions.filter((s) =>
      s.repoHash === key.repoHash && (s.status === SessionStatus.PENDING || s.status === SessionStatus.READY)
    );
    // A session without a server id belongs to an old proxy. With the same output base it is the right one.
    const present = live.find((s) => s.serverId === key.serverId) ??
      live.find((s) => s.serverId === "" && s.outputBase === options.outputBase);
    const request = {
      ...key,
      sessionId: present?.sessionId || randomToken(),
      sourcePath: workspace,
      startupOptions: [`--output_base=${options.outputBase}`],
      region: await wantedRegion(this.#settings),
    };
    const silentMs = this.#client.addresses.all.length > 1 ? SILENT_MS : undefined;
    const response = await this.#client.ask(
      (rpc) => requestServer(rpc, request, { signal, silentMs, onStep }),
      { signal, timeoutMs: silentMs },
    );
    const { sessionId, serverId } = response.session!;
    const joined = present?.status === SessionStatus.READY && present.sessionId === sessionId &&
      present.serverId === serverId;
    return { response, joined };
  }

  /** Sends heartbeats until `signal` is aborted, or the session has another owner, who sends them. Never rejects. */
  async heartbeat(session: Session, signal: AbortSignal): Promise<void> {
    await sendHeartbeats(this.#client, session, { firstMs: 0, signal });
  }
}
