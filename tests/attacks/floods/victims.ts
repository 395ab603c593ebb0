/** The real programs, as they are when somebody builds: whom floods are tried on, and who has to be served meanwhile. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { Agent } from "../../../proto/contract/gen/rbs/v1/agent_pb.ts";
import { Orchestrator } from "../../../proto/contract/gen/rbs/v1/orchestrator_pb.ts";
import { readCredentials } from "../../../proto/identity/key_directory.ts";
import type { Credentials } from "../../../proto/identity/credentials.ts";
import { Connection } from "../../../proto/transport/grpc/channel.ts";
import { Status } from "../../../proto/transport/grpc/calls.ts";
import { encodeFields } from "../../../proto/base/protobuf_fields.ts";
import { Code, createRpcClient, RpcError } from "../../../proto/transport/rpc/client.ts";
import { SERVER_NAMES } from "../../../proto/transport/tls/channel_credentials.ts";
import { type Rig, rig } from "../../mirror/support/rig.ts";
import { clusterUser } from "../../support/users.ts";
import type { PortName } from "./floods.ts";
import type { Target } from "./wire.ts";

/** How long an honest caller waits before it counts as one that was not answered. Milliseconds. */
export const PATIENCE_MS = 10_000;

/** Honest calls of each kind to each port before any attack. */
const WARMING_CALLS = 150;

/** A port of a program. */
export interface Victim {
  name: PortName;
  /** Whose it is. */
  pid: number;
  /** As an attacker sees it who is nobody, or, at an agent, another user. */
  target: Target;
  /** A call of somebody who may make it, on a connection of its own. Rejects unless it is answered as it should be. */
  honest(): Promise<void>;
  /** The same on a connection that is there already. */
  honestAgain(): Promise<void>;
}

/** A workspace that is being built in, with all its programs. They end with the scope. */
export interface Victims extends AsyncDisposable {
  rig: Rig;
  ports: Record<PortName, Victim>;
}

/** Starts them. */
export async function startVictims(): Promise<Victims> {
  await using cleanup = new AsyncDisposableStack();
  const one = cleanup.use(await rig());
  const cluster = one.cluster!;
  const bob = cleanup.use(await clusterUser(cluster, "bob"));
  await one.buildsQuickly();
  const ann = readCredentials(cluster.state);
  const another = readCredentials(bob.env.RBS_STATE_DIR);

  const orchestratorAt = `127.0.0.1:${cluster.port}`;
  const orchestrator = (credentials: Credentials) =>
    createRpcClient(Orchestrator, orchestratorAt, { tls: { credentials, expected: { kind: "orchestrator" } } });
  const asked = cleanup.use(orchestrator(ann));
  const { sessions: [session] } = await asked.listSessions({}, { timeoutMs: PATIENCE_MS });
  const { port, commandPort, agentId } = session.agent!;
  const list = async (client: ReturnType<typeof orchestrator>) => {
    const { sessions } = await client.listSessions({}, { timeoutMs: PATIENCE_MS });
    assert.equal(sessions.length, 1);
  };

  const agentPid = (await one.agent()).pid;
  const agent = () =>
    createRpcClient(Agent, `127.0.0.1:${port}`, {
      tls: { credentials: ann, expected: { kind: "agent", agentId } },
    });
  // A call without the token, so that nothing is started: that it is the owner's was seen when the token is asked for.
  const execute = async (client: ReturnType<typeof agent>) => {
    const call = client.executeCommand({ timeoutMs: PATIENCE_MS });
    call.end();
    const end = await Array.fromAsync(call).then(() => undefined, RpcError.from);
    assert.equal(end?.code, Code.UNAUTHENTICATED, String(end?.message));
    assert.match(end!.message, /the token is missing or wrong/);
  };
  const agentAgain = cleanup.use(agent());

  const commands = () =>
    new Connection("127.0.0.1", commandPort, {
      tls: { credentials: () => ann, expected: { kind: "agent", agentId } },
    });
  const ping = async (connection: Connection) => {
    const { code, message } = await connection.unary(PING, new Uint8Array(0), { timeoutMs: PATIENCE_MS });
    assert.equal(code, Status.UNAUTHENTICATED, message);
    assert.match(message, /the token is missing or wrong/);
  };
  const commandsAgain = cleanup.use(commands());

  const at = await Deno.readTextFile(join(one.outputBase, "server/command_port"));
  const cookie = await Deno.readTextFile(join(one.outputBase, "server/request_cookie"));
  const proxyPort = Number(at.split(":").at(-1));
  const proxy = () => new Connection("127.0.0.1", proxyPort);
  const pingProxy = async (connection: Connection) => {
    const request = encodeFields([[1, cookie]]);
    const { code, message } = await connection.unary(PING, request, { timeoutMs: PATIENCE_MS });
    assert.equal(code, Status.OK, message);
  };
  const proxyAgain = cleanup.use(proxy());

  const orchestratorTls = { authorities: ann.authorities, serverName: SERVER_NAMES.orchestrator };
  const { certificate, privateKey } = another;
  const agentTls = { authorities: ann.authorities, serverName: SERVER_NAMES.agent, certificate, privateKey };
  const ports: Victims["ports"] = {
    orchestrator: {
      name: "orchestrator",
      pid: cluster.orchestrator.pid,
      target: { port: cluster.port, path: "/rbs.v1.Identity/IssueCertificate", tls: orchestratorTls },
      honest: () => onceWith(orchestrator(ann), list),
      honestAgain: () => list(asked),
    },
    agent: {
      name: "agent",
      pid: agentPid,
      target: { port, path: "/rbs.v1.Agent/ExecuteCommand", tls: agentTls },
      honest: () => onceWith(agent(), execute),
      honestAgain: () => execute(agentAgain),
    },
    commands: {
      name: "commands",
      pid: agentPid,
      target: { port: commandPort, path: "/rbs.v1.Command/Execute", tls: agentTls },
      honest: () => onceWith(commands(), ping),
      honestAgain: () => ping(commandsAgain),
    },
    proxy: {
      name: "proxy",
      pid: await one.proxy(),
      target: { port: proxyPort, path: "/command_server.CommandServer/Run" },
      honest: () => onceWith(proxy(), pingProxy),
      honestAgain: () => pingProxy(proxyAgain),
    },
  };
  // What is loaded at first calls, and how large a heap grows by honest work, is nobody's attack.
  for (const { honest, honestAgain } of Object.values(ports)) {
    for (let n = 0; n < WARMING_CALLS; n++) await Promise.all([honest(), honestAgain()]);
  }
  const all = cleanup.move();
  return { rig: one, ports, [Symbol.asyncDispose]: () => all.disposeAsync() };
}

const PING = "/command_server.CommandServer/Ping";

/** Lets go of a client after its one use. */
async function onceWith<T extends Disposable>(client: T, use: (client: T) => Promise<void>): Promise<void> {
  using it = client;
  await use(it);
}
