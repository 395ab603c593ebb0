import { Agent, type AgentSpec, type SuperviseResponseSchema } from "../../proto/contract/gen/rbs/v1/agent_pb.ts";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { Code, RpcError } from "../../proto/transport/rpc/client.ts";
import { RpcServer } from "../../proto/transport/rpc/server.ts";
import type { Credentials } from "../../proto/identity/credentials.ts";
import { admit } from "../../proto/identity/access_rules.ts";
import { bearer } from "../../proto/base/state_directory.ts";
import type { BlankAgent } from "../compute/compute_service.ts";

type Response = MessageInitShape<typeof SuperviseResponseSchema>["message"];

/**
 * How a fake agent behaves, taken from its startup options `--fake=NAME`:
 *  - `slow`: it is ready only when it is told so;
 *  - `incomplete`: it is ready, but lacks the install base `/install`;
 *  - `deaf`: it does not end when it is asked to;
 *  - `vanish`: it is gone as soon as it is given this session, if it was started ahead;
 *  - `fail`, `fail-transient`: it says that it failed;
 *  - `exit`: it ends as soon as it is given this session, and says why in its log.
 */
export function behaviours(startupOptions: readonly string[]): Set<string> {
  const prefix = "--fake=";
  return new Set(startupOptions.filter((o) => o.startsWith(prefix)).map((o) => o.slice(prefix.length)));
}

/** An agent without a Bazel server: it serves Supervise, and does what a test tells it. */
export class FakeAgentServer implements AsyncDisposable {
  readonly #server: RpcServer;
  #behaviours = new Set<string>();
  readonly #streams = new Set<(message: Response | "break") => void>();
  readonly #ended = Promise.withResolvers<void>();
  #ready = false;
  #readySoon = false;
  /** What it serves, once it knows. */
  #spec?: AgentSpec;
  readonly #assigned = Promise.withResolvers<AgentSpec>();
  /** The newest term of a supervisor, and the end of the one that has it. */
  #term = 0;
  #replace?: () => void;
  #leaseTimer?: ReturnType<typeof setTimeout>;
  #runningCommands = 0;
  /** The epochs that it was told, in order. */
  readonly epochs: number[] = [];
  /** What the orchestrator granted running commands at the end. Milliseconds. */
  stopGraceMs?: number;
  /** Whether it was started before there was a session for it. */
  isStartedAhead = false;
  /** Ends it with exit code 3, and says that there is no JDK. */
  exit: () => void = () => {
    this.hasExited = true;
    this.close();
  };
  hasExited = false;
  /** While true, Supervise calls are accepted and never answered. */
  mute = false;

  /**
   * @param host The address to listen on.
   * @param credentials Its own; undefined: it speaks plain text, and lets in whoever has the token.
   */
  constructor(readonly blank: Pick<BlankAgent, "leaseSeconds">, host = "127.0.0.1", credentials?: Credentials) {
    this.#server = new RpcServer({
      address: `${host}:0`,
      credentials,
      authorize: (path, context) => {
        if (credentials) admit(path, context, this.#spec?.userId ?? "");
        const supervises = path.endsWith("/Supervise");
        if (!supervises && bearer(context.metadata("authorization")) !== this.#spec?.accessToken) {
          throw new RpcError(Code.UNAUTHENTICATED, "wrong token");
        }
        const epoch = context.metadata("rbs-epoch");
        if (epoch === undefined || path.endsWith("/Supervise")) return;
        if (Number(epoch) < Math.max(0, ...this.epochs)) throw new RpcError(Code.FAILED_PRECONDITION, "an older epoch");
        this.epochs.push(Number(epoch));
      },
    });
    const supervise = (requests: AsyncIterable<{ message: { case?: string; value?: unknown } }>) =>
      this.#supervise(requests);
    const execute = (requests: AsyncIterable<{ message: { case?: string; value?: unknown } }>) =>
      this.#execute(requests);
    this.#server.add(Agent, { supervise, executeCommand: execute } as never);
  }

  /** @returns the port of rbs.v1.Agent */
  listen(): Promise<number> {
    this.#runLease();
    return this.#server.listen();
  }

  /** Resolves when the agent was asked to end, or nobody held it for its lease. */
  get ended(): Promise<void> {
    return this.#ended.promise;
  }

  /** Whether it has no session yet. */
  get isBlank(): boolean {
    return this.#spec === undefined;
  }

  /** Whether it does not end when it is asked to. */
  get isDeaf(): boolean {
    return this.#behaviours.has("deaf");
  }

  /** Resolves with its session when it is given one. */
  get assigned(): Promise<AgentSpec> {
    return this.#assigned.promise;
  }

  /** What it serves. Throws when it has no session yet. */
  get spec(): AgentSpec {
    if (!this.#spec) throw new TypeError("the agent has no session");
    return this.#spec;
  }

  #assign(spec: AgentSpec): void {
    this.#spec = spec;
    this.#behaviours = behaviours(spec.startupOptions);
    if (this.#behaviours.has("vanish") && this.isStartedAhead) return this.close();
    if (this.#behaviours.has("exit")) return this.exit();
    this.step("starting Bazel server");
    const failed = this.#behaviours.has("fail-transient") || this.#behaviours.has("fail");
    if (failed) return this.#tell(this.#failure());
    if (!this.#behaviours.has("slow") || this.#readySoon) this.becomeReady();
    this.#assigned.resolve(spec);
  }

  #failure(): Response {
    const transient = this.#behaviours.has("fail-transient");
    return { case: "failed", value: { reason: "Bazel 9 is not here; install it.", transient } };
  }

  /** Is ready now, or as soon as it has a session. */
  becomeReady(): void {
    if (this.isBlank) return void (this.#readySoon = true);
    this.#ready = true;
    this.#tell(this.#readiness(["the sandbox does not work"]));
  }

  #readiness(warnings: string[]): Response {
    const missingInstallBase = this.#behaviours.has("incomplete") ? "/install" : "";
    return { case: "ready", value: { warnings, samePaths: true, missingInstallBase } };
  }

  step(description: string): void {
    this.#tell({ case: "step", value: description });
  }

  activity(runningCommands: number): void {
    this.#runningCommands = runningCommands;
    this.#tell({ case: "activity", value: { runningCommands } });
  }

  /** Ends all Supervise streams, as a broken network would. */
  breakStreams(): void {
    for (const stream of this.#streams) stream("break");
  }

  /** Is gone at once. */
  close(): void {
    clearTimeout(this.#leaseTimer);
    this.#server.close();
    this.#ended.resolve();
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.close();
    return Promise.resolve();
  }

  #runLease(): void {
    clearTimeout(this.#leaseTimer);
    this.#leaseTimer = setTimeout(() => this.#ended.resolve(), this.blank.leaseSeconds * 1000);
  }

  #tell(message: Response): void {
    for (const stream of this.#streams) stream(message);
  }

  async *#supervise(requests: AsyncIterable<{ message: { case?: string; value?: unknown } }>): AsyncIterable<unknown> {
    clearTimeout(this.#leaseTimer);
    const queue: (Response | "break" | "replaced")[] = [];
    let arrived = Promise.withResolvers<void>();
    const push = (message: Response | "break" | "replaced") => {
      queue.push(message);
      arrived.resolve();
    };
    this.#streams.add(push);
    const accepted = Promise.withResolvers<"holds" | "visits" | "refused">();
    const replaced = () => push("replaced");
    (async () => {
      try {
        for await (const { message } of requests) {
          if (queue.includes("replaced")) break;
          if (message.case === "setEpoch") {
            const { epoch, term } = message.value as { epoch: number; term: number };
            if (term > 0 && term < this.#term) return accepted.resolve("refused");
            this.epochs.push(epoch);
            if (term === 0) return accepted.resolve("visits");
            this.#term = term;
            if (this.#replace !== replaced) this.#replace?.();
            this.#replace = replaced;
            accepted.resolve("holds");
          }
          if (message.case === "assign" && this.isBlank) this.#assign(message.value as AgentSpec);
          if (message.case === "stop") {
            this.stopGraceMs = (message.value as { graceMs: number }).graceMs;
            if (!this.#behaviours.has("deaf")) this.#ended.resolve();
          }
        }
      } catch {
        // The orchestrator is gone.
      }
      accepted.resolve("visits");
      push("break");
    })();
    const replacedError = () => new RpcError(Code.ABORTED, "Another orchestrator supervises this agent now.");
    try {
      if (this.mute) await new Promise(() => {});
      const how = await accepted.promise;
      if (how === "refused") throw replacedError();
      if (how === "visits") return;
      if (this.isBlank) yield { message: { case: "waiting", value: {} } };
      else yield { message: { case: "step", value: "starting Bazel server" } };
      if (this.#runningCommands > 0) {
        yield { message: { case: "activity", value: { runningCommands: this.#runningCommands } } };
      }
      if (this.#ready) yield { message: this.#readiness([]) };
      for (;;) {
        await arrived.promise;
        arrived = Promise.withResolvers();
        for (const message of queue.splice(0)) {
          if (message === "break") return;
          if (message === "replaced") throw replacedError();
          yield { message };
          // As an agent that could not start: once the orchestrator has heard it.
          if (message?.case === "failed") setTimeout(() => this.#ended.resolve(), 5);
        }
      }
    } finally {
      if (this.#replace === replaced) this.#replace = undefined;
      this.#streams.delete(push);
      if (this.#streams.size === 0) this.#runLease();
    }
  }

  /** The test's own way in: the command's first argument says what to do, and its output is the answer. */
  async *#execute(requests: AsyncIterable<{ message: { case?: string; value?: unknown } }>): AsyncIterable<unknown> {
    for await (const { message } of requests) {
      const [command, argument] = (message.value as { args: string[] }).args;
      if (command === "ready") this.becomeReady();
      if (command === "step") this.step(argument);
      if (command === "activity") this.activity(Number(argument));
      if (command === "exit") {
        console.error("fake agent: told to exit");
        Deno.exit(Number(argument));
      }
      const answer = JSON.stringify({ pid: Deno.pid, epochs: this.epochs });
      yield { message: { case: "stdout", value: new TextEncoder().encode(answer) } };
      yield { message: { case: "exitCode", value: 0 } };
      return;
    }
  }
}
