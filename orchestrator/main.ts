/** The control plane: parse flags, build the parts, connect them, run, and shut down in reverse. */
import { join } from "node:path";
import { RbsError, sentence } from "../proto/base/errors.ts";
import { Identity } from "../proto/contract/gen/rbs/v1/identity_pb.ts";
import { Operator } from "../proto/contract/gen/rbs/v1/operator_pb.ts";
import { Orchestrator } from "../proto/contract/gen/rbs/v1/orchestrator_pb.ts";
import { RpcServer } from "../proto/transport/rpc/server.ts";
import { localUserId } from "../proto/base/state_directory.ts";
import { INHERITED_VARIABLES } from "./compute/process/agent_environment.ts";
import { isAdminCommand, runAdminCommand } from "./admin.ts";
import { checkWay, findAgentUser, openStorageRoot } from "./compute/process/agent_user.ts";
import { ComputeChoice } from "./compute/compute_choice.ts";
import { ProcessCompute } from "./compute/process/process_compute.ts";
import { type Flags, ownProgram, parseFlags } from "./flags.ts";
import { orchestratorService } from "./api/grpc_service.ts";
import { operatorService } from "./api/operator_service.ts";
import { TokenEnroller } from "./identity/enroller.ts";
import { authorizer, identityService, issueCertificate } from "./identity/identity_service.ts";
import { isKnownAgent } from "./identity/known_agents.ts";
import { RevokedSessions } from "./identity/revoked_sessions.ts";
import { LocalKeys } from "./identity/local_keys.ts";
import { formatHostPort } from "../proto/base/host_port.ts";
import { listenOn } from "./api/listen.ts";
import { log, trace } from "../proto/base/log.ts";
import { isGone } from "./peers/local_probe.ts";
import { LoggingSessionStore } from "./store/logging_session_store.ts";
import { isServiceCommand, keptEnvironment, runServiceCommand, type ServiceContext } from "./install/commands.ts";
import { SessionService } from "./sessions/session_service.ts";
import { WarmPool } from "./agents/warm_pool.ts";
import { openStore } from "./store/store_location.ts";
import { checkAgentProgram, lockStateDirectory, prepareDirectory } from "./state_directory.ts";
import { trustedPaths } from "./trusted_paths.ts";

/** Connections of one user, whose programs may come at once. */
const MAX_CALLERS_OF_ONE = 1024;
/** How long a handshake may take, where so many are made at once. Milliseconds. */
const HANDSHAKE_MS = 15_000;

async function run(flags: Flags): Promise<void> {
  const user = flags.agentUser === undefined ? undefined : findAgentUser(flags.agentUser);
  // Before root makes anything there.
  if (user) { for (const place of [flags.stateDir, flags.storageRoot]) checkWay(place); }
  prepareDirectory(flags.stateDir, "state directory", "name another with --state-dir");
  prepareDirectory(flags.storageRoot, "storage root", "name another with --storage-root");
  checkAgentProgram(flags.agent);
  if (user) {
    openStorageRoot(user, { ...flags, storeFile: flags.store.kind === "sqlite" ? flags.store.file : undefined });
  }
  const hidden = trustedPaths({ ...flags, environment: (name) => Deno.env.get(name) });
  const keys = await localKeys(flags);
  await using store = await openStore(flags.store);
  const { authority } = keys;
  const enroller = new TokenEnroller(store.identities, authority.trustDomain);
  const issuing = { authority, enroller, store: store.identities };
  const inherited = INHERITED_VARIABLES.map((name) => [name, Deno.env.get(name)]).filter(([, value]) =>
    value !== undefined
  );
  /** Where agents find it, and other orchestrators. */
  const address = Promise.withResolvers<string>();
  let own = "";
  const agents = {
    compute: new ProcessCompute({
      command: [flags.agent],
      storageRoot: flags.storageRoot,
      environment: Object.fromEntries(inherited),
      listenAddress: flags.listen === "localhost" ? undefined : flags.listen,
      user,
      allowRootSessions: flags.allowRootSessions,
      maxClassArchives: flags.classArchives,
      region: flags.region,
      certify: (request) => issueCertificate(issuing, request),
    }),
    log,
    trust: {
      orchestratorAddress: address.promise,
      credentials: () => keys.credentials,
      bootstrapToken: (agentId: string) => enroller.issue({ kind: "agent", agentId }, flags.startTimeoutSeconds * 1000),
    },
    limits: flags.limits,
    leaseSeconds: flags.leaseSeconds,
    startTimeoutMs: flags.startTimeoutSeconds * 1000,
    killAfterMs: 7000,
  };
  const sessions = new SessionService({
    ...agents,
    store: new LoggingSessionStore(store.sessions, log),
    leases: store.leases,
    compute: new ComputeChoice([agents.compute]),
    orchestrator: {
      address: () => own,
      durationMs: flags.takeoverSeconds * 1000,
      // A file is shared by those on this machine only, so whoever listened here before is gone.
      isGone: flags.store.kind === "sqlite" ? async (other) => other === own || await isGone(other) : undefined,
    },
    pool: new WarmPool({ ...agents, store: store.warmAgents, size: flags.warm }),
    synced: flags.synced,
    hiddenPaths: hidden,
    sessionLimits: flags.sessionLimits,
    unshareNet: flags.unshareNet,
    onBounce: flags.onBounce,
    idleTimeoutMs: flags.idleTimeoutSeconds * 1000,
    secondIdleTimeoutMs: flags.secondIdleTimeoutSeconds * 1000,
    stopGraceMs: 5000,
  });

  const { port, servers } = await listenOn(flags.listen, flags.port, (address) =>
    new RpcServer({
      address,
      credentials: keys.credentials,
      admitStrangers: true,
      authorize: authorizer(store.identities),
      limits: {
        connectionsPerIdentity: MAX_CALLERS_OF_ONE,
        handshakeMs: HANDSHAKE_MS,
      },
      onRefused: log,
      onError: (path, e) => log(`${path}: ${trace(e)}`),
    })
      .add(
        Orchestrator,
        orchestratorService(sessions, { hidden, localUser: flags.allowSharedUsers ? undefined : localUserId() }),
      )
      .add(Operator, operatorService(sessions, log))
      .add(
        Identity,
        identityService({ ...issuing, hasAgent: (agentId) => isKnownAgent(store, agentId) }),
      ));
  address.resolve(formatHostPort(flags.listen === "localhost" ? "127.0.0.1" : flags.listen, port));
  keys.keepFresh((credentials) => servers.forEach((server) => server.replaceCredentials(credentials)));
  own = formatHostPort(flags.listen, port);
  await sessions.adopt();
  using _revoked = new RevokedSessions({ identities: store.identities, sessions, log });
  if (!isLoopback(flags.listen) && !flags.synced) {
    log("warning: other machines are served only with --workspace=synced, since their files are not on this disk");
  }
  // Before it says that it is ready: whoever reads that may ask for the end at once.
  const stopped = stopSignal();
  console.log(`rbs orchestrator ready on ${own} (state in ${flags.stateDir})`);

  log(`${await stopped}: leaving the agents to other orchestrators, or ending them; once more does it at once`);
  stopSignal().then(() => sessions.kill());
  await sessions.stop();
  for (const server of servers) server.close();
  keys[Symbol.dispose]();
}

/** Made by one orchestrator at a time. */
async function localKeys({ stateDir, outsideAuthority }: Flags): Promise<LocalKeys> {
  using _lock = lockStateDirectory(stateDir);
  return await LocalKeys.open(stateDir, localUserId(), log, outsideAuthority);
}

function isLoopback(address: string): boolean {
  return address === "localhost" || address === "::1" || address.startsWith("127.");
}

/** What `orchestrator install` finds around it. */
function serviceContext(): ServiceContext {
  const home = Deno.env.get("HOME") ?? "";
  return {
    program: ownProgram(import.meta.url),
    url: import.meta.url,
    workingDirectory: Deno.cwd(),
    environment: keptEnvironment(Deno.env.toObject()),
    unitFolder: join(Deno.env.get("XDG_CONFIG_HOME") || join(home, ".config"), "systemd/user"),
    print: (line) => console.log(line),
  };
}

/** Resolves with the name of the next signal that asks for the end. */
function stopSignal(): Promise<string> {
  return new Promise((resolve) => {
    for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) {
      Deno.addSignalListener(signal, () => resolve(signal));
    }
  });
}

try {
  if (isAdminCommand(Deno.args)) await runAdminCommand(Deno.args, console.log);
  else if (isServiceCommand(Deno.args)) Deno.exit(await runServiceCommand(Deno.args, serviceContext()));
  else {
    const flags = parseFlags(Deno.args, import.meta.url);
    if (flags) await run(flags);
  }
  Deno.exit(0);
} catch (e) {
  console.error(`orchestrator: ${sentence(e)}`);
  if (!(e instanceof RbsError)) console.error(e);
  Deno.exit(e instanceof RbsError ? e.exitCode : 1);
}
