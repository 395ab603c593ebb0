/**
 * The agent: one session's mount namespace and its real Bazel server. The orchestrator starts it blank, with a BlankAgent
 * on standard input, reads from standard output where it listens, and assigns it a session by Agent.Supervise.
 */
import { create, toJsonString } from "@bufbuild/protobuf";
import { formatHostPort } from "../proto/base/host_port.ts";
import { pause } from "../proto/base/timers.ts";
import { readClientShell } from "../proto/bazel/client_shell.ts";
import { RbsError, sentence } from "../proto/base/errors.ts";
import type { Start } from "../proto/contract/gen/rbs/v1/command_pb.ts";
import { Agent, AgentListeningSchema, type AgentSpec, type BlankAgent } from "../proto/contract/gen/rbs/v1/agent_pb.ts";
import { RpcServer } from "../proto/transport/rpc/server.ts";
import { decodeName } from "../proto/tree/names.ts";
import { TlsListener } from "../proto/transport/tls/listener.ts";
import type { Beneath } from "./files/beneath.ts";
import type { Caller } from "./workspace/preemptible_lock.ts";
import { Activity } from "./control/activity.ts";
import type { HeldMaker } from "./namespace/held_maker.ts";
import { AgentIdentity } from "./control/agent_identity.ts";
import { type AgentArguments, parseArguments, readBlank, sessionPaths } from "./arguments.ts";
import { BazelServer } from "./bazel/bazel_server.ts";
import { BazelUpstream } from "./bazel/bazel_upstream.ts";
import { archiveKey } from "./bazel/class_archives/archive_key.ts";
import { Archiver } from "./bazel/class_archives/archiver.ts";
import { ClassArchives } from "./bazel/class_archives/class_archives.ts";
import { makeArchive } from "./bazel/class_archives/make_archive.ts";
import { type CallHandler, listenForProxy } from "./commands/command_port.ts";
import { relay } from "./commands/command_relay.ts";
import { refuseHidden } from "./namespace/covers.ts";
import { CommandService } from "./commands/command_service.ts";
import { ExecuteCommandService } from "./commands/execute_command_service.ts";
import { Gate } from "./control/gate.ts";
import { Lease } from "./control/lease.ts";
import { LocalOutputBase } from "./namespace/local_output_base.ts";
import { LineReader } from "../proto/base/line_reader.ts";
import { trace } from "../proto/base/log.ts";
import { log } from "./log.ts";
import { enrolByPipe } from "../proto/enrolment/pipe_enrolment.ts";
import { linuxSandboxWarning, printSelfTest } from "./self_check.ts";
import { startupOption } from "../proto/bazel/startup_options.ts";
import { serverOptions } from "./bazel/server_argv.ts";
import { SessionNamespace } from "./namespace/mount_namespace.ts";
import { isMachines } from "./namespace/synced_root.ts";
import { lockStorage } from "./namespace/storage_lock.ts";
import { makeNamedFolders } from "./outputs/named_folders.ts";
import { AgentRepositories } from "./outputs/agent_repositories.ts";
import { DigestCache } from "./outputs/digest_cache.ts";
import { type CommandEnd, OutputsCollector } from "./outputs/outputs_collector.ts";
import { ServerLogs } from "./outputs/server_logs.ts";
import { Supervision } from "./control/supervise_service.ts";
import { DeveloperPaths } from "./workspace/developer_paths.ts";
import { BlankLife, holdAliveFile } from "./control/blank_agent.ts";
import { STAGING, SyncedWorkspace } from "./workspace/synced_workspace.ts";
import { WorkspaceService } from "./workspace/workspace_service.ts";

/** What commands get to end by themselves when the agent ends for another reason than a StopAgent. Milliseconds. */
const DEFAULT_GRACE_MS = 5_000;
const DEFAULT_LEASE_SECONDS = 60;
/** What the owner's commands may have of input that they have not read, together. Bytes. */
const OWNER_BYTES = 256 << 20;

async function main(): Promise<number> {
  const flags = parseArguments(Deno.args);
  if (flags.selfTest) return await printSelfTest(flags);
  const input = new LineReader(Deno.stdin.readable);
  return await serve(await readBlank(input, Deno.stdin.isTerminal()), input, flags);
}

/** Waits for a session, and serves it until it is over. @returns the exit code */
async function serve(blank: BlankAgent, input: LineReader, flags: AgentArguments): Promise<number> {
  await holdAliveFile(blank.aliveFile);
  const leaseSeconds = blank.leaseSeconds || DEFAULT_LEASE_SECONDS;
  const end = Promise.withResolvers<{ why: string; graceMs: number; exitCode: number }>();
  const stop = (why: string, graceMs = DEFAULT_GRACE_MS, exitCode = 0) => end.resolve({ why, graceMs, exitCode });

  const gate = new Gate({ accessToken: "", epoch: 0, owner: "" });
  const activity = new Activity();
  const lease = new Lease({
    durationMs: leaseSeconds * 1000,
    activity,
    onExpired: () => stop("nobody supervises it and nothing runs"),
  });
  // Begun now, and waited for when the rest is ready: a certificate takes a while.
  const obtained = AgentIdentity.obtain(blank, {
    log,
    enrol: blank.enrolsByPipe ? (spec) => enrolByPipe(spec, { input, print }) : undefined,
  });
  obtained.catch(() => {/* thrown below */});
  const supervision = new Supervision({
    gate,
    lease,
    activity,
    onOrchestrator: (address) => void obtained.then((identity) => identity.orchestratorIsAt(address)),
    onStop: (graceMs) => stop("it was told to", graceMs),
  });
  const onError = (what: string, error: unknown) => log(`${what}: ${trace(error)}`);

  /** Undefined while there is none: then the gate lets nobody in who would miss it. */
  let session: SessionParts | undefined;
  const handlers: Record<string, CallHandler> = {};

  for (const name of ["SIGTERM", "SIGINT"] as const) Deno.addSignalListener(name, () => stop(`it got ${name}`));
  // The agent's own terminal is nobody's.
  Deno.addSignalListener("SIGHUP", () => {});
  globalThis.addEventListener("unhandledrejection", (event) => {
    event.preventDefault();
    onError("unexpected", event.reason);
  });

  const begin = (spec: AgentSpec, held?: HeldMaker) => {
    session = sessionParts(spec, { flags, gate, activity, supervision, held, onError });
    Object.assign(handlers, session.handlers);
    gate.assign({ accessToken: spec.accessToken, owner: spec.userId, epoch: spec.epoch });
    start(spec, session, supervision, leaseSeconds).catch(async (error) => {
      onError("the start failed", error);
      supervision.failed(error);
      await supervision.failureTaken;
      stop("its start failed", 0, 1);
    });
  };
  const life = new BlankLife(blank, flags);

  using identity = await obtained.catch((e) => {
    throw new RbsError(
      `agent: no certificate can be had from the orchestrator at ${blank.orchestratorAddress} (${sentence(e)}).`,
      { cause: e },
    );
  });
  const server = new RpcServer({
    address: formatHostPort(flags.host, 0),
    credentials: identity.credentials,
    accepts: (caller) => gate.accepts(caller),
    authorize: (path, context) => gate.authorize(path, context),
    callerBytes: OWNER_BYTES,
    onRefused: log,
    onError,
  }).add(Agent, {
    executeCommand: (requests, context) => session!.commands.execute(requests, context),
    supervise: (requests, context) => supervision.supervise(requests, context),
  });
  const port = await server.listen();
  const listener = await TlsListener.listen({
    hostname: flags.host,
    credentials: identity.credentials,
    accepts: (caller) => gate.accepts(caller),
    onRefused: log,
  });
  identity.onChange((credentials) => {
    server.replaceCredentials(credentials);
    listener.replaceCredentials(credentials);
    log("the agent's certificate was renewed");
  });
  const commandPort = listenForProxy({
    at: listener,
    gate,
    handlers,
    relay: (...call) => relay(session!.upstream, ...call),
    onError,
  });
  if (!announce(port, commandPort.port)) {
    commandPort.close();
    server.close();
    return 1;
  }
  life.assigned(supervision).then(({ spec, held }) => {
    log(
      `agent of ${spec.userId}'s ${spec.sourcePath} listens at ${flags.host}:${port}, commands at port ${commandPort.port}`,
    );
    begin(spec, held);
  }).catch((error) => stop(sentence(error), 0, 1));

  const { why, graceMs, exitCode } = await end.promise;
  log(`the agent stops, since ${why}`);
  lease[Symbol.dispose]();
  await session?.bazelCommands.end();
  commandPort.close();
  if (session) await endSession(session, graceMs);
  await life.end();
  server.close();
  log("the agent has stopped");
  return exitCode;
}

/** What serves a session. */
type SessionParts = ReturnType<typeof sessionParts>;

function sessionParts(spec: AgentSpec, { flags, gate, activity, supervision, held, onError }: {
  flags: AgentArguments;
  gate: Gate;
  activity: Activity;
  supervision: Supervision;
  held?: HeldMaker;
  onError(what: string, error: unknown): void;
}) {
  const { workspace, outputBase } = sessionPaths(spec);
  const userRoot = startupOption(spec.startupOptions, "output_user_root") ?? "";
  const javabase = startupOption(spec.startupOptions, "server_javabase");
  const limits = spec.limits && { ...spec.limits, memoryBytes: Number(spec.limits.memoryBytes) };
  const archives = classArchives(spec);
  const namespace = new SessionNamespace({
    javabase,
    held,
    readable: archives && [archives.kept],
    kind: flags.namespace,
    storageDirectory: spec.storageDirectory,
    outputBase,
    workspace,
    hidden: spec.hiddenPaths,
    named: [workspace, ...outputBase === undefined ? [] : [outputBase], ...userRoot === "" ? [] : [userRoot]],
    allowRootSessions: flags.allowRootSessions,
    limits,
    unshareNet: spec.unshareNet,
    synced: spec.synced
      ? {
        workspace,
        visible: [...flags.installBases, flags.bazel],
        hidden: spec.hiddenPaths,
        javabase,
      }
      : undefined,
  });
  const archiver = archives && new Archiver({
    archives,
    activity,
    seenAs: (path) => namespace.readablePath(path),
    key(start) {
      const isMachinesOwn = (path: string) => !spec.synced || isMachines(path, flags.installBases);
      return isMachinesOwn(start.java) && isMachinesOwn(start.installBase) ? archiveKey(start) : undefined;
    },
    make: (start, signal) =>
      makeArchive({
        ...{ start, storageDirectory: archives.making, kind: namespace.kind, hidden: spec.hiddenPaths, limits, signal },
      }),
  });
  const bazel = new BazelServer({
    namespace,
    jvmOptions: (start) => namespace.showsReadable ? archiver?.jvmOptions(start) ?? [] : [],
    workspace,
    startupOptions: serverOptions(spec.startupOptions),
    clientShell: readClientShell(spec.startupOptions),
    installBases: flags.installBases,
    onStep: (step) => supervision.step(step),
  });
  const localOutputBase = new LocalOutputBase({ outputBase, namespace, hidden: spec.hiddenPaths });
  const commands = new ExecuteCommandService({
    namespace,
    bazel,
    startupOptions: serverOptions(spec.startupOptions),
    localOutputBase,
    activity,
    bazelProgram: flags.bazel,
  });
  const upstream = new BazelUpstream(bazel);
  const synced = spec.synced && outputBase !== undefined
    ? syncedParts({
      spec,
      outputBase,
      storage: namespace.storage,
      storageOutputBase: () => namespace.storageOutputBaseName,
    })
    : undefined;
  const bazelCommands = new CommandService({
    upstream,
    bazel,
    gate,
    activity,
    localOutputBase,
    synced,
    graceMs: flags.graceSeconds * 1000,
    onError,
  });
  const handlers: Record<string, CallHandler> = {
    "/rbs.v1.Command/Execute": (...call) => bazelCommands.execute(...call),
    ...synced && {
      "/rbs.v1.Workspace/Open": (...call) => synced.service.open(...call),
      "/rbs.v1.Workspace/Apply": (...call) => synced.service.apply(...call),
      "/rbs.v1.Workspace/Fetch": (...call) => synced.service.fetch(...call),
    },
  };
  return { namespace, bazel, archiver, localOutputBase, commands, bazelCommands, upstream, synced, handlers };
}

/** The archives that the session may use; undefined: none. */
function classArchives(spec: AgentSpec): ClassArchives | undefined {
  if (spec.classArchiveDirectory === "" || spec.maxClassArchives === 0) return undefined;
  try {
    const archives = new ClassArchives({ directory: spec.classArchiveDirectory, max: spec.maxClassArchives });
    archives.prepare();
    return archives;
  } catch (e) {
    log(`there are no class-data archives (${sentence(e)})`);
    return undefined;
  }
}

async function endSession(session: SessionParts, graceMs: number): Promise<void> {
  session.upstream.close();
  await session.archiver?.close();
  await Promise.race([session.commands.cancelAll(graceMs), pause(graceMs + 500)]);
  await session.bazel.stop();
  await session.namespace.close();
  session.synced?.workspace.close();
}

/** What a session needs whose developer is on another machine. */
function syncedParts(
  { spec, outputBase, storage, storageOutputBase }: {
    spec: AgentSpec;
    outputBase: string;
    storage: Beneath;
    storageOutputBase: () => string;
  },
) {
  const paths = new DeveloperPaths({ outputBase, storageOutputBase });
  const workspace = new SyncedWorkspace({ storage, paths, outputBase, log, watch: () => storage.watch() });
  const digests = new DigestCache(storage);
  const repositories = new AgentRepositories({
    outputBase,
    files: storage,
    storagePath: (path) => paths.storagePath(path),
    isDevelopers: (path) =>
      [spec.sourcePath, ...workspace.readOnlyRoots].some((root) => path === root || path.startsWith(`${root}/`)),
  });
  const logs = new ServerLogs({ outputBase, files: storage, storage: storageOutputBase });
  const outputs = new OutputsCollector({
    repositories,
    logs,
    outputBase,
    workspace: spec.sourcePath,
    digests,
    storage,
    storagePath: (path) => paths.storagePath(path),
  });
  return {
    get generation() {
      return workspace.generation;
    },
    check: (caller: Caller) => workspace.check(caller),
    ran: () => void workspace.ran(),
    outputs: {
      async prepare(args: readonly string[], start: Start) {
        const { namedFiles = [], folders = [] } = start.outputs ?? {};
        makeNamedFolders({ files: namedFiles.map(decodeName), folders: folders.map(decodeName) }, {
          storage,
          root: paths.root,
          staging: STAGING,
          isKept: (path) => paths.locate(path)?.base === paths.root,
          log,
        });
        const { sourceFiles = [], sourceFolders = [] } = start.outputs ?? {};
        const prepared = await outputs.prepare(args, start, () => expected.written());
        const writes = sourceFiles.length + sourceFolders.length > 0;
        const expected = workspace.expect(
          [...namedFiles.map(decodeName), `${spec.sourcePath}/MODULE.bazel.lock`],
          writes
            ? { root: spec.sourcePath, files: sourceFiles.map(decodeName), folders: sourceFolders.map(decodeName) }
            : undefined,
        );
        return {
          ...prepared,
          async collect(end: CommandEnd) {
            const parts = await prepared.collect(end);
            expected.told(prepared.named ?? []);
            return parts;
          },
          [Symbol.dispose]() {
            prepared[Symbol.dispose]();
            expected[Symbol.dispose]();
          },
        };
      },
    },
    workspace,
    service: new WorkspaceService(
      storage,
      workspace,
      paths,
      digests,
      (path) => logs.storagePath(path) ?? repositories.storagePath(path),
    ),
  };
}

/** Makes the namespace, and the Bazel server if the session's client has told how. */
async function start(
  spec: AgentSpec,
  { namespace, bazel, localOutputBase }: SessionParts,
  supervision: Supervision,
  leaseSeconds: number,
): Promise<void> {
  // Held until the process ends.
  await lockStorage(spec.storageDirectory, {
    timeoutMs: (leaseSeconds + 15) * 1000,
    onWait: () => supervision.step("waiting for the session's former agent to end"),
  });
  if (!spec.synced) {
    const { workspace, outputBase } = sessionPaths(spec);
    refuseHidden("workspace", workspace, spec.hiddenPaths);
    if (outputBase !== undefined) refuseHidden("output base", outputBase, spec.hiddenPaths);
  }
  supervision.step("making the session's mount namespace");
  await localOutputBase.ensure();
  await namespace.init().catch(async (e) => {
    await localOutputBase.restore().catch(() => {});
    throw e;
  });
  const warnings: string[] = [];
  if (!namespace.samePaths && namespace.kind !== "none") {
    warnings.push(
      `This session's output base is ${namespace.outputBase} by name, since yours lies in a workspace below /tmp, where sandboxes of older Bazels take no mount.`,
    );
  } else if (!namespace.samePaths) {
    warnings.push(
      `This session runs without a mount namespace: its output base is ${namespace.outputBase} by name, and its builds can read whatever this user can, including the orchestrator's keys; install bubblewrap for the same paths on both sides and for isolation.`,
    );
  }
  if (namespace.limitsWarning) warnings.push(namespace.limitsWarning);
  const options = serverOptions(spec.startupOptions);
  const missing = await bazel.missingInstallBase();
  // First, since nothing else may run meanwhile.
  if (options.length > 0 && !missing) await bazel.ensure();
  const sandbox = missing
    ? undefined
    : await linuxSandboxWarning(await namespace.init(), options, namespace.outputBase);
  if (sandbox) warnings.push(sandbox);
  for (const warning of warnings) log(`warning: ${warning}`);
  supervision.ready(warnings, namespace.samePaths, missing);
}

/**
 * Tells whoever started the agent where it listens. False if that one is gone: then nobody will ever find this agent.
 */
function announce(port: number, commandPort: number): boolean {
  try {
    print(toJsonString(AgentListeningSchema, create(AgentListeningSchema, { port, commandPort })));
    return true;
  } catch (e) {
    log(`the agent ends, since nobody reads where it listens (${sentence(e)})`);
    return false;
  }
}

/** Tells whoever started the agent something. Throws when nobody reads it. */
function print(line: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(`${line}\n`));
}

if (import.meta.main) {
  try {
    Deno.exit(await main());
  } catch (e) {
    if (e instanceof RbsError && e.exitCode === 0) {
      console.log(e.message);
      Deno.exit(0);
    }
    console.error(e instanceof RbsError ? e.message : `agent: ${sentence(e)}`);
    Deno.exit(e instanceof RbsError ? e.exitCode : 1);
  }
}
