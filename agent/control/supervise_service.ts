import type { MessageInitShape } from "@bufbuild/protobuf";
import { RbsError, sentence } from "../../proto/base/errors.ts";
import type { AgentSpec, SuperviseRequest, SuperviseResponseSchema } from "../../proto/contract/gen/rbs/v1/agent_pb.ts";
import type { CallContext } from "../../proto/transport/rpc/client.ts";
import { Code, RpcError } from "../../proto/transport/rpc/error.ts";
import type { Activity } from "./activity.ts";
import type { Gate } from "./gate.ts";
import type { Lease } from "./lease.ts";

/**
 * How long the end of a command may wait before it is told; its beginning does not, since idle sessions are ended. Of
 * commands that follow each other closely, so only the first is told of.
 */
const TELL_AFTER_MS = 50;

type Response = MessageInitShape<typeof SuperviseResponseSchema>;

/** How far the agent's start is. */
type State =
  | { is: "waiting" }
  | { is: "starting"; step: string | undefined }
  | { is: "ready"; warnings: readonly string[]; samePaths: boolean; missingInstallBase: string }
  | { is: "failed"; reason: string; transient: boolean };

/** Parts of a {@link Supervision}. */
export interface SupervisionOptions {
  gate: Gate;
  lease: Lease;
  activity: Activity;
  /** The supervisor says where it can be reached: "host:port", or empty. */
  onOrchestrator(address: string): void;
  /** The supervisor wants the agent to end: running commands get `graceMs`. */
  onStop(graceMs: number): void;
}

/** The orchestrator's side door: tells what becomes of the agent, takes epochs and the order to stop. */
export class Supervision {
  readonly #options: SupervisionOptions;
  #state: State = { is: "starting", step: undefined };
  /** The newest that has held the agent. */
  #term = 0;
  #replace: (() => void) | undefined;
  #notify: (() => void) | undefined;
  readonly #failureTaken = Promise.withResolvers<void>();
  #assigned?: (spec: AgentSpec) => void;

  constructor(options: SupervisionOptions) {
    this.#options = options;
  }

  /** Resolves when a supervisor was told that the start failed, and has hung up or had the time to. */
  get failureTaken(): Promise<void> {
    return this.#failureTaken.promise;
  }

  /** Tells that the agent has no session yet. Resolves with the one that it gets; nobody else's is taken then. */
  async waiting(): Promise<AgentSpec> {
    const assigned = new Promise<AgentSpec>((resolve) => this.#assigned = resolve);
    this.#become({ is: "waiting" });
    const spec = await assigned;
    this.#assigned = undefined;
    this.#become({ is: "starting", step: undefined });
    return spec;
  }

  /** Tells about a step of the start. Steps of later restarts are nobody's business. */
  step(step: string): void {
    if (this.#state.is === "starting") this.#become({ is: "starting", step });
  }

  /** Tells that the session can be used. @param missingInstallBase What must be sent before its server can start. */
  ready(warnings: readonly string[], samePaths: boolean, missingInstallBase = ""): void {
    this.#become({ is: "ready", warnings, samePaths, missingInstallBase });
  }

  /** Tells that the start failed. */
  failed(error: unknown): void {
    const transient = !(error instanceof RbsError) || error.culprit === "infrastructure";
    this.#become({ is: "failed", reason: sentence(error), transient });
  }

  /** The Supervise method. */
  async *supervise(requests: AsyncIterable<SuperviseRequest>, context: CallContext): AsyncIterable<Response> {
    let wake = () => {};
    let over: RpcError | "ended" | undefined;
    const accepted = Promise.withResolvers<boolean>();
    const end = (how: RpcError | "ended") => {
      over ??= how;
      accepted.resolve(false);
      wake();
    };
    const replaced = () => end(new RpcError(Code.ABORTED, "Another orchestrator supervises this agent now."));
    context.signal.addEventListener("abort", () => end("ended"));
    if (context.signal.aborted) end("ended");
    this.#obey(requests, {
      isOver: () => over !== undefined,
      accept: () => {
        if (this.#replace !== replaced) this.#replace?.();
        this.#replace = replaced;
        accepted.resolve(true);
      },
      refuse: replaced,
    }).then(() => end("ended"), () => end("ended"));
    if (!await accepted.promise) {
      if (over && over !== "ended") throw over;
      return;
    }
    using _hold = this.#options.lease.hold();
    const notify = () => wake();
    this.#notify = notify;
    const { activity } = this.#options;
    // What runs already is told at once.
    let due = true;
    let timer: ReturnType<typeof setTimeout> | undefined;
    let toldRunning = 0, toldBegun = activity.begun;
    const tell = () => {
      clearTimeout(timer);
      timer = undefined;
      due = true;
      wake();
    };
    using _changes = activity.onChange((running) => {
      if (running > 0 && toldRunning === 0) tell();
      else timer ??= setTimeout(tell, TELL_AFTER_MS);
    });
    try {
      let toldState: State | undefined;
      while (!over) {
        const changed = new Promise<void>((resolve) => wake = resolve);
        if (toldState !== this.#state) {
          toldState = this.#state;
          const response = stateResponse(toldState);
          if (response) yield response;
          if (toldState.is === "failed") setTimeout(this.#failureTaken.resolve, 2_000);
        } else if (due && (toldRunning !== activity.running || toldBegun !== activity.begun)) {
          // A command that has ended meanwhile is told as well: the session was in use.
          toldRunning = toldBegun === activity.begun ? activity.running : Math.max(activity.running, 1);
          toldBegun = activity.begun;
          yield { message: { case: "activity", value: { runningCommands: toldRunning } } };
        } else {
          due = false;
          await changed;
        }
      }
      if (over !== "ended") throw over;
    } finally {
      clearTimeout(timer);
      if (this.#state.is === "failed") this.#failureTaken.resolve();
      if (this.#replace === replaced) this.#replace = undefined;
      if (this.#notify === notify) this.#notify = undefined;
    }
  }

  /** Does what a supervisor asks for, from its first epoch on and until it is replaced. Ends when there is no more. */
  async #obey(
    requests: AsyncIterable<SuperviseRequest>,
    { isOver, accept, refuse }: { isOver(): boolean; accept(): void; refuse(): void },
  ): Promise<void> {
    let holds = false;
    for await (const { message } of requests) {
      if (isOver()) return;
      if (message.case === "setEpoch") {
        const { epoch, term, orchestratorAddress } = message.value;
        if (term > 0 && term < this.#term) return refuse();
        this.#options.gate.raise(epoch);
        if (term === 0) return;
        this.#options.onOrchestrator(orchestratorAddress);
        this.#term = term;
        holds = true;
        accept();
      }
      if (!holds) continue;
      if (message.case === "stop") this.#options.onStop(message.value.graceMs);
      if (message.case === "assign") this.#assigned?.(message.value);
    }
  }

  #become(state: State): void {
    this.#state = state;
    this.#notify?.();
  }
}

function stateResponse(state: State): Response | undefined {
  switch (state.is) {
    case "waiting":
      return { message: { case: "waiting", value: {} } };
    case "starting":
      return state.step === undefined ? undefined : { message: { case: "step", value: state.step } };
    case "ready": {
      const { warnings, samePaths, missingInstallBase } = state;
      return { message: { case: "ready", value: { warnings: [...warnings], samePaths, missingInstallBase } } };
    }
    case "failed":
      return { message: { case: "failed", value: { reason: state.reason, transient: state.transient } } };
  }
}
