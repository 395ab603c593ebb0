/** The proxy's session: finds the agent for this workspace in the background, and again after it was lost. */
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { RbsError, sentence } from "../../proto/base/errors.ts";
import { type GetServerResponse, Orchestrator } from "../../proto/contract/gen/rbs/v1/orchestrator_pb.ts";
import type { Headers } from "../../proto/transport/http2/hpack.ts";
import { readValidCredentials } from "../../proto/identity/key_directory.ts";
import { Connection } from "../../proto/transport/grpc/channel.ts";
import { Code, RpcError } from "../../proto/transport/rpc/client.ts";
import { DEFAULT_ORCHESTRATOR_ADDR, randomToken, stateDirectory } from "../../proto/base/state_directory.ts";
import type { TlsClientOptions } from "../../proto/transport/tls/client.ts";
import { repoHash } from "../../proto/bazel/workspace.ts";
import { sendHeartbeats, type SessionName } from "./heartbeats.ts";
import { machineId } from "./machine_id.ts";
import { OrchestratorClient } from "./orchestrator_client.ts";
import { type OrchestratorError, orchestratorError } from "./orchestrator_error.ts";
import { requestServer, SILENT_MS } from "./server_request.ts";
import { serverId } from "./server_id.ts";
import { ExitCode } from "../../proto/bazel/exit_codes.ts";
import { WAITING_FOR_AGENT } from "../../proto/contract/start_steps.ts";
import { wantedRegion } from "./region.ts";
import type { ServerArgs } from "../../proto/bazel/server_args.ts";
import { log } from "../log.ts";

/** How long an orchestrator that does not answer is retried before the command fails, in milliseconds. */
const PATIENCE_MS = 10_000;
/** The same for a command that can run locally. */
const IMPATIENCE_MS = 500;
/** How often an orchestrator may be lost during an agent's start before PATIENCE_MS is no longer renewed. */
const MAX_RESTARTS = 3;
/** Shorter waits are not shown. Milliseconds. */
const SILENCE_MS = 1_000;
/** Interval at which a wait is shown, at first and after LONG_MS. Milliseconds. */
const TICK_MS = 1_000, LONG_MS = 10_000;

/** A connection to the session's agent. */
export interface AgentLink {
  /** "host:port", for messages. */
  readonly name: string;
  readonly connection: Connection;
  /** Whether agent and laptop share no disk. */
  readonly synced: boolean;
  /** The install base that the agent's machine lacks; empty if none. */
  readonly missingInstallBase: string;
  /** The present time of the orchestrator's clock, if its answer told. */
  readonly orchestratorTime?: () => Date;
  /** The headers of a call: the client's own metadata, and the session's. */
  headers(from?: Headers): Headers;
}

/** A caller of {@link Session.link}. */
export interface LinkWaiter {
  /** Aborts the wait; the search continues. */
  signal: AbortSignal;
  /** Whether to give up soon when there is no answer. */
  impatient?: boolean;
  /** How long it may queue for an agent, in milliseconds. @default no limit */
  queueMs?: number;
  /** Shows a line (with its newline) to the user. */
  say(line: string): void;
}

/** Headers of the hop from the Bazel client to the proxy. */
const HOP_HEADERS = new Set([
  "host",
  "connection",
  "te",
  "content-type",
  "content-length",
  "authorization",
  "grpc-accept-encoding",
  "grpc-encoding",
]);

/** Settings of {@link Session}; tests change them. */
export interface SessionSettings {
  /** The orchestrator's "host:port", or several separated by commas. */
  address: string;
  /**
   * The TLS options for the agent in an answer; undefined: plain text, for tests.
   * @default with the keys of the state directory
   */
  agentTls(server: GetServerResponse): TlsClientOptions | undefined;
  /** The directory with the keys. */
  stateDirectory(): string;
  /** @default see machine_id.ts */
  machineId?: string;
  patienceMs: number;
  impatienceMs: number;
  silenceMs: number;
  /** Interval at which a wait is shown. Milliseconds. */
  tickMs: number;
  /**
   * How long an orchestrator may be silent before the next of several is asked, and before a command that can run locally
   * does not wait for a single one. Milliseconds.
   */
  silentMs: number;
  /** Time until the first heartbeat, whose answer says when the next is due. Milliseconds. */
  firstHeartbeatMs: number;
  /** Asks the cloud for this machine's region, see region.ts. @default the cloud is not asked */
  lookUpRegion?: () => Promise<string | undefined>;
}

/** The default settings. */
const DEFAULTS = {
  stateDirectory,
  patienceMs: PATIENCE_MS,
  impatienceMs: IMPATIENCE_MS,
  silenceMs: SILENCE_MS,
  tickMs: TICK_MS,
  silentMs: SILENT_MS,
  firstHeartbeatMs: 5_000,
};

/** The search for the agent. */
interface Searching {
  readonly name: "searching";
  /** Rejects with an {@link OrchestratorError}. */
  readonly found: Promise<AgentLink>;
  /** Aborted when the search is over. */
  readonly over: AbortController;
  /** What is waited for now. */
  step: string;
  /** The step, while all agents are in use by others. */
  queueing?: string;
  /** Why the last attempt failed, or that the present one gets no answer; undefined while an orchestrator answers. */
  unreachable?: OrchestratorError;
  /** Until when an orchestrator that does not answer is retried, by performance.now(). */
  patience: number;
  /** Ends the pause before the next attempt. */
  tryNow(): void;
}

/** The session has an agent that answers, as far as is known. */
interface Linked {
  readonly name: "linked";
  readonly link: AgentLink;
  /** Warnings that no command has shown yet. */
  readonly unsaid: string[];
  /** Ends the heartbeats. */
  readonly over: AbortController;
}

/**
 * The states of a session:
 *
 *     idle ── start, link ──> searching ── server ──> linked
 *       ^                         │                     │
 *       └──────── failure ────────┴── lost, heartbeat ──┘        any ── release ──> released
 */
type SessionState = { readonly name: "idle" } | Searching | Linked | { readonly name: "released" };

/** Finds and keeps the session's agent. */
export class Session {
  readonly #args: ServerArgs;
  readonly #settings: Omit<SessionSettings, "address">;
  readonly #client: OrchestratorClient;
  /** As in the environment: one "HOST:PORT", or several. */
  readonly #address: string;
  /** Changed by {@link #enter} only. */
  #state: SessionState = { name: "idle" };
  /** An orchestrator has answered since this proxy was started, so it may come back. */
  #wasThere = false;
  readonly #repoHash: string;
  /** Computed when first needed, since that reads files. */
  #serverId?: string;
  readonly #sessionId = randomToken();
  readonly #listeners = new Set<() => void>();
  /** The warnings that were shown. */
  readonly #said = new Set<string>();

  /** @param settings For tests; the environment provides the rest. */
  constructor(args: ServerArgs, settings: Partial<SessionSettings> = {}) {
    this.#args = args;
    this.#settings = {
      ...DEFAULTS,
      agentTls: (server) => ({
        credentials: () => readValidCredentials(this.#settings.stateDirectory()),
        expected: { kind: "agent", agentId: server.session?.agent?.agentId ?? "" },
      }),
      ...settings,
    };
    this.#address = settings.address ?? (Deno.env.get("RBS_ORCHESTRATOR_ADDR") || DEFAULT_ORCHESTRATOR_ADDR);
    this.#client = new OrchestratorClient(Orchestrator, {
      address: this.#address,
      stateDirectory: () => this.#settings.stateDirectory(),
      onRenewalFailure: (why) => log(`the certificate could not be renewed: ${why}`),
    });
    this.#repoHash = repoHash(args.workspace);
  }

  /** Whether the session uses this orchestrator, or these. @param address As in RBS_ORCHESTRATOR_ADDR. */
  asks(address: string): boolean {
    return address === this.#address;
  }

  /** Whether there is an agent that answers, as far as is known. */
  get connected(): boolean {
    return this.#state.name === "linked";
  }

  /** One line for the log. */
  describe(): string {
    const state = this.#state;
    const what = state.name === "searching"
      ? state.step
      : state.name === "linked"
      ? `agent ${state.link.name}`
      : state.name;
    return `session ${this.#sessionId}: ${what}`;
  }

  /** Starts to look for the agent, ahead of the first command. */
  start(): void {
    this.#search();
  }

  /**
   * The connection to the agent. Shows progress once the wait is longer than a second. Throws an {@link RbsError} that
   * says why there is no agent.
   */
  async link(waiter: LinkWaiter): Promise<AgentLink> {
    const link = this.#state.name === "linked" ? this.#state.link : await this.#wait(this.#search(), waiter);
    const unsaid = this.#state.name === "linked" ? this.#state.unsaid.splice(0) : [];
    for (const warning of unsaid) {
      waiter.say(`rbs: warning: ${warning}\n`);
      this.#said.add(warning);
    }
    return link;
  }

  /** Waits for the end of a search, and tells how it goes on. */
  async #wait(search: Searching, waiter: LinkWaiter): Promise<AgentLink> {
    const began = performance.now();
    const { silenceMs, tickMs, impatienceMs } = this.#settings;
    let shown = "", shownAt = 0;
    const show = () => {
      const waited = performance.now() - began;
      const isDue = waited - shownAt >= (waited > LONG_MS ? LONG_MS : tickMs);
      if (waited < silenceMs || (search.step === shown && !isDue)) return;
      shown = search.step;
      shownAt = waited;
      waiter.say(`rbs: ${search.step} ${(waited / 1000).toFixed(1)}s\n`);
    };
    const loud = setTimeout(show, silenceMs + 5);
    const again = setInterval(() => {
      show();
      tire();
    }, tickMs / 10);
    const gaveUp = Promise.withResolvers<never>();
    const hurry = () => {
      if (waiter.impatient && search.unreachable && performance.now() - began >= impatienceMs) {
        gaveUp.reject(search.unreachable);
      }
    };
    const tire = () => {
      if (!search.queueing || performance.now() - began < (waiter.queueMs ?? Infinity)) return;
      const options = { culprit: "caller", exitCode: ExitCode.LOCK_HELD } as const;
      gaveUp.reject(
        new RbsError(`No agent is free for longer than --block_for_lock waits: ${search.queueing}.`, options),
      );
    };
    const enough = setTimeout(hurry, impatienceMs);
    const listener = () => {
      show();
      hurry();
      tire();
    };
    this.#listeners.add(listener);
    const giveUp = () => gaveUp.reject(new RbsError("The wait for the agent was interrupted."));
    if (waiter.signal.aborted) giveUp();
    waiter.signal.addEventListener("abort", giveUp);
    try {
      return await Promise.race([search.found, gaveUp.promise]);
    } finally {
      gaveUp.promise.catch(() => {});
      clearTimeout(loud);
      clearInterval(again);
      clearTimeout(enough);
      this.#listeners.delete(listener);
      waiter.signal.removeEventListener("abort", giveUp);
    }
  }

  /** Whether `link` is still the session's agent, as far as is known. */
  isCurrent(link: AgentLink): boolean {
    return this.#state.name === "linked" && this.#state.link === link;
  }

  /** Drops `link`, which is dead or was taken over. The next {@link link} asks for the session again. */
  lost(link: AgentLink, why: string): void {
    if (!this.isCurrent(link)) return;
    log(`session lost: ${why}`);
    // A command that still runs there is not cut off; the agent decides what may continue.
    link.connection.retire();
    this.#enter({ name: "idle" });
  }

  /** Releases the session. Waits at most `timeoutMs` for the orchestrator, which finishes by itself. Never rejects. */
  async release(timeoutMs: number): Promise<void> {
    // An orchestrator that was never asked does not know the session.
    const wasAsked = this.#wasThere || this.#state.name !== "idle";
    this.#enter({ name: "released" });
    using client = this.#client;
    if (!wasAsked) return;
    const until = performance.now() + timeoutMs;
    try {
      await client.ask(
        (rpc) => rpc.releaseServer(this.#name, { timeoutMs: Math.max(0, until - performance.now()) }),
        // A connection that breaks at this moment gives various codes, and a second release does no harm.
        { goOn: ({ reason }) => reason !== "silent" },
      );
    } catch (e) {
      const { reason, cause } = await client.explain(e);
      if (reason !== "silent") log(`the session was not released: ${sentence(cause)}`);
    }
  }

  get #name(): SessionName {
    this.#serverId ??= serverId(
      machineId({ stateDirectory: this.#settings.stateDirectory(), explicit: this.#settings.machineId }),
      this.#args.outputBase,
    );
    return { repoHash: this.#repoHash, serverId: this.#serverId, sessionId: this.#sessionId };
  }

  /** Changes the state, and ends what belongs to the former one. */
  #enter(state: SessionState): void {
    const former = this.#state;
    this.#state = state;
    if (former.name === "searching" || former.name === "linked") former.over.abort();
    if (former.name === "searching") former.tryNow();
  }

  /**
   * The search that goes on, or a new one. Its caller is ready to wait: neither an earlier failure nor the time that others
   * have waited counts. Throws an {@link RbsError} if the session was released.
   */
  #search(): Searching {
    if (this.#state.name === "released") throw new RbsError("The proxy is ending: run the command again.");
    if (this.#state.name === "searching") {
      this.#renewPatience(this.#state);
      return this.#state;
    }
    const { promise: found, resolve, reject } = Promise.withResolvers<AgentLink>();
    const search: Searching = {
      name: "searching",
      found,
      over: new AbortController(),
      step: `asking the orchestrator at ${this.#client.addresses.current}`,
      patience: 0,
      tryNow() {},
    };
    this.#renewPatience(search);
    this.#enter(search);
    this.#find(search).then(resolve, (e) => {
      if (this.#state === search) this.#enter({ name: "idle" });
      reject(e);
    });
    // The next link() tries again, and reports.
    found.catch(() => {});
    return search;
  }

  #report(search: Searching, step: string): void {
    search.step = step;
    this.#tell();
  }

  #tell(): void {
    for (const listener of this.#listeners) listener();
  }

  /** Asks the orchestrator until it answers or its time is over. Throws an {@link OrchestratorError}. */
  async #find(search: Searching): Promise<AgentLink> {
    const { addresses } = this.#client;
    const { silentMs } = this.#settings;
    let restarts = 0;
    for (let wait = 100;; wait = Math.min(wait * 2, 1_000)) {
      let progress = false;
      try {
        const region = await wantedRegion({
          stateDirectory: this.#settings.stateDirectory(),
          lookUp: this.#settings.lookUpRegion,
        });
        this.#check(search);
        const request = {
          ...this.#name,
          sourcePath: this.#args.workspace,
          startupOptions: [...this.#args.argv, ...this.#args.clientShell ?? []],
          region,
        };
        const server = await requestServer(this.#client.connectAnew(), request, {
          signal: search.over.signal,
          silentMs,
          onSilence: () => {
            if (addresses.all.length > 1) return false;
            // A single orchestrator may be slow. Who can do without it need not wait.
            search.unreachable = orchestratorError(new RpcError(Code.DEADLINE_EXCEEDED, ""), addresses, silentMs);
            this.#tell();
            return true;
          },
          onAnswer: () => {
            progress = true;
            addresses.answered();
            this.#wasThere = true;
            search.unreachable = undefined;
          },
          onStep: (description) => {
            search.queueing = description.startsWith(WAITING_FOR_AGENT) ? description : undefined;
            this.#report(search, `agent starting (${description})`);
          },
        });
        this.#check(search);
        this.#client.renewKeys();
        return this.#connect(server);
      } catch (thrown) {
        const e = await this.#client.explain(thrown, silentMs);
        if (this.#state !== search) throw e;
        // The orchestrator answered a moment ago, perhaps after more than PATIENCE_MS, so it may come back.
        if (progress && ++restarts <= MAX_RESTARTS) this.#renewPatience(search);
        if (!(e.isPassing || e.reason === "no key") || performance.now() + wait > search.patience) throw e;
        if (!progress) search.unreachable = e;
        // Another orchestrator may answer at once.
        if (e.isPassing && addresses.next()) continue;
        // No orchestrator was started here; the developer should learn that now.
        if (!this.#wasThere && await addresses.areRefused()) throw e;
        this.#report(
          search,
          progress ? `agent starting (again: ${sentence(e.cause)})` : `waiting for the orchestrator at ${addresses}`,
        );
        const pause = Promise.withResolvers<void>();
        search.tryNow = pause.resolve;
        const waited = setTimeout(pause.resolve, wait);
        await pause.promise;
        clearTimeout(waited);
      }
    }
  }

  /** Throws an RpcError if the search is over. */
  #check(search: Searching): void {
    if (this.#state !== search) throw new RpcError(Code.CANCELLED, "the session was released");
  }

  #renewPatience(search: Searching): void {
    search.unreachable = undefined;
    search.patience = performance.now() + this.#settings.patienceMs;
    search.tryNow();
  }

  #connect(server: GetServerResponse): AgentLink {
    const session = server.session!, agent = session.agent!;
    const name = `${agent.host}:${agent.commandPort}`;
    const ours = { authorization: `Bearer ${server.accessToken}`, "rbs-epoch": String(session.epoch) };
    const tls = this.#settings.agentTls(server);
    // The orchestrator recorded this time just now, when it saw this proxy.
    const { lastHeartbeat } = session;
    const ahead = lastHeartbeat ? timestampMs(lastHeartbeat) - Date.now() : undefined;
    const connection = new Connection(agent.host, agent.commandPort, { keepAlive: true, tls });
    // A handshake takes two round trips; at this point no command may be waiting yet.
    if (tls) connection.open();
    const link: AgentLink = {
      name,
      connection,
      synced: server.synced,
      missingInstallBase: server.missingInstallBase,
      orchestratorTime: ahead === undefined ? undefined : () => new Date(Date.now() + ahead),
      headers(from = {}) {
        const headers: Headers = {};
        for (const [k, v] of Object.entries(from)) if (!k.startsWith(":") && !HOP_HEADERS.has(k)) headers[k] = v;
        return { ...headers, ...ours };
      },
    };
    const over = new AbortController();
    this.#enter({ name: "linked", link, unsaid: server.warnings.filter((w) => !this.#said.has(w)), over });
    this.#keep(link, over.signal);
    return link;
  }

  /** Sends heartbeats while the link exists, even if the orchestrator is down. */
  async #keep(link: AgentLink, signal: AbortSignal): Promise<void> {
    const end = await sendHeartbeats(this.#client, this.#name, { firstMs: this.#settings.firstHeartbeatMs, signal });
    if (end === "lost") this.lost(link, "it has ended or has another owner, as the orchestrator says");
  }
}
