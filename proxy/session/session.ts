/** The proxy's session: finds the agent for this workspace in the background, and again after it was lost. */
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { unref } from "../../proto/base/timers.ts";
import { RbsError, sentence } from "../../proto/base/errors.ts";
import { type GetServerResponse, Orchestrator } from "../../proto/contract/gen/rbs/v1/orchestrator_pb.ts";
import type { Headers } from "../../proto/transport/http2/hpack.ts";
import { readValidCredentials } from "../../proto/identity/key_directory.ts";
import { renewIfDue } from "../../proto/enrolment/renewal.ts";
import { OrchestratorAddresses } from "../../proto/base/orchestrator_addresses.ts";
import { Connection } from "../../proto/transport/grpc/channel.ts";
import {
  Code,
  createRpcClient,
  type RpcClient,
  RpcError,
  TrustError,
  withClocks,
} from "../../proto/transport/rpc/client.ts";
import { DEFAULT_ORCHESTRATOR_ADDR, randomToken, stateDirectory } from "../../proto/base/state_directory.ts";
import type { TlsClientOptions } from "../../proto/transport/tls/client.ts";
import { repoHash } from "../../proto/bazel/workspace.ts";
import { machineId } from "./machine_id.ts";
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
/** How long one of several orchestrators may be silent before the next is asked, in milliseconds. */
const SILENT_MS = 5_000;
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
  /** How long one of several orchestrators may be silent before the next is asked. Milliseconds. */
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

/** Finds and keeps the session's agent. */
export class Session {
  readonly #args: ServerArgs;
  readonly #settings: Omit<SessionSettings, "address">;
  readonly #addresses: OrchestratorAddresses;
  /** An orchestrator has answered since this proxy was started, so it may come back. */
  #wasThere = false;
  /** Why the last attempt failed; undefined while an orchestrator answers. */
  #unreachable?: RbsError;
  /** Until when an orchestrator that does not answer is retried, by performance.now(). */
  #patience = 0;
  /** Ends the pause before the next attempt. */
  #tryNow = () => {};
  readonly #repoHash: string;
  /** Computed when first needed, since that reads files. */
  #serverId?: string;
  readonly #sessionId = randomToken();
  #client?: RpcClient<typeof Orchestrator>;
  #search?: Promise<AgentLink>;
  #link?: AgentLink;
  #heartbeat?: ReturnType<typeof setTimeout>;
  #step = "asking the orchestrator";
  /** The step, while all agents are in use by others. */
  #queueing?: string;
  /** As in the environment: one "HOST:PORT", or several. */
  readonly #address: string;
  readonly #listeners = new Set<() => void>();
  #warnings: string[] = [];
  #released = false;

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
    this.#addresses = new OrchestratorAddresses(this.#address);
    this.#repoHash = repoHash(args.workspace);
  }

  /** Whether the session uses this orchestrator, or these. @param address As in RBS_ORCHESTRATOR_ADDR. */
  asks(address: string): boolean {
    return address === this.#address;
  }

  /** Whether there is an agent that answers, as far as is known. */
  get connected(): boolean {
    return this.#link !== undefined;
  }

  /** One line for the log. */
  describe(): string {
    return `session ${this.#sessionId}: ${this.#link ? `agent ${this.#link.name}` : this.#step}`;
  }

  /** Starts to look for the agent, ahead of the first command. */
  start(): void {
    this.#find().catch(() => {/* the next link() tries again, and reports */});
  }

  /**
   * The connection to the agent. Shows progress once the wait is longer than a second. Throws an {@link RbsError} that
   * says why there is no agent.
   */
  async link(waiter: LinkWaiter): Promise<AgentLink> {
    if (this.#link && this.#warnings.length === 0) return this.#link;
    const began = performance.now();
    this.#renewPatience();
    const { silenceMs, tickMs } = this.#settings;
    let shown = "", shownAt = 0;
    const show = () => {
      const waited = performance.now() - began;
      const isDue = waited - shownAt >= (waited > LONG_MS ? LONG_MS : tickMs);
      if (waited < silenceMs || (this.#step === shown && !isDue)) return;
      shown = this.#step;
      shownAt = waited;
      waiter.say(`rbs: ${this.#step} ${(waited / 1000).toFixed(1)}s\n`);
    };
    const loud = setTimeout(show, silenceMs + 5);
    const again = setInterval(() => {
      show();
      tire();
    }, tickMs / 10);
    const gaveUp = Promise.withResolvers<never>();
    const hurry = () => {
      if (waiter.impatient && this.#unreachable && performance.now() - began >= this.#settings.impatienceMs) {
        gaveUp.reject(this.#unreachable);
      }
    };
    const tire = () => {
      if (!this.#queueing || performance.now() - began < (waiter.queueMs ?? Infinity)) return;
      const options = { culprit: "caller", exitCode: ExitCode.LOCK_HELD } as const;
      gaveUp.reject(
        new RbsError(`No agent is free for longer than --block_for_lock waits: ${this.#queueing}.`, options),
      );
    };
    const enough = setTimeout(hurry, this.#settings.impatienceMs);
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
      const link = await Promise.race([this.#find(), gaveUp.promise]);
      for (const warning of this.#warnings.splice(0)) waiter.say(`rbs: warning: ${warning}\n`);
      return link;
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
    return this.#link === link;
  }

  /** Drops `link`, which is dead or was taken over. The next {@link link} asks for the session again. */
  lost(link: AgentLink, why: string): void {
    if (this.#link !== link) return;
    log(`session lost: ${why}`);
    this.#drop();
  }

  /** Releases the session. Waits at most `timeoutMs` for the orchestrator, which finishes by itself. */
  async release(timeoutMs: number): Promise<void> {
    this.#released = true;
    clearTimeout(this.#heartbeat);
    const until = performance.now() + timeoutMs;
    for (let client = this.#client, left = this.#addresses.all.length; client;) {
      try {
        const session = { ...this.#key, sessionId: this.#sessionId };
        await client.releaseServer(session, { timeoutMs: Math.max(0, until - performance.now()) });
        break;
      } catch (e) {
        const { code } = RpcError.from(e);
        const inTime = code !== Code.DEADLINE_EXCEEDED;
        // A connection that breaks at this moment gives various codes, and a second release does no harm.
        if (inTime && --left > 0) {
          this.#addresses.next();
          client = this.#connectAnew();
          continue;
        }
        if (inTime) log(`the session was not released: ${sentence(e)}`);
        break;
      }
    }
    this.#client?.close();
    this.#client = undefined;
  }

  /** The session's key, apart from the user in the certificate. */
  get #key(): { repoHash: string; serverId: string } {
    this.#serverId ??= serverId(
      machineId({ stateDirectory: this.#settings.stateDirectory(), explicit: this.#settings.machineId }),
      this.#args.outputBase,
    );
    return { repoHash: this.#repoHash, serverId: this.#serverId };
  }

  #drop(): void {
    // A command that still runs there is not cut off; the agent decides what may continue.
    this.#link?.connection.retire();
    this.#link = undefined;
    this.#search = undefined;
    clearTimeout(this.#heartbeat);
  }

  #find(): Promise<AgentLink> {
    if (!this.#search) {
      const search = this.#search = this.#ask();
      search.catch(() => {
        if (this.#search === search) this.#search = undefined;
      });
    }
    return this.#search;
  }

  #report(step: string): void {
    this.#step = step;
    for (const listener of this.#listeners) listener();
  }

  /** Renews the user's certificate in the background when it is due, so that regular use needs no new login. */
  #renewKeys(): void {
    renewIfDue(this.#settings.stateDirectory(), this.#addresses.current).catch((e) => {
      log(`the certificate could not be renewed: ${sentence(e)}`);
    });
  }

  /** Asks the orchestrator until it answers or its time is over. */
  async #ask(): Promise<AgentLink> {
    let restarts = 0;
    this.#renewPatience();
    this.#queueing = undefined;
    this.#report(`asking the orchestrator at ${this.#addresses.current}`);
    for (let wait = 100;; wait = Math.min(wait * 2, 1_000)) {
      let progress = false;
      const silent = new AbortController();
      const timer = this.#addresses.all.length > 1
        ? setTimeout(() => silent.abort(), this.#settings.silentMs)
        : undefined;
      try {
        const events = this.#connectAnew().getServerStream({
          ...this.#key,
          sessionId: this.#sessionId,
          sourcePath: this.#args.workspace,
          startupOptions: [...this.#args.argv, ...this.#args.clientShell ?? []],
          region: await wantedRegion({
            stateDirectory: this.#settings.stateDirectory(),
            lookUp: this.#settings.lookUpRegion,
          }),
        }, { signal: silent.signal });
        for await (const { event } of events) {
          progress = true;
          clearTimeout(timer);
          this.#addresses.answered();
          this.#wasThere = true;
          this.#unreachable = undefined;
          if (event.case === "step") {
            const { description } = event.value;
            this.#queueing = description.startsWith(WAITING_FOR_AGENT) ? description : undefined;
            this.#report(`agent starting (${description})`);
          }
          if (event.case === "server") {
            this.#renewKeys();
            return this.#connect(event.value);
          }
        }
        throw new RpcError(Code.INTERNAL, "the orchestrator ended its answer without a server");
      } catch (thrown) {
        const e = await withClocks(thrown, this.#addresses.current);
        const isSilent = silent.signal.aborted && !progress;
        const unreachable = isSilent || (e instanceof RpcError && e.code === Code.UNAVAILABLE);
        const noKeyYet = e instanceof RbsError && e.cause instanceof Deno.errors.NotFound;
        // The orchestrator answered a moment ago, perhaps after more than PATIENCE_MS, so it may come back.
        if (progress && ++restarts <= MAX_RESTARTS) this.#renewPatience();
        if (!(unreachable || noKeyYet) || performance.now() + wait > this.#patience || this.#released) {
          throw this.#explain(e, progress);
        }
        if (!progress) this.#unreachable = this.#explain(e, progress);
        // Another orchestrator may answer at once.
        if (unreachable && this.#addresses.next()) continue;
        // No orchestrator was started here; the developer should learn that now.
        if (!this.#wasThere && await this.#addresses.areRefused()) throw this.#explain(e, progress);
        this.#report(
          progress ? `agent starting (again: ${sentence(e)})` : `waiting for the orchestrator at ${this.#addresses}`,
        );
        const pause = Promise.withResolvers<void>();
        this.#tryNow = pause.resolve;
        const waited = setTimeout(pause.resolve, wait);
        await pause.promise;
        clearTimeout(waited);
      } finally {
        clearTimeout(timer);
      }
    }
  }

  /**
   * In Deno, a channel that was refused once is unreliable: each attempt has a new one. Reads the keys again, since
   * they may have been renewed.
   */
  #connectAnew(): RpcClient<typeof Orchestrator> {
    this.#client?.close();
    const credentials = readValidCredentials(this.#settings.stateDirectory());
    return this.#client = createRpcClient(Orchestrator, this.#addresses.current, {
      tls: { credentials, expected: { kind: "orchestrator" } },
    });
  }

  /** A new caller waits: neither an earlier failure nor the time that others have waited counts for it. */
  #renewPatience(): void {
    this.#unreachable = undefined;
    this.#patience = performance.now() + this.#settings.patienceMs;
    this.#tryNow();
  }

  #explain(e: unknown, answered: boolean): RbsError {
    const options = { cause: e, exitCode: ExitCode.LOCAL_ENVIRONMENTAL_ERROR };
    if (e instanceof RbsError) return new RbsError(e.message, options);
    if (e instanceof RpcError && e.noAnswer && !answered) {
      return new RbsError(
        `The orchestrator at ${this.#addresses} cannot be reached: start it (orchestrator install), ` +
          `set RBS_ORCHESTRATOR_ADDR, or set RBS_FALLBACK=local to build on this machine meanwhile.`,
        options,
      );
    }
    if (e instanceof RpcError && e.code === Code.UNAUTHENTICATED) {
      return new RbsError(
        e instanceof TrustError && e.clocks
          ? `The orchestrator at ${this.#addresses} is not trusted because the clocks differ: ${e.why}; correct the clock ` +
            `that is wrong.`
          : e instanceof TrustError
          ? `The orchestrator at ${this.#addresses} is not to be trusted: ${e.why}. Correct RBS_ORCHESTRATOR_ADDR, or ` +
            `use the keys that belong to it (RBS_STATE_DIR, or \`jbazel login\`).`
          : `The orchestrator at ${this.#addresses} refuses this user's certificate: ${e.message}`,
        options,
      );
    }
    return new RbsError(sentence(e), options);
  }

  #connect(server: GetServerResponse): AgentLink {
    const agent = server.session?.agent;
    if (!agent) throw new RpcError(Code.INTERNAL, "the orchestrator's answer names no agent");
    const name = `${agent.host}:${agent.commandPort}`;
    const ours = { authorization: `Bearer ${server.accessToken}`, "rbs-epoch": String(server.session?.epoch ?? 0) };
    const tls = this.#settings.agentTls(server);
    // The orchestrator recorded this time just now, when it saw this proxy.
    const { lastHeartbeat } = server.session!;
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
    this.#link = link;
    this.#warnings = server.warnings.filter((w) => !this.#warned.has(w));
    for (const w of server.warnings) this.#warned.add(w);
    this.#step = `agent ${name}`;
    this.#beat(this.#settings.firstHeartbeatMs);
    return link;
  }
  readonly #warned = new Set<string>();

  /** Sends heartbeats while the link exists, even if the orchestrator is down. */
  #beat(afterMs: number): void {
    clearTimeout(this.#heartbeat);
    const link = this.#link;
    this.#heartbeat = setTimeout(async () => {
      let next = 10_000;
      try {
        const r = await this.#client!.heartbeat(
          { ...this.#key, sessionId: this.#sessionId },
          { timeoutMs: 5_000 },
        );
        this.#addresses.answered();
        next = r.intervalSeconds * 1000 || next;
      } catch (e) {
        const code = RpcError.from(e).code;
        if (this.#link !== link) return;
        if (code === Code.NOT_FOUND || code === Code.FAILED_PRECONDITION) return this.#drop();
        const isSilent = code === Code.DEADLINE_EXCEEDED && this.#addresses.all.length > 1;
        if ((code === Code.UNAVAILABLE || isSilent) && !this.#released) {
          // The next of several orchestrators is tried after 1 s; once all were tried, the normal interval applies.
          if (this.#addresses.next()) next = 1_000;
          try {
            this.#connectAnew();
          } catch { /* the next heartbeat tries again */ }
        }
      }
      if (this.#link === link && !this.#released) this.#beat(next);
    }, afterMs);
    unref(this.#heartbeat);
  }
}
