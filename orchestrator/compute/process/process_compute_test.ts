import assert from "node:assert/strict";
import { basename, join } from "node:path";
import { Agent } from "../../../proto/contract/gen/rbs/v1/agent_pb.ts";
import type { IssueCertificateRequest } from "../../../proto/contract/gen/rbs/v1/identity_pb.ts";
import { createRpcClient } from "../../../proto/transport/rpc/client.ts";
import { TestAuthority } from "../../../proto/testing/certificates.ts";
import { tempDirSync } from "../../../tests/support/temp_dir.ts";
import { pause } from "../../../proto/base/timers.ts";
import { eventually } from "../../../tests/support/eventually.ts";
import { computeContract } from "../compute_contract.ts";
import { type AgentBootstrap, AgentStartError, type RunningAgent, type StartOptions } from "../compute_service.ts";
import { storageDirectory } from "./storage_path.ts";
import { ProcessCompute, type ProcessComputeOptions } from "./process_compute.ts";

const FAKE_AGENT = join(import.meta.dirname!, "../../testing/fake_agent.ts");
const ENVIRONMENT = { HOME: Deno.env.get("HOME")!, PATH: Deno.env.get("PATH")!, USER: "ann", SECRET: "x" };
const SESSION = { userId: "ann", repoHash: "a".repeat(32), serverId: "", sourcePath: "/ws" };
const AGENT_ID = "c".repeat(32);

type Command = [string, ...string[]];

/** @param arguments_ See testing/fake_agent.ts. */
const fakeAgent = (...arguments_: string[]): Command => [Deno.execPath(), "run", "-A", FAKE_AGENT, ...arguments_];

function compute(
  storageRoot: string,
  command = fakeAgent(),
  certify?: ProcessComputeOptions["certify"],
): ProcessCompute {
  return new ProcessCompute({ command, storageRoot, environment: ENVIRONMENT, certify });
}

const TRUST = { orchestratorAddress: "127.0.0.1:1", bootstrapToken: "once", authorities: "", trustDomain: "rbs.test" };
const blank = (trust?: AgentBootstrap) => ({ agentId: AGENT_ID, leaseSeconds: 60, trust });

/** How an agent of the session is started. */
function start(service: ProcessCompute, trust?: AgentBootstrap, change: Partial<StartOptions> = {}) {
  return service.start(blank(trust), { signal: never(), onStep() {}, session: SESSION, ...change });
}

/** The folders of agents that there are. */
const folders = (storageRoot: string) => [...Deno.readDirSync(join(storageRoot, ".agents"))].map(({ name }) => name);

computeContract("processes", () => {
  const temp = tempDirSync();
  const pids = new Set<number>();
  const pidOf = ({ handle }: RunningAgent) => Number(handle.split(" ")[0]);
  const lives = (pid: number) => {
    try {
      return !/^State:\s+[ZX]/m.test(Deno.readTextFileSync(`/proc/${pid}/status`));
    } catch {
      return false;
    }
  };
  return Promise.resolve({
    service: (behaviour = "good") =>
      compute(
        join(temp.path, "storage"),
        fakeAgent(...{ good: [], exits: ["exit"], silent: ["hang"] }[behaviour]),
      ),
    runs: (agent) => {
      pids.add(pidOf(agent));
      return lives(pidOf(agent));
    },
    strike: (agent) => Deno.kill(pidOf(agent), "SIGKILL"),
    async [Symbol.asyncDispose]() {
      for (const pid of pids) if (lives(pid)) Deno.kill(pid, "SIGKILL");
      temp[Symbol.dispose]();
      await Promise.resolve();
    },
  });
});

function fails(start: Promise<unknown>, reason: RegExp, transient: boolean): Promise<void> {
  return assert.rejects(start, (e: unknown) => {
    assert(e instanceof AgentStartError, String(e));
    assert.match(e.reason, reason);
    assert(!e.reason.includes("\n"));
    assert.equal(e.transient, transient);
    return true;
  });
}

const never = () => new AbortController().signal;

/** What the agent answers to a command of the test. */
async function ask({ endpoint }: RunningAgent, ...args: string[]): Promise<{ pid: number; epochs: number[] }> {
  using client = createRpcClient(Agent, `127.0.0.1:${endpoint.port}`);
  const call = client.executeCommand();
  await call.send({ message: { case: "init", value: { args } } });
  let answer = "";
  for await (const { message } of call) {
    if (message.case === "stdout") answer += new TextDecoder().decode(message.value);
  }
  return JSON.parse(answer);
}

function test(promise: string, run: (storage: string) => Promise<void>): void {
  Deno.test({
    name: promise,
    sanitizeOps: false,
    sanitizeResources: false,
    fn: async () => {
      using temp = tempDirSync();
      await run(join(temp.path, "s t'o\"räge"));
    },
  });
}

test("an agent that was killed says by what, and its log is its session's", async (storage) => {
  const agent = await start(compute(storage));
  assert.equal(String((await ask(agent)).pid), agent.handle.split(" ")[0]);
  agent.kill();
  const { reason, transient } = await agent.ended;
  assert.match(reason, /The agent of "\/ws" ended \(signal SIGKILL\)/);
  assert.equal(transient, true);
  await eventually(() => folders(storage).length === 0, "its folder is gone");
  assert.equal(agent.log, `in ${join(storage, "ann", SESSION.repoHash, "agent.log")}`);
  assert(Deno.statSync(agent.log.slice(3)).isFile);
});

test("an agent is given its certificate over its pipes, before it listens with it", async (storage) => {
  const authority = await TestAuthority.make();
  const credentials = await authority.identify({ kind: "agent", agentId: AGENT_ID });
  const asked: IssueCertificateRequest[] = [];
  const certify = (request: IssueCertificateRequest) => {
    asked.push(request);
    return authority.certifyRequest(request.certificateRequest, { kind: "agent", agentId: AGENT_ID })
      .then((certificate) => ({ certificate, authorities: authority.certificate }));
  };
  const trust = { ...TRUST, authorities: authority.certificate, trustDomain: credentials.trustDomain };
  const agent = await start(compute(storage, undefined, certify), trust);
  assert.deepEqual(asked.map(({ token }) => token), ["once"]);
  const orchestrator = await authority.identify({ kind: "orchestrator" });
  const expected = { kind: "agent", agentId: AGENT_ID } as const;
  using client = createRpcClient(Agent, `127.0.0.1:${agent.endpoint.port}`, {
    tls: { credentials: orchestrator, expected },
  });
  const call = client.supervise();
  await call.send({ message: { case: "setEpoch", value: { epoch: 1, term: 1 } } });
  let heard = false;
  for await (const { message } of call) {
    heard = true;
    if (message.case === "waiting") break;
  }
  assert(heard);
  agent.kill();
  await agent.ended;
});

test("an agent that gets no certificate is ended, with the reason", async (storage) => {
  const refuse = () => Promise.reject(new Error("the token was used"));
  await fails(
    start(compute(storage, undefined, refuse), TRUST),
    /^The agent of "\/ws" gets no certificate \(the token was used\); try again\.$/,
    true,
  );
});

test("a start that is given up does not wait for a certificate", async (storage) => {
  const giveUp = new AbortController();
  const silent = () => {
    giveUp.abort(new AgentStartError("It took too long.", true));
    return new Promise<never>(() => {});
  };
  const given = start(compute(storage, undefined, silent), TRUST, { signal: giveUp.signal });
  await fails(given, /^It took too long\.$/, true);
});

test("what an agent says is quoted without its token", async (storage) => {
  const odd: Command = ["/bin/sh", "-c", `echo '{"token": "once", "more": 1}'; exec sleep 3600`];
  await fails(
    start(compute(storage, odd, () => assert.fail("it did not ask")), TRUST),
    /\(it says "\{\\"token\\": \\"…\\", \\"more\\": 1\}" instead of an IssueCertificateRequest\)/,
    false,
  );
});

test("an agent that listens before it has a certificate is none of this version", async (storage) => {
  const early: Command = ["/bin/sh", "-c", `echo '{"port": 1, "commandPort": 2}'; exec sleep 3600`];
  await fails(
    start(compute(storage, early, () => assert.fail("it did not ask"))),
    /instead of an IssueCertificateRequest\)/,
    false,
  );
});

test("an agent gets of the environment only what it may have", async (storage) => {
  const agent = await start(compute(storage, fakeAgent("environment")));
  agent.kill();
  await agent.ended;
  const environment = JSON.parse(Deno.readTextFileSync(agent.log.slice(3)));
  delete environment.PATH;
  delete environment.HOME;
  assert.deepEqual(environment, { USER: "ann" });
});

test("an agent that ends at once is quoted with its last words, and its log can be read", async (storage) => {
  const log = join(storage, "ann", SESSION.repoHash, "agent.log");
  await assert.rejects(start(compute(storage, fakeAgent("exit"))), (e: unknown) => {
    assert(e instanceof AgentStartError && !e.transient);
    assert(e.reason.endsWith(`(exit code 3): fake agent: no JDK here; more stands in ${log}.`), e.reason);
    return true;
  });
  assert.match(Deno.readTextFileSync(log), /no JDK here/);
});

test("an agent that prints nonsense is no agent, and is ended", async (storage) => {
  await fails(
    start(compute(storage, fakeAgent("garbage"))),
    /is not an agent of this version of RBS \(it says "Welcome to {3}the shell!" instead of an AgentListening\)/,
    false,
  );
});

test("an endless first line is not read to its end", async (storage) => {
  await fails(
    start(compute(storage, ["/bin/sh", "-c", "exec yes '' | tr '\\n' x"])),
    /is not an agent of this version of RBS/,
    false,
  );
});

test("what an agent prints later is read, so that it waits for nobody", async (storage) => {
  const script = `echo '{"port":1,"commandPort":2}'; yes | head -c 1000000; exit 3`;
  const agent = await start(compute(storage, ["/bin/sh", "-c", script]));
  assert.match((await agent.ended)!.reason, /\(exit code 3\)/);
});

test("a program that is not there or cannot be executed is named", async (storage) => {
  await fails(start(compute(storage, ["/nowhere/agent"])), /\/nowhere\/agent cannot be exec/, false);
  const unexecutable = start(compute(join(storage, "2"), [FAKE_AGENT]));
  await fails(unexecutable, /fake_agent\.ts cannot be executed/, false);
});

test("storage that cannot be made is named, the session's own as well", async (storage) => {
  Deno.mkdirSync(storage);
  Deno.writeTextFileSync(join(storage, "ann"), "a file");
  await fails(start(compute(storage)), /^The session's storage .*\/ann\/a+ cannot be written/, false);
  const root = join(storage, "ann");
  await fails(start(compute(root)), /storage .*\/ann\/\.agents\/c+-[0-9a-f]+ cannot be written/, false);
});

test("the log of the agent before is kept", async (storage) => {
  const folder = join(storage, "ann", SESSION.repoHash);
  for (let i = 0; i < 2; i++) {
    await fails(start(compute(storage, ["/bin/false"])), /exit code 1/, false);
    await eventually(() => folders(storage).length === 0, "its folder is gone");
  }
  assert(Deno.statSync(join(folder, "agent.log.old")).isFile);
  assert.equal(Deno.statSync(join(folder, "agent.log")).mode! & 0o777, 0o600);
});

test("what agents have left that are gone is removed, unless it is young", async (storage) => {
  const folder = (name: string) => join(storage, ".agents", name);
  const old = (path: string) => Deno.utimeSync(path, 0, 0);
  for (const name of ["gone", "young", "nothing"]) {
    Deno.mkdirSync(join(folder(name), "deep"), { recursive: true });
    if (name !== "nothing") Deno.writeTextFileSync(folder(name) + ".alive", "");
  }
  Deno.writeTextFileSync(folder("file") + ".alive", "");
  old(folder("gone") + ".alive");
  old(folder("file") + ".alive");
  old(folder("nothing"));
  // An agent that lives, however old.
  const agent = await start(compute(storage));
  const own = basename(agent.handle);
  old(folder(own) + ".alive");
  await compute(storage).sweep();
  assert.deepEqual(folders(storage).sort(), [own, `${own}.alive`, "young", "young.alive"]);
  agent.kill();
  await agent.ended;
});

test("an agent of an orchestrator from before there were such files is left to its lease", async (storage) => {
  const adopted = compute(storage).adopt(String(Deno.pid), { host: "127.0.0.1", port: 1, commandPort: 2 }, SESSION);
  assert.equal(await Promise.race([adopted.ended, pause(20)]), undefined);
  adopted.kill();
  assert.match((await adopted.ended).reason, /ended/);
});

test("the log of an agent that was assigned a session twice, by two orchestrators, is not lost", async (storage) => {
  const { handle, endpoint, assign, kill, ended } = await start(compute(storage));
  const spec = {
    ...SESSION,
    ...{ sessionId: "b", epoch: 1, startupOptions: [], accessToken: "a", agentId: AGENT_ID, synced: false },
    hiddenPaths: [],
  };
  const { storageDirectory } = assign(spec);
  assert.equal(compute(storage).adopt(handle, endpoint, SESSION).assign(spec).storageDirectory, storageDirectory);
  assert.deepEqual([...Deno.readDirSync(storageDirectory!)].map(({ name }) => name), ["agent.log"]);
  kill();
  await ended;
});

Deno.test("a session goes on with another's storage once, if it has none of its own", () => {
  using temp = tempDirSync();
  const [from, to, third] = ["", "b".repeat(16), "c".repeat(16)].map((serverId) => ({ ...SESSION, serverId }));
  const storage = (of: typeof from) => storageDirectory(temp.path, of);
  Deno.mkdirSync(storage(from), { recursive: true });
  Deno.writeTextFileSync(join(storage(from), "file"), "");
  const service = compute(temp.path);
  assert.equal(service.inherit(from, to), undefined);
  assert.equal(Deno.statSync(join(storage(to), "file")).isFile, true);
  assert.equal(service.inherit(from, third), undefined);
  Deno.mkdirSync(storage(from));
  assert.equal(service.inherit(from, to), undefined);
  assert.equal(Deno.statSync(join(storage(to), "file")).isFile, true);
});

test("a session's agent is told where its user's class-data archives are, if there are any", async (storage) => {
  const options = { command: fakeAgent(), storageRoot: storage, environment: ENVIRONMENT };
  for (const [maxClassArchives, folder] of [[3, join(storage, "ann", ".classes")], [0, undefined]] as const) {
    const agent = await start(new ProcessCompute({ ...options, maxClassArchives }));
    const spec = agent.assign({
      ...SESSION,
      ...{ sessionId: "b", epoch: 1, startupOptions: [], accessToken: "a", agentId: AGENT_ID, synced: false },
      hiddenPaths: [],
    });
    assert.deepEqual([spec.classArchiveDirectory, spec.maxClassArchives || 0], [folder, maxClassArchives]);
    agent.kill();
    await agent.ended;
    await eventually(() => folders(storage).length === 0, "its folder is gone");
  }
});
