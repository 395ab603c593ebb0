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
import { Readable } from "node:stream";
import { sentence } from "../../../proto/base/errors.ts";
import { LineReader } from "../../../proto/base/line_reader.ts";
import {
  type AgentListening,
  AgentListeningSchema,
  BlankAgentSchema,
} from "../../../proto/contract/gen/rbs/v1/agent_pb.ts";
import {
  type IssueCertificateRequest,
  IssueCertificateRequestSchema,
  type IssueCertificateResponse,
  IssueCertificateResponseSchema,
} from "../../../proto/contract/gen/rbs/v1/identity_pb.ts";
import { agentEnvironment, defaultOutputBase, environmentOf } from "./agent_environment.ts";
import { AdoptedProcess } from "./adopted_process.ts";
import { aliveFile, foldersOfGone, makeAgentFolder, newAgentFolder, removeAgentFolder } from "./agent_folder.ts";
import { type AgentUser, makeStorage } from "./agent_user.ts";
import { agentLogFile, lastLine, lastWords, moveAgentLog } from "./agent_log.ts";
import {
  type AgentFailure,
  type AgentSpec,
  AgentStartError,
  type BlankAgent,
  type ComputeService,
  type RunningAgent,
  type StartFor,
  type StartOptions,
  type WholeSpec,
} from "../compute_service.ts";
import type { AgentEndpoint } from "../../store/agent_endpoint.ts";
import type { SessionKey } from "../../store/session.ts";
import { classArchiveDirectory, storageDirectory } from "./storage_path.ts";

/** Where agents on this machine listen, unless they are told otherwise. */
const LOOPBACK = "127.0.0.1";
/** A longer line is no agent's. */
const MAX_LINE_BYTES = 4096;

/** Options of {@link ProcessCompute}. */
export interface ProcessComputeOptions {
  /** The agent program and its fixed arguments; the program's path is absolute. */
  readonly command: readonly [program: string, ...args: string[]];
  /** Where sessions have their storage, and agents their folders. Absolute. */
  readonly storageRoot: string;
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
 * on when the orchestrator dies; its standard error goes to `agent.log` in its own folder, and in its session's storage once
 * it has one.
 */
export class ProcessCompute implements ComputeService {
  readonly name = "process";

  constructor(readonly options: ProcessComputeOptions) {}

  get region(): string {
    return this.options.region ?? "";
  }

  async start(blank: BlankAgent, { signal, onStep, session }: StartOptions): Promise<RunningAgent> {
    const folder = newAgentFolder(this.options.storageRoot, blank.agentId);
    /** Whom the agent serves, or will. */
    const served: Served = { session, folder, logFolder: folder };
    const { child, log } = this.#spawn(folder, session);
    const ended = exitOf(child).then((how) => {
      const words = lastWords(log);
      closeSync(log);
      this.#clearUp(served);
      return endFailure(served, how, words);
    });
    // Both are told apart from the process's end by `ended`.
    child.stdin!.on("error", () => {});
    child.stdout!.on("error", () => {});
    const abandon = () => child.kill("SIGKILL");
    signal.addEventListener("abort", abandon);
    let said: AgentWords | undefined;
    try {
      signal.throwIfAborted();
      // A process that could not be executed has no pid, and `ended` says why.
      if (child.pid === undefined) throw asError(await ended);
      onStep("agent process started");
      const { certify } = this.options;
      const { agentId, leaseSeconds, trust } = blank;
      const whole = create(BlankAgentSchema, {
        ...{ agentId, leaseSeconds, folder, aliveFile: aliveFile(folder) },
        ...trust,
        enrolsByPipe: certify !== undefined,
      });
      child.stdin!.write(toJsonString(BlankAgentSchema, whole) + "\n");
      said = new AgentWords(child, blank, served, ended);
      if (certify) {
        const request = await said.next(IssueCertificateRequestSchema);
        const lost = ended.then((failure) => {
          throw asError(failure);
        });
        const answer = await Promise.race([certified(request, certify, served), lost]);
        child.stdin!.write(toJsonString(IssueCertificateResponseSchema, answer) + "\n");
      }
      child.stdin!.end();
      const { port, commandPort } = await said.next(AgentListeningSchema, isWhole);
      return this.#running({
        handle: `${child.pid} ${folder}`,
        endpoint: { host: this.options.listenAddress ?? LOOPBACK, port, commandPort },
        served,
        ended,
        signal: (name) => void child.kill(`SIG${name}`),
        letGo() {},
      });
    } catch (e) {
      child.kill("SIGKILL");
      await ended;
      signal.throwIfAborted();
      throw e;
    } finally {
      signal.removeEventListener("abort", abandon);
      said?.drop();
    }
  }

  adopt(handle: string, endpoint: AgentEndpoint, session?: StartFor): RunningAgent {
    const [, pid, folder = ""] = /^(\d+) (.+)$/s.exec(handle) ?? [];
    const served: Served = { session, folder, logFolder: session ? this.#storage(session) : folder };
    if (pid === undefined) {
      // Of an orchestrator from before there were such files. Whether the process is still the agent nobody knows, so it is
      // left to its lease, and what comes after waits for the storage's lock.
      const left = Promise.withResolvers<AgentFailure>();
      const leave = () => left.resolve(adoptedEnded(served));
      return this.#running({ handle, endpoint, served, ended: left.promise, signal: leave, letGo() {} });
    }
    const process = new AdoptedProcess(Number(pid), folder, this.options.user);
    return this.#running({
      ...{ handle, endpoint, served },
      ended: process.ended.then(() => {
        this.#clearUp(served);
        return adoptedEnded(served);
      }),
      signal: (name) => process.signal(name),
      letGo: () => process.letGo(),
    });
  }

  #running({ handle, endpoint, served, ended, signal, letGo }: {
    handle: string;
    endpoint: AgentEndpoint;
    served: Served;
    ended: Promise<AgentFailure>;
    signal(name: "TERM" | "KILL"): void;
    letGo(): void;
  }): RunningAgent {
    return {
      ...{ handle, endpoint, ended, letGo },
      get log() {
        return `in ${agentLogFile(served.logFolder)}`;
      },
      assign: (spec) => {
        const storage = this.#storage(spec);
        this.#hand(served.folder, storage);
        Object.assign(served, { session: spec, logFolder: storage });
        return this.#complete(spec, storage);
      },
      terminate: () => signal("TERM"),
      kill: () => signal("KILL"),
    };
  }

  /** After an agent's end. The log of one that has not got as far as a session is kept until the sweep. */
  #clearUp(served: Served): void {
    if (!served.session) return;
    served.logFolder = this.#storage(served.session);
    this.#hand(served.folder, served.logFolder);
    void removeAgentFolder(served.folder, this.options.user).catch(() => {/* The sweep tries again. */});
  }

  #storage(session: SessionKey): string {
    return storageDirectory(this.options.storageRoot, session);
  }

  /** Makes a session's storage, and gives it the log of its agent. */
  #hand(from: string, to: string): void {
    try {
      this.#makeStorage(to);
    } catch {
      return; // The agent says what is wrong with it.
    }
    if (from !== "") moveAgentLog(from, to);
  }

  inherit(from: SessionKey, to: SessionKey): string | undefined {
    // Without a namespace a server's state may name its own folder.
    if (this.options.environment.RBS_NAMESPACE === "none" || exists(this.#storage(to))) return undefined;
    try {
      Deno.renameSync(this.#storage(from), this.#storage(to));
      return undefined;
    } catch (e) {
      return e instanceof Deno.errors.NotFound ? undefined : sentence(e);
    }
  }

  #complete(spec: AgentSpec, storageDirectory: string): WholeSpec {
    return {
      ...spec,
      storageDirectory,
      defaultOutputBase: defaultOutputBase(spec.repoHash, this.#environment),
      ...this.#keepsArchives && {
        classArchiveDirectory: classArchiveDirectory(storageDirectory),
        maxClassArchives: this.options.maxClassArchives,
      },
    };
  }

  get #keepsArchives(): boolean {
    return (this.options.maxClassArchives ?? 0) > 0;
  }

  /** Makes a session's directories, for the user that its agent runs as. Throws what the disk throws. */
  #makeStorage(storageDirectory: string): void {
    makeStorage(storageDirectory, this.options.user);
    if (!this.#keepsArchives) return;
    try {
      makeStorage(classArchiveDirectory(storageDirectory), this.options.user);
    } catch {
      // The agent says that there are none.
    }
  }

  /** What agents inherit, and so what their sessions have. */
  get #environment(): Readonly<Record<string, string>> {
    const { environment, user } = this.options;
    return user ? environmentOf(user, environment) : environment;
  }

  async sweep(): Promise<void> {
    const { storageRoot, user } = this.options;
    const failed: unknown[] = [];
    for (const folder of foldersOfGone(storageRoot)) {
      // One that cannot be removed keeps no other.
      await removeAgentFolder(folder, user).catch((e) => failed.push(e));
    }
    if (failed.length > 0) throw failed[0];
  }

  /** @returns `log`: the agent's log, open for reading; the caller closes it */
  #spawn(folder: string, session: StartFor | undefined): { child: ChildProcess; log: number } {
    const [program, ...args] = this.options.command;
    const { user } = this.options;
    let log: number | undefined;
    /** What cannot be made. */
    let place = folder;
    try {
      makeAgentFolder(folder, user);
      // A new file, whatever somebody has put in its place.
      log = openSync(agentLogFile(folder), "ax+", 0o600);
      // While nothing runs yet: a session whose storage is lost needs no agent.
      if (session) this.#makeStorage(place = this.#storage(session));
    } catch (cause) {
      if (log !== undefined) closeSync(log);
      throw new AgentStartError(
        `${session ? "The session's" : "An agent's"} storage ${place} cannot be written (${
          sentence(cause)
        }): free it, ` +
          `or start the orchestrator with another --storage-root.`,
        false,
        cause,
      );
    }
    try {
      const child = spawn(program, args, {
        cwd: folder,
        detached: true,
        env: agentEnvironment(this.#environment, this.options),
        stdio: ["pipe", "pipe", log],
        // With them the kernel drops all groups of root's as well (std::process of Rust, which Deno uses).
        ...user && { uid: user.uid, gid: user.gid },
      });
      return { child, log };
    } catch (cause) {
      closeSync(log);
      throw asError(notExecuted(program, cause));
    }
  }
}

/** What an agent does, for messages about it. */
interface Served {
  /** Undefined: it was started ahead, for any session. */
  session?: StartFor;
  /** Its own folder, see agent_folder.ts. */
  folder: string;
  /** Where its log is. */
  logFolder: string;
}

function nameOf({ session }: Served): string {
  return session ? `The agent of ${JSON.stringify(session.sourcePath)}` : "An agent that was started ahead";
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
function endFailure(served: Served, how: Exit, words: string): AgentFailure {
  if ("error" in how) return notExecuted(how.program, how.error);
  const log = agentLogFile(served.logFolder);
  return {
    reason: `${nameOf(served)} ended ` +
      `(${how.signal ? `signal ${how.signal}` : `exit code ${how.code}`})` +
      (words ? `: ${words.replace(/[.:\s]+$/, "")}; more stands in ${log}.` : `, and its log ${log} says nothing.`),
    // An agent that ends itself will most likely do so again; one that was killed need not.
    transient: how.signal !== null,
  };
}

/** Of the end of a process that is no child of ours nothing more is known. */
function adoptedEnded(served: Served): AgentFailure {
  return { reason: `${nameOf(served)} ended; its log is in ${agentLogFile(served.logFolder)}.`, transient: true };
}

function asError({ reason, transient }: AgentFailure): AgentStartError {
  return new AgentStartError(reason, transient);
}

/** What an agent says on its standard output: messages as lines of JSON. */
class AgentWords {
  readonly #child: ChildProcess;
  readonly #blank: BlankAgent;
  readonly #served: Served;
  readonly #ended: Promise<AgentFailure>;
  readonly #lines: LineReader;

  constructor(child: ChildProcess, blank: BlankAgent, served: Served, ended: Promise<AgentFailure>) {
    this.#child = child;
    this.#blank = blank;
    this.#served = served;
    this.#ended = ended;
    this.#lines = new LineReader(Readable.toWeb(child.stdout!) as ReadableStream<Uint8Array>, MAX_LINE_BYTES);
  }

  /** Reads what follows and drops it, so that the agent never waits for a reader. */
  drop(): void {
    (async () => {
      while (await this.#lines.next() !== undefined);
    })();
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
          JSON.stringify(lastLine(line.replaceAll(this.#blank.trust?.bootstrapToken || "\n", "…")))
        } instead of an ${schema.name}): build it anew, or name another with --agent; its log is ${
          agentLogFile(this.#served.logFolder)
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
  served: Served,
): Promise<IssueCertificateResponse> {
  try {
    return create(IssueCertificateResponseSchema, await certify(request));
  } catch (cause) {
    throw new AgentStartError(`${nameOf(served)} gets no certificate (${sentence(cause)}); try again.`, true, cause);
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
