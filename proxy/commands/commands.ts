/**
 * The commands of one proxy: each Run of the Bazel client, from its first response to its last.
 *
 *     client                proxy                                agent
 *       │ Run                │                                     │
 *       │───────────────────>│                                     │
 *       │ {cookie, our id}   │ at once, so that Ctrl-C works       │
 *       │<───────────────────│                                     │
 *       │ "rbs: … 2.1s"      │ while the session's agent is found  │
 *       │<───────────────────│ Run, its cookie patched             │
 *       │                    │────────────────────────────────────>│
 *       │                    │ {cookie, its id}, output, …         │
 *       │ the same, cookie   │<────────────────────────────────────│
 *       │ and id patched     │                                     │
 *       │<───────────────────│                                     │
 */
import { Buffer } from "node:buffer";
import { randomUUID } from "node:crypto";
import { pause } from "../../proto/base/timers.ts";
import { quoted } from "../../proto/base/absolute_path.ts";
import { RbsError, sentence } from "../../proto/base/errors.ts";
import { DEFAULT_ORCHESTRATOR_ADDR } from "../../proto/base/state_directory.ts";
import type { Http2Connection } from "../../proto/transport/http2/connection.ts";
import type { Headers } from "../../proto/transport/http2/hpack.ts";
import { type ServerCall, Status, StatusError } from "../../proto/transport/grpc/calls.ts";
import {
  bytesValue,
  encodeFields,
  type Field,
  patchFields,
  scanFields,
  textValue,
} from "../../proto/base/protobuf_fields.ts";
import { AnswerFilter } from "../answers/answer_filter.ts";
import { HomeHints } from "../answers/home_hints.ts";
import { escaped } from "../answers/refusal.ts";
import { isClocks, type RemoteOutcome, runRemotely } from "./remote_run.ts";
import { fallsBack } from "../arguments/fallback_policy.ts";
import { clientVariable, type Instead, runLocally } from "./local_fallback.ts";
import { ExitCode } from "../../proto/bazel/exit_codes.ts";
import type { Cookies } from "../../proto/bazel/handshake_files.ts";
import { changeRun, isForShutdown, readRunRequest, type RunRequest } from "../../proto/bazel/run_request.ts";
import { ResponseField } from "../../proto/bazel/run_response.ts";
import type { ServerArgs } from "../../proto/bazel/server_args.ts";
import type { AgentLink, Session } from "../session/session.ts";
import type { ReadyCommand, TwoMachines } from "./synced_commands.ts";
import { trace } from "../../proto/base/log.ts";
import { log } from "../log.ts";

/** The agent inserts the real server's cookie; ours is only for the client and the proxy. */
const NO_COOKIE = Buffer.alloc(0);

/**
 * How long `shutdown` looks for an agent when the known one is gone, in milliseconds: there may be no server any
 * longer, and a client that wants to start another one waits.
 */
const SHUTDOWN_PATIENCE_MS = 2_000;

/** A call that was already answered to the client, and that the real server has not received. */
interface Unsent {
  message: Uint8Array;
  /** The client's own headers. */
  headers: Headers;
}

/** A command in flight. */
interface Command {
  readonly id: string;
  /** Start, by performance.now(). */
  readonly began: number;
  readonly request: RunRequest;
  readonly cancelled: AbortController;
  /** Why it no longer waits for other commands. */
  gaveUp?: string;
  /** The id from the real server, once known, and the link to its agent. */
  remoteId?: string;
  link?: AgentLink;
  /** Calls about this command that the real server still has to get, by the path of their method. */
  readonly unsent: Map<string, Unsent>;
  isSendingOn: boolean;
  /** Shows an error to the user. */
  fail(text: string): void;
  /** Shows progress, unless the client wants only errors. */
  say(text: string): void;
}

/** Events of {@link Commands}. */
export interface CommandEvents {
  /** The number of commands in flight changed. */
  onActivity(running: number): void;
  /** The server was told to end, and the last response was sent: the proxy ends soon. */
  onTermination(): void;
}

/**
 * The remaining time in which a command may wait for others, in milliseconds; undefined if there is no limit, or no
 * wait.
 */
function lockTimeLeft({ request: { lockTimeoutMs }, began }: Command): number | undefined {
  if (lockTimeoutMs === 0 || lockTimeoutMs === Infinity) return undefined;
  return Math.max(1, Math.round(lockTimeoutMs - (performance.now() - began)));
}

/** @param why A clause. */
function clocksDiffer({ name, orchestratorTime }: AgentLink, why: string): string {
  const there = orchestratorTime ? `, and the orchestrator's ${orchestratorTime().toISOString()}` : "";
  return `The agent at ${name} is not trusted because the clocks differ: ${why}${there}; correct the clock that is wrong.`;
}

/** setTimeout fires at once for longer times. */
const MAX_TIMEOUT_MS = 2 ** 31 - 1;

/** Runs the client's commands at the session's agent. */
export class Commands {
  readonly #server: Pick<ServerArgs, "outputBase" | "workspace" | "argv">;
  readonly #cookies: Cookies;
  readonly #session: Pick<Session, "asks" | "connected" | "link" | "lost" | "isCurrent">;
  readonly #events: CommandEvents;
  /** Loaded for the first agent that shares no disk with this machine. */
  #twoMachines?: Promise<TwoMachines>;
  readonly #running = new Map<string, Command>();
  readonly #hints = new HomeHints();

  /** @param server The arguments of the server that this proxy replaces. */
  constructor(
    server: Pick<ServerArgs, "outputBase" | "workspace" | "argv">,
    cookies: Cookies,
    session: Pick<Session, "asks" | "connected" | "link" | "lost" | "isCurrent">,
    events: CommandEvents,
  ) {
    this.#server = server;
    this.#cookies = cookies;
    this.#session = session;
    this.#events = events;
  }

  /** One line per command in flight, for the log. */
  describe(): string[] {
    return [...this.#running.values()].map((c) =>
      `${c.request.command} (${c.request.client}), ${c.remoteId ? `command id ${c.remoteId}` : "not at the server yet"}`
    );
  }

  /** Cancels everything, as if the user had pressed Ctrl-C, with a message. @returns whether a command was running */
  cancelAll(why: string): boolean {
    for (const command of this.#running.values()) {
      command.fail(`rbs: ${why}\n`);
      command.cancelled.abort();
    }
    return this.#running.size > 0;
  }

  /** The oldest command before this one that is not at the server yet. Once there, the server's own lock decides. */
  #held({ id }: Command): Command | undefined {
    for (const command of this.#running.values()) {
      if (command.id === id) return undefined;
      if (command.remoteId === undefined) return command;
    }
  }

  /** A client has connected and will probably send a command: starts the work that can be done before. */
  expect(by: Http2Connection): void {
    if (this.#running.size === 0) {
      this.#twoMachines?.then((both) => both.expect(by), () => {/* the command says what is wrong */});
    }
  }

  /** Serves a Run call from its first response to its status. */
  async run(message: Buffer, headers: Headers, call: ServerCall): Promise<void> {
    const began = performance.now();
    const fail = (text: string) => void respond([ResponseField.stderr, text]);
    const request = readRunRequest(message);
    const command: Command = {
      id: randomUUID(),
      began,
      request,
      cancelled: new AbortController(),
      unsent: new Map(),
      isSendingOn: false,
      fail,
      say: (text) => {
        if (request.quiet) return;
        this.#hints.said(text);
        fail(text);
      },
    };
    const held = this.#held(command);
    const respond = (...fields: [number, string | Uint8Array | number | boolean][]) =>
      call.write(
        encodeFields(
          [[ResponseField.cookie, this.#cookies.responseCookie], ...fields, [ResponseField.commandId, command.id]]
            .sort((a, b) => (a[0] as number) - (b[0] as number)) as [number, string][],
        ),
      );
    const finish = (exitCode: number, text = "", ...more: [number, string | Uint8Array | number | boolean][]) => {
      if (text) respond([ResponseField.stderr, text]);
      respond([ResponseField.finished, true], [ResponseField.exitCode, exitCode], ...more);
      call.end();
    };
    respond();

    const { command: name, blockForLock } = command.request;
    /** Ends a command that the server has not ended. */
    const conclude = async (exitCode: number, text: string, fields: [number, Uint8Array | boolean][] = []) => {
      if (name !== "shutdown" || exitCode === ExitCode.INTERRUPTED) return finish(exitCode, text, ...fields);
      // In any case: a client that wants another server waits a minute for this one to end.
      finish(exitCode, text, [ResponseField.terminationExpected, true]);
      await call.closed();
      await this.#handBack(command);
      this.#events.onTermination();
    };
    if (held && !blockForLock) {
      // The real server would say this if the other command had reached it.
      return finish(ExitCode.LOCK_HELD, `Another command (${held.request.client}) is running. Exiting immediately.\n`);
    }
    if (name === "shutdown" && !this.#session.connected) {
      // There is no server to end, and none is started for that.
      finish(0, "", [ResponseField.terminationExpected, true]);
      await call.closed();
      await this.#handBack(command);
      return this.#events.onTermination();
    }

    this.#running.set(command.id, command);
    this.#events.onActivity(this.#running.size);
    const left = () => command.cancelled.abort();
    call.gone.addEventListener("abort", left);
    if (call.gone.aborted) left();
    const { lockTimeoutMs } = command.request;
    // After that the command waits at the server, for the remaining time.
    const enough = setTimeout(() => {
      const before = this.#held(command);
      if (!before || command.remoteId !== undefined || command.cancelled.signal.aborted) return;
      command.gaveUp = `Another command (${before.request.client}) is still running after ${lockTimeoutMs} ms.\n`;
      command.cancelled.abort();
    }, Math.min(lockTimeoutMs || MAX_TIMEOUT_MS, MAX_TIMEOUT_MS));
    try {
      const remote = await this.#runRemotely(command, message, headers, call);
      const outcome = typeof remote === "object" && command.gaveUp !== undefined
        ? { exitCode: ExitCode.LOCK_HELD, text: command.gaveUp, fields: undefined }
        : remote;
      if (outcome === "ended") call.end();
      else if (outcome === "terminated") {
        call.end();
        await call.closed();
        await this.#handBack(command);
        this.#events.onTermination();
      } else await conclude(outcome.exitCode, outcome.text, outcome.fields);
    } catch (e) {
      if (call.gone.aborted) return;
      if (e instanceof StatusError && name !== "shutdown") return call.end(e);
      const exitCode = e instanceof RbsError ? e.exitCode : ExitCode.INTERNAL_ERROR;
      await conclude(exitCode, `rbs: ${sentence(e)}\n`);
      if (!(e instanceof RbsError)) log(trace(e));
    } finally {
      clearTimeout(enough);
      // Also after a failure: the client continues, and ends this process by force.
      await this.#handBack(command);
      call.gone.removeEventListener("abort", left);
      // The owner may end the process once nothing runs; that must not cut off the end of a command.
      if (call.ended) await call.closed();
      this.#running.delete(command.id);
      this.#events.onActivity(this.#running.size);
    }
  }

  /**
   * Puts the agent's outputs aside before a client that ends this server starts another one. That may be a local
   * server, without RBS, which must not find them.
   */
  async #handBack({ request }: Command): Promise<void> {
    if (!isForShutdown(request)) return;
    const { outputBase } = this.#server;
    try {
      const { handBack } = await import("../outputs/server_state.ts");
      if (await handBack(outputBase)) log(`the agent's outputs were put aside in ${outputBase}/rbs`);
    } catch (e) {
      log(`the agent's outputs in ${outputBase} cannot be put aside (${sentence(e)})`);
    }
  }

  /** Finds the agent, sends the request there, and passes the responses on. */
  async #runRemotely(
    command: Command,
    message: Buffer,
    headers: Headers,
    call: ServerCall,
  ): Promise<"ended" | "terminated" | { exitCode: number; text: string; fields?: [number, Uint8Array | boolean][] }> {
    const { signal } = command.cancelled;
    const { say } = command;
    const isShutdown = command.request.command === "shutdown";
    // From this command's environment, not from that of the command that started the proxy.
    const local = fallsBack(clientVariable(command.request, "RBS_FALLBACK")) && !isShutdown;
    for (let attempt = 1;; attempt++) {
      let link: AgentLink;
      try {
        const enough = isShutdown ? AbortSignal.any([signal, AbortSignal.timeout(SHUTDOWN_PATIENCE_MS)]) : signal;
        link = await this.#session.link({
          signal: enough,
          say,
          impatient: local,
          queueMs: command.request.lockTimeoutMs - (performance.now() - command.began),
        });
      } catch (e) {
        if (signal.aborted) {
          return { exitCode: ExitCode.INTERRUPTED, text: "rbs: interrupted before the agent was ready.\n" };
        }
        if (!local) throw this.#withAddress(e, command);
        say(`rbs: ${sentence(e)}\n`);
        return this.#runLocally(command);
      }
      command.link = link;
      const { outcome, terminationExpected } = await this.#attempt(command, link, message, headers, call);
      if (outcome.kind === "stale" && outcome.generation && attempt < 5) {
        // A restarted agent, or another proxy's changes: the next attempt asks what the agent has.
        if (outcome.changed) say(`rbs: warning: ${escaped(outcome.why)} Your files are restored there.\n`);
        (await this.#twoMachines)?.forget();
        continue;
      }
      if (outcome.kind === "stale" && isForShutdown(command.request)) {
        // The client does not need the session: it is about to start another server.
        return { exitCode: 0, text: "" };
      }
      if (outcome.kind === "stale" && attempt < 5) {
        // Another proxy or jbazel took over the session, or the agent is gone: ask for one again. Nothing was run yet.
        this.#session.lost(link, outcome.why);
        command.link = undefined;
        command.remoteId = undefined;
        if (attempt > 1) await pause(100 * 2 ** attempt, signal);
        continue;
      }
      if (outcome.kind === "finished") return terminationExpected ? "terminated" : "ended";
      if (outcome.kind === "cancelled") {
        return { exitCode: ExitCode.INTERRUPTED, text: "" };
      }
      if (outcome.kind === "no server" || outcome.kind === "refused" || outcome.kind === "stale") {
        // There is no server to end.
        if (isShutdown && outcome.kind === "no server") return { exitCode: 0, text: "" };
        const why = outcome.kind === "refused"
          ? clocksDiffer(link, outcome.why)
          : outcome.kind === "stale" && outcome.changed
          ? `${
            escaped(outcome.why)
          } They did so each time after your files were restored: end the program that writes there.`
          : outcome.why;
        const text = `rbs: ${why}\n`;
        if (!local) return { exitCode: ExitCode.LOCAL_ENVIRONMENTAL_ERROR, text };
        say(text);
        return this.#runLocally(command);
      }
      this.#session.lost(link, outcome.why);
      return {
        exitCode: ExitCode.INTERNAL_ERROR,
        // Whoever ended the agent may also end the orchestrator.
        text: outcome.ended
          ? `rbs: ${outcome.why} Run it again; if the orchestrator has ended as well, start that first.\n`
          : `rbs: ${outcome.why} The next command starts a new one.\n`,
      };
    }
  }

  /** Explains a failure to get a session if this proxy uses another orchestrator than its user now wants. */
  #withAddress(e: unknown, { request }: Command): unknown {
    const wanted = clientVariable(request, "RBS_ORCHESTRATOR_ADDR") || DEFAULT_ORCHESTRATOR_ADDR;
    if (!(e instanceof RbsError) || this.#session.asks(wanted)) return e;
    return new RbsError(
      `${sentence(e)} This proxy was started for that address, and the command is for ${quoted(wanted)}: run ` +
        "`bazel shutdown`, then the command again.",
      { cause: e, culprit: e.culprit, exitCode: e.exitCode },
    );
  }

  #runLocally({ request }: Command): Instead {
    const instead = runLocally(request, this.#server.outputBase, this.#server.workspace);
    return request.quiet ? { ...instead, text: "" } : instead;
  }

  /** One attempt at one agent. */
  async #attempt(
    command: Command,
    link: AgentLink,
    message: Buffer,
    headers: Headers,
    call: ServerCall,
  ): Promise<{ outcome: RemoteOutcome; terminationExpected: boolean }> {
    const cookie = Buffer.from(this.#cookies.responseCookie), id = Buffer.from(command.id);
    const { workspace, outputBase } = this.#server;
    const filter = new AnswerFilter({ args: command.request.args, agent: link.name, workspace, outputBase });
    let terminationExpected = false;
    let ready: ReadyCommand | undefined;
    /** Printed at the command's end, since the report may be in the middle of a line. */
    let hint = "";
    const read = (response: Uint8Array, last: boolean) =>
      filter.read(response, last, (f: Field) => {
        switch (f.number) {
          case ResponseField.cookie:
            return cookie;
          case ResponseField.commandId:
            command.remoteId ??= textValue(response, f);
            if (command.unsent.size > 0) this.#sendOn(command);
            return id;
          case ResponseField.stderr:
            if (link.synced) hint += this.#hints.read(command.id, bytesValue(response, f));
            ready?.onPrinted(bytesValue(response, f), "stderr");
            break;
          case ResponseField.stdout:
            ready?.onPrinted(bytesValue(response, f), "stdout");
        }
      });
    if (link.synced) {
      try {
        ready = await (await this.#synced()).prepare(command.request.args, {
          link,
          by: call.connection,
          isCurrent: () => this.#session.isCurrent(link),
          signal: command.cancelled.signal,
          say: command.say,
        });
      } catch (e) {
        if (command.cancelled.signal.aborted) return { outcome: { kind: "cancelled" }, terminationExpected };
        if (!(e instanceof StatusError)) throw e;
        if (isClocks(e)) return { outcome: { kind: "refused", why: e.message }, terminationExpected };
        return { outcome: { kind: "stale", why: e.message }, terminationExpected };
      }
    }
    const outcome = await runRemotely({
      id: command.id,
      // Our cookie is only for the client and the proxy: the agent inserts the real server's.
      request: changeRun(message, { cookie: "", args: ready?.args, lockTimeoutMs: lockTimeLeft(command) }),
      link,
      headers,
      workspaceGeneration: ready?.generation,
      outputs: ready?.outputs,
      // A client that wants another server must not wait until this one's agent is back.
      graceMs: command.request.command === "shutdown" ? 0 : undefined,
      cancelled: command.cancelled.signal,
      gone: call.gone,
      isCurrent: () => this.#session.isCurrent(link),
      say: command.say,
      onResponse: (response, last) => {
        const answer = read(response, last);
        terminationExpected ||= answer.terminates;
        const pass = () => {
          filter.checkExecution(answer, ready?.isHome);
          if (last && hint !== "") command.say(hint);
          const drained = call.write(Buffer.concat(answer.pieces));
          // In the same write, since the client waits for both.
          if (last) call.end();
          return drained;
        };
        return last && ready ? ready.bringHome(answer.exitCode).then(pass) : pass();
      },
      onOutputs: (part) => ready?.onOutputs(part),
      onNamed: (part) => ready?.onNamed(part),
    }).finally(() => {
      ready?.[Symbol.dispose]();
      this.#hints.forget(command.id);
    });
    return { outcome, terminationExpected };
  }

  #synced(): Promise<TwoMachines> {
    return this.#twoMachines ??= import("./synced_commands.ts").then(({ TwoMachines }) => new TwoMachines(this.#server))
      .catch((e) => {
        // A transient failure, such as a full disk: the next command tries again.
        this.#twoMachines = undefined;
        throw e;
      });
  }

  /** Handles a Cancel request, also for an unknown id (the command has ended). */
  cancel(message: Uint8Array): void {
    let id = "";
    scanFields(message, (f) => {
      if (f.number === 2) id = textValue(message, f);
    });
    this.#running.get(id)?.cancelled.abort();
  }

  /**
   * Passes on a method that this version does not know, and that was already answered to the client. Cookie and command
   * ids are patched; everything else is unchanged. A call about a command that the real server does not know yet waits
   * for that; of several calls of one method, the last counts.
   */
  forward(path: string, message: Uint8Array, headers: Headers): void {
    let about: Command | undefined;
    scanFields(message, (f) => {
      if (f.wireType === 2) about ??= this.#running.get(textValue(message, f));
    });
    if (about) {
      about.unsent.set(path, { message, headers });
      this.#sendOn(about);
    } else if (this.#session.connected) {
      this.#session.link({ signal: new AbortController().signal, say: () => {} })
        .then((link) => this.#pass(path, { message, headers }, link)).catch(() => {/* no caller waits for it */});
    }
  }

  /** Sends waiting calls about a command one after the other, once it is at the real server. */
  #sendOn(command: Command): void {
    const { link, remoteId, unsent } = command;
    const [next] = unsent;
    if (!link || remoteId === undefined || !next || command.isSendingOn) return;
    const [path, call] = next;
    unsent.delete(path);
    command.isSendingOn = true;
    void this.#pass(path, call, link).finally(() => {
      command.isSendingOn = false;
      this.#sendOn(command);
    });
  }

  /** Passes a call on. Its response is dropped, so that the agent cannot make a client do something unknown. */
  async #pass(path: string, { message, headers }: Unsent, link: AgentLink): Promise<void> {
    const request = Buffer.concat(patchFields(message, (f) => {
      if (f.wireType !== 2) return;
      const text = textValue(message, f);
      if (f.number === 1 && text === this.#cookies.requestCookie) return NO_COOKIE;
      const remoteId = this.#running.get(text)?.remoteId;
      return remoteId === undefined ? undefined : Buffer.from(remoteId);
    }));
    const { code, message: why } = await link.connection.unary(path, request, { headers: link.headers(headers) });
    if (code !== Status.OK) log(`${path} was not passed on: ${why || `gRPC status ${code}`}`);
  }
}
