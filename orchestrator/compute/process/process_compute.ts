import {
  create,
  type DescMessage,
  fromJsonString,
  type MessageInitShape,
  type MessageShape,
  toJsonString,
} from "@bufbuild/protobuf";
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { join } from "node:path";
import { sentence } from "../../../proto/base/errors.ts";
import {
  type AgentListening,
  AgentListeningSchema,
  AgentSpecSchema,
} from "../../../proto/contract/gen/rbs/v1/agent_pb.ts";
import {
  type IssueCertificateRequest,
  IssueCertificateRequestSchema,
  type IssueCertificateResponse,
  IssueCertificateResponseSchema,
} from "../../../proto/contract/gen/rbs/v1/identity_pb.ts";
import { agentEnvironment, defaultOutputBase, environmentOf } from "./agent_environment.ts";
import { type AgentUser, makeStorage, removeStorage } from "./agent_user.ts";
import { agentLogFile, lastLine, lastWords, moveAgentLog, rotateAgentLog } from "./agent_log.ts";
import {
  type AgentFailure,
  type AgentSpec,
  AgentStartError,
  type ComputeService,
  type RunningAgent,
  type WholeSpec,
} from "../compute_service.ts";
import type { AgentEndpoint } from "../../store/agent_endpoint.ts";
import { classArchiveDirectory } from "./storage_path.ts";
import { OutputLines } from "./output_lines.ts";

/** Where agents on this machine listen, unless they are told otherwise. */
const LOOPBACK = "127.0.0.1";

/** Options of {@link ProcessCompute}. */
export interface ProcessComputeOptions {
  /** The agent program and its fixed arguments; the program's path is absolute. */
  readonly command: readonly [program: string, ...args: string[]];
  /** The environment from which agents inherit what they may. */
  readonly environment: Readonly<Record<string, string>>;
  /** The IP address on which agents listen. @default the loopback interface's */
  readonly listenAddress?: string;
  /** Whom agents run as. @default the orchestrator's own user */
  readonly user?: AgentUser;
  /** Whether agents may serve with all rights of root. @default false */
  readonly allowRootSessions?: boolean;
  /** How many class-data archives are kept for each user. @default none */
  readonly maxClassArchives?: number;
  /** See ComputeService. @default "" */
  readonly region?: string;
  /**
   * Gives an agent its first certificate, over the pipes to it; rejects if there is none for it.
   *
   * @default agents ask the orchestrator by a call
   */
  certify?(request: IssueCertificateRequest): Promise<MessageInitShape<typeof IssueCertificateResponseSchema>>;
}

/**
 * Agents as processes on this machine. Each is the leader of its own session, so it gets no terminal signals and lives
 * on when the orchestrator dies; its standard error goes to `agent.log` in its storage directory.
 */
export class ProcessCompute implements ComputeService {
  readonly name = "process";

  constructor(readonly options: ProcessComputeOptions) {}

  get region(): string {
    return this.options.region ?? "";
  }

  async start(spec: AgentSpec, signal: AbortSignal, onStep: (step: string) => void): Promise<RunningAgent> {
    const { child, log } = this.#spawn(spec);
    let served = spec;
    const ended = exitOf(child).then((how) => {
      const words = lastWords(log);
      closeSync(log);
      return endFailure(served, how, words);
    });
    // Both are told apart from the process's end by `ended`.
    child.stdin!.on("error", () => {});
    child.stdout!.on("error", () => {});
    const abandon = () => child.kill("SIGKILL");
    signal.addEventListener("abort", abandon);
    try {
      signal.throwIfAborted();
      // A process that could not be executed has no pid, and `ended` says why.
      if (child.pid === undefined) throw asError(await ended);
      onStep("agent process started");
      const { certify } = this.options;
      const whole = create(AgentSpecSchema, { ...this.complete(spec), enrolsByPipe: certify !== undefined });
      child.stdin!.write(toJsonString(AgentSpecSchema, whole) + "\n");
      const said = new AgentWords(child, spec, ended);
      if (certify) {
        const request = await said.next(IssueCertificateRequestSchema);
        const lost = ended.then((failure) => {
          throw asError(failure);
        });
        const answer = await Promise.race([certified(request, certify, spec), lost]);
        child.stdin!.write(toJsonString(IssueCertificateResponseSchema, answer) + "\n");
      }
      child.stdin!.end();
      const { port, commandPort } = await said.next(AgentListeningSchema, isWhole);
      return {
        handle: String(child.pid),
        endpoint: { host: this.options.listenAddress ?? LOOPBACK, port, commandPort },
        ended,
        assigned: (next) => {
          served = next;
          this.#hand(spec.storageDirectory, next);
        },
        terminate: () => void child.kill("SIGTERM"),
        kill: () => void child.kill("SIGKILL"),
      };
    } catch (e) {
      child.kill("SIGKILL");
      await ended;
      signal.throwIfAborted();
      throw e;
    } finally {
      signal.removeEventListener("abort", abandon);
    }
  }

  adopt(handle: string, endpoint: AgentEndpoint, storageDirectory: string): RunningAgent {
    const assigned = (next: AgentSpec) => this.#hand(storageDirectory, next);
    // The process id may be another process's by now, so it is never signalled: an agent that does not answer ends
    // by its lease.
    return { handle, endpoint, assigned, terminate() {}, kill() {} };
  }

  /** Gives an agent that was started ahead its session's storage. */
  #hand(from: string, to: AgentSpec): void {
    try {
      this.#makeStorage(to);
    } catch {
      return; // The agent says what is wrong with it.
    }
    moveAgentLog(from, to.storageDirectory);
  }

  inherit(from: string, to: string): string | undefined {
    // Without a namespace a server's state may name its own folder.
    if (this.options.environment.RBS_NAMESPACE === "none" || exists(to)) return undefined;
    try {
      Deno.renameSync(from, to);
      return undefined;
    } catch (e) {
      return e instanceof Deno.errors.NotFound ? undefined : sentence(e);
    }
  }

  complete(spec: AgentSpec): WholeSpec {
    return {
      ...spec,
      defaultOutputBase: defaultOutputBase(spec.repoHash, this.#environment),
      ...this.#keepsArchives(spec) && {
        classArchiveDirectory: classArchiveDirectory(spec.storageDirectory),
        maxClassArchives: this.options.maxClassArchives,
      },
    };
  }

  /** Only who has a user has archives. */
  #keepsArchives({ warm }: AgentSpec): boolean {
    return !warm && (this.options.maxClassArchives ?? 0) > 0;
  }

  /** Makes a session's folders, for the user that its agent runs as. Throws what the disk throws. */
  #makeStorage(spec: AgentSpec): void {
    makeStorage(spec.storageDirectory, this.options.user);
    if (!this.#keepsArchives(spec)) return;
    try {
      makeStorage(classArchiveDirectory(spec.storageDirectory), this.options.user);
    } catch {
      // The agent says that there are none.
    }
  }

  /** What agents inherit, and so what their sessions have. */
  get #environment(): Readonly<Record<string, string>> {
    const { environment, user } = this.options;
    return user ? environmentOf(user, environment) : environment;
  }

  async sweep(warmFolder: string, keep: () => Promise<ReadonlySet<string>>): Promise<void> {
    let left: string[] = [];
    try {
      left = Array.from(Deno.readDirSync(warmFolder), ({ name }) => join(warmFolder, name));
    } catch (e) {
      if (!(e instanceof Deno.errors.NotFound)) throw e;
    }
    const kept = await keep();
    const failed: unknown[] = [];
    for (const folder of left) {
      // One that cannot be removed keeps no other.
      if (!kept.has(folder)) await removeStorage(folder, this.options.user).catch((e) => failed.push(e));
    }
    if (failed.length > 0) throw failed[0];
  }

  /** @returns `log`: the agent's log, open for reading; the caller closes it */
  #spawn(spec: AgentSpec): { child: ChildProcess; log: number } {
    const [program, ...args] = this.options.command;
    let log: number | undefined;
    try {
      this.#makeStorage(spec);
      rotateAgentLog(spec.storageDirectory);
      // A new file, whatever somebody has put in its place.
      log = openSync(agentLogFile(spec.storageDirectory), "ax+", 0o600);
    } catch (cause) {
      throw new AgentStartError(
        `The session's storage ${spec.storageDirectory} cannot be written (${
          sentence(cause)
        }): free it, or start the ` +
          `orchestrator with another --storage-root.`,
        false,
        cause,
      );
    }
    try {
      const child = spawn(program, args, {
        cwd: spec.storageDirectory,
        detached: true,
        env: agentEnvironment(this.#environment, this.options),
        stdio: ["pipe", "pipe", log],
        // With them the kernel drops all groups of root's as well (std::process of Rust, which Deno uses).
        ...this.options.user && { uid: this.options.user.uid, gid: this.options.user.gid },
      });
      return { child, log };
    } catch (cause) {
      closeSync(log);
      throw asError(notExecuted(program, cause));
    }
  }
}

function exists(path: string): boolean {
  try {
    Deno.lstatSync(path);
    return true;
  } catch (e) {
    return !(e instanceof Deno.errors.NotFound);
  }
}

/** How a process ended. */
type Exit = { code: number | null; signal: string | null } | { error: unknown; program: string };

function exitOf(child: ChildProcess): Promise<Exit> {
  return new Promise((resolve) => {
    child.once("exit", (code, signal) => resolve({ code, signal }));
    child.once("error", (error) => {
      if (child.pid === undefined) resolve({ error, program: child.spawnfile });
    });
  });
}

function notExecuted(program: string, cause: unknown): AgentFailure {
  return {
    reason: `The agent program ${program} cannot be executed (${sentence(cause)}): build it, or name it with --agent.`,
    transient: false,
  };
}

/** @param words The last that it said. */
function endFailure(spec: AgentSpec, how: Exit, words: string): AgentFailure {
  if ("error" in how) return notExecuted(how.program, how.error);
  const log = agentLogFile(spec.storageDirectory);
  const agent = spec.warm ? "An agent that was started ahead" : `The agent of ${JSON.stringify(spec.sourcePath)}`;
  return {
    reason: `${agent} ended ` +
      `(${how.signal ? `signal ${how.signal}` : `exit code ${how.code}`})` +
      (words ? `: ${words.replace(/[.:\s]+$/, "")}; more stands in ${log}.` : `, and its log ${log} says nothing.`),
    // An agent that ends itself will most likely do so again; one that was killed need not.
    transient: how.signal !== null,
  };
}

function asError({ reason, transient }: AgentFailure): AgentStartError {
  return new AgentStartError(reason, transient);
}

/** What an agent says on its standard output: messages as lines of JSON. */
class AgentWords {
  readonly #child: ChildProcess;
  readonly #spec: AgentSpec;
  readonly #ended: Promise<AgentFailure>;
  readonly #lines: OutputLines;

  constructor(child: ChildProcess, spec: AgentSpec, ended: Promise<AgentFailure>) {
    this.#child = child;
    this.#spec = spec;
    this.#ended = ended;
    this.#lines = new OutputLines(child.stdout!);
  }

  /** The next message. Throws when the agent ends before, or says something else. @param check Throws for what is none. */
  async next<S extends DescMessage>(schema: S, check?: (message: MessageShape<S>) => void): Promise<MessageShape<S>> {
    const line = await Promise.race([this.#lines.next(), this.#ended]);
    // Without a line, the process has closed its output, so it has ended or is about to.
    if (line === undefined) throw asError(await endedOrKilled(this.#child, this.#ended));
    if (typeof line !== "string") throw asError(line);
    try {
      const message = fromJsonString(schema, line);
      check?.(message);
      return message;
    } catch (cause) {
      throw new AgentStartError(
        `${this.#child.spawnfile} is not an agent of this version of RBS (it says ${
          JSON.stringify(lastLine(line.replaceAll(this.#spec.bootstrapToken || "\n", "…")))
        } instead of an ${schema.name}): build it anew, or name another with --agent; its log is ${
          agentLogFile(this.#spec.storageDirectory)
        }.`,
        false,
        cause,
      );
    }
  }
}

function isWhole({ port, commandPort }: AgentListening): void {
  if (!(isPort(port) && isPort(commandPort))) throw new Error("a port is missing");
}

function isPort(port: number): boolean {
  return port > 0 && port < 65536;
}

/** Gives an agent its certificate. Throws an AgentStartError. */
async function certified(
  request: IssueCertificateRequest,
  certify: NonNullable<ProcessComputeOptions["certify"]>,
  spec: AgentSpec,
): Promise<IssueCertificateResponse> {
  try {
    return create(IssueCertificateResponseSchema, await certify(request));
  } catch (cause) {
    const agent = spec.warm ? "An agent that was started ahead" : `The agent of ${JSON.stringify(spec.sourcePath)}`;
    throw new AgentStartError(`${agent} gets no certificate (${sentence(cause)}); try again.`, true, cause);
  }
}

/** Waits a little for a process that has closed its output to end by itself, so that its exit code can be told. */
async function endedOrKilled(child: ChildProcess, ended: Promise<AgentFailure>): Promise<AgentFailure> {
  const timer = setTimeout(() => child.kill("SIGKILL"), 1000);
  try {
    return await ended;
  } finally {
    clearTimeout(timer);
  }
}
