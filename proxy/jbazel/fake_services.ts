/** Test doubles of the orchestrator and the agent, behind real sockets. */
import { mkdirSync } from "node:fs";
import {
  Agent,
  type ExecuteCommandRequest,
  type ExecuteCommandResponseSchema,
} from "../../proto/contract/gen/rbs/v1/agent_pb.ts";
import type { MessageInitShape } from "@bufbuild/protobuf";
import {
  type GetServerRequest,
  type GetServerStreamResponseSchema,
  Orchestrator,
  type SessionSchema,
  SessionStatus,
} from "../../proto/contract/gen/rbs/v1/orchestrator_pb.ts";
import { Identity } from "../../proto/contract/gen/rbs/v1/identity_pb.ts";
import type { Credentials } from "../../proto/identity/credentials.ts";
import { actingUser, admit } from "../../proto/identity/access_rules.ts";
import { bearer } from "../../proto/base/state_directory.ts";
import { giveUserKeys, orchestratorCredentials, testAuthority } from "../../proto/testing/keys.ts";
import { type CallContext, Code, RpcError } from "../../proto/transport/rpc/client.ts";
import { RpcServer } from "../../proto/transport/rpc/server.ts";
import { type CommandIo } from "./remote_command.ts";
import type { SignalSource } from "./signals.ts";
import { tempDirSync } from "../../tests/support/temp_dir.ts";

export type Responses = AsyncIterable<MessageInitShape<typeof ExecuteCommandResponseSchema>>;
export type Behaviour = (requests: AsyncIterator<ExecuteCommandRequest>, context: CallContext) => Responses;

/** A temporary directory with a workspace and a state directory; removed with the scope. */
export class TestPlace implements Disposable {
  readonly #temp = tempDirSync("jbazel test ");
  readonly root = this.#temp.path;
  readonly workspace = `${this.root}/ws`;
  readonly stateDirectory = `${this.root}/state`;

  constructor() {
    mkdirSync(`${this.workspace}/pkg`, { recursive: true });
    Deno.writeTextFileSync(`${this.workspace}/WORKSPACE`, "");
    mkdirSync(this.stateDirectory, { mode: 0o700 });
  }

  [Symbol.dispose](): void {
    this.#temp[Symbol.dispose]();
  }
}

/** The agent id in its certificate. */
const AGENT_ID = "a".repeat(32);

/** An agent that handles commands by `behaviour`. */
export class FakeAgent implements AsyncDisposable {
  readonly server: RpcServer;
  /** Calls with a lower epoch are refused. */
  epoch = 1;
  calls = 0;

  private constructor(behaviour: Behaviour, credentials: Credentials) {
    const authorize = (path: string, context: CallContext) => {
      this.calls++;
      admit(path, context, "ada");
      if (bearer(context.metadata("authorization")) !== "agent-token") {
        throw new RpcError(Code.UNAUTHENTICATED, "wrong token");
      }
      if (Number(context.metadata("rbs-epoch")) < this.epoch) {
        throw new RpcError(Code.FAILED_PRECONDITION, "the session was taken over");
      }
    };
    this.server = new RpcServer({ address: "127.0.0.1:0", credentials, authorize }).add(Agent, {
      executeCommand: (requests, context) => behaviour(requests[Symbol.asyncIterator](), context),
      // deno-lint-ignore require-yield
      supervise: async function* () {
        throw new RpcError(Code.UNIMPLEMENTED, "not in this test");
      },
    });
  }

  static async start(behaviour: Behaviour): Promise<FakeAgent> {
    const authority = await testAuthority();
    const agent = new FakeAgent(behaviour, await authority.identify({ kind: "agent", agentId: AGENT_ID }));
    await agent.server.listen();
    return agent;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.server[Symbol.asyncDispose]();
  }
}

/** An orchestrator whose sessions are all served by one agent. Its user is "ada". */
export class FakeOrchestrator implements AsyncDisposable {
  readonly requests: GetServerRequest[] = [];
  readonly heartbeats: string[] = [];
  sessions: MessageInitShape<typeof SessionSchema>[] = [];
  warnings: string[] = [];
  /** Whether its agents have only copies of workspaces. */
  synced = false;
  /** Runs before the answer to GetServerStream. */
  before: (
    request: GetServerRequest,
    context: CallContext,
  ) => AsyncIterable<MessageInitShape<typeof GetServerStreamResponseSchema>> = async function* () {};
  /** Runs before the answer to ListSessions. */
  beforeList: () => Promise<void> = () => Promise.resolve();
  /** Runs before the answer to a heartbeat. */
  beforeHeartbeat: () => Promise<void> = () => Promise.resolve();
  epoch = 1;
  agentPort: number;
  readonly #server: RpcServer;

  private constructor(credentials: Credentials, agentPort: number) {
    this.agentPort = agentPort;
    const session = (
      r: { userId: string; repoHash: string; serverId: string; sessionId: string; sourcePath: string },
    ) => ({
      userId: r.userId,
      repoHash: r.repoHash,
      serverId: r.serverId,
      sessionId: r.sessionId,
      sourcePath: r.sourcePath,
      status: SessionStatus.READY,
      epoch: this.epoch,
      agent: { host: "127.0.0.1", port: this.agentPort, commandPort: 1, agentId: AGENT_ID },
    });
    // deno-lint-ignore no-this-alias
    const self = this;
    const options = { address: "127.0.0.1:0", credentials, admitStrangers: true, authorize: admit };
    this.#server = new RpcServer(options).add(Orchestrator, {
      getServer: () => Promise.reject(new RpcError(Code.UNIMPLEMENTED, "not in this test")),
      getServerStream: async function* (request, context) {
        self.requests.push(request);
        request = { ...request, userId: actingUser(context, request.userId) };
        yield* self.before(request, context);
        const response = {
          session: session(request),
          accessToken: "agent-token",
          warnings: self.warnings,
          samePaths: true,
        };
        yield { event: { case: "server", value: response } };
      },
      heartbeat: async (request) => {
        await this.beforeHeartbeat();
        this.heartbeats.push(request.sessionId);
        return { intervalSeconds: 30 };
      },
      releaseServer: () => Promise.resolve({ released: false }),
      listSessions: async (request, context) => {
        await this.beforeList();
        const user = actingUser(context, request.userId);
        return { sessions: this.sessions.filter((s) => s.userId === user), synced: this.synced };
      },
    }).add(Identity, {
      issueCertificate: () => Promise.reject(new RpcError(Code.UNIMPLEMENTED, "not in this test")),
      renewCertificate: async ({ certificateRequest }, { identity }) => {
        const authority = await testAuthority();
        return {
          certificate: await authority.certifyRequest(certificateRequest, identity!, { names: [] }),
          authorities: authority.certificate,
        };
      },
    });
  }

  static async start(place: TestPlace, agentPort: number): Promise<FakeOrchestrator> {
    await giveUserKeys(place.stateDirectory, "ada");
    const orchestrator = new FakeOrchestrator(await orchestratorCredentials(), agentPort);
    await orchestrator.#server.listen();
    return orchestrator;
  }

  get address(): string {
    return `127.0.0.1:${this.#server.port}`;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#server[Symbol.asyncDispose]();
  }
}

/** Signals that a test sends. */
export class TestSignals implements SignalSource {
  readonly #listeners = new Map<string, Set<() => void>>();

  on(signal: Deno.Signal, listener: () => void): () => void {
    const set = this.#listeners.get(signal) ?? new Set();
    this.#listeners.set(signal, set.add(listener));
    return () => set.delete(listener);
  }

  /** @returns how many listeners there were */
  send(signal: Deno.Signal): number {
    const listeners = [...this.#listeners.get(signal) ?? []];
    for (const listener of listeners) listener();
    return listeners.length;
  }
}

/** A command's surroundings in a test. */
export class TestIo implements CommandIo {
  readonly signals = new TestSignals();
  readonly #input = new TransformStream<Uint8Array, Uint8Array>();
  readonly stdin = this.#input.readable;
  readonly typing = this.#input.writable.getWriter();
  out: Uint8Array[] = [];
  err: Uint8Array[] = [];
  terminal: CommandIo["terminal"];
  /** Called with each chunk of either output. */
  onOutput: (text: string) => void | Promise<void> = () => {};

  async writeStdout(bytes: Uint8Array): Promise<void> {
    this.out.push(bytes);
    await this.onOutput(new TextDecoder().decode(bytes));
  }
  async writeStderr(bytes: Uint8Array): Promise<void> {
    this.err.push(bytes);
    await this.onOutput(new TextDecoder().decode(bytes));
  }
  text(which: "out" | "err"): string {
    return new TextDecoder().decode(concat(this[which]));
  }
}

export function concat(chunks: Uint8Array[]): Uint8Array {
  const all = new Uint8Array(chunks.reduce((n, c) => n + c.length, 0));
  let at = 0;
  for (const c of chunks) all.set(c, at), at += c.length;
  return all;
}

export const text = (s: string): Uint8Array => new TextEncoder().encode(s);

/** The next request, as a short string. */
export async function next(requests: AsyncIterator<ExecuteCommandRequest>): Promise<string> {
  const { value, done } = await requests.next();
  if (done) return "end";
  const { message } = value as ExecuteCommandRequest;
  switch (message.case) {
    case "stdin":
      return `stdin ${JSON.stringify(new TextDecoder().decode(message.value))}`;
    case "signal":
      return `signal ${message.value}`;
    case "windowSize":
      return `window ${message.value.columns}x${message.value.rows}`;
    default:
      return String(message.case);
  }
}
