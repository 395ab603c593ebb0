import assert from "node:assert/strict";
import { join } from "node:path";
import { Agent } from "../../../proto/contract/gen/rbs/v1/agent_pb.ts";
import type { IssueCertificateRequest } from "../../../proto/contract/gen/rbs/v1/identity_pb.ts";
import { createRpcClient } from "../../../proto/transport/rpc/client.ts";
import { TestAuthority } from "../../../proto/testing/certificates.ts";
import { tempDirectory } from "../../testing/temp.ts";
import { type AgentSpec, AgentStartError } from "../compute_service.ts";
import { ProcessCompute, type ProcessComputeOptions } from "./process_compute.ts";

const FAKE_AGENT = join(import.meta.dirname!, "../../testing/fake_agent.ts");
const ENVIRONMENT = { HOME: Deno.env.get("HOME")!, PATH: Deno.env.get("PATH")!, USER: "ann", SECRET: "x" };

function compute(
  command: [string, ...string[]] = [Deno.execPath(), "run", "-A", FAKE_AGENT],
  certify?: ProcessComputeOptions["certify"],
): ProcessCompute {
  return new ProcessCompute({ command, environment: ENVIRONMENT, certify });
}

function spec(storageDirectory: string, ...startupOptions: string[]): AgentSpec {
  return {
    userId: "ann",
    repoHash: "a".repeat(32),
    serverId: "",
    sessionId: "b".repeat(32),
    epoch: 1,
    sourcePath: "/ws",
    startupOptions,
    storageDirectory,
    accessToken: "access",
    agentId: "c".repeat(32),
    leaseSeconds: 60,
    synced: false,
    hiddenPaths: [],
  };
}

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
async function ask(port: number, ...args: string[]): Promise<{ pid: number; epochs: number[] }> {
  using client = createRpcClient(Agent, `127.0.0.1:${port}`, { token: "access" });
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
      using temp = tempDirectory();
      await run(join(temp.path, "s t'o\"räge"));
    },
  });
}

test("an agent's process listens, is known by its process id, and says how it ended", async (storage) => {
  const steps: string[] = [];
  const agent = await compute().start(spec(storage), never(), (step) => steps.push(step));
  assert.equal(String((await ask(agent.endpoint.port)).pid), agent.handle);
  assert.deepEqual(steps, ["agent process started"]);
  agent.kill();
  const { reason, transient } = await agent.ended!;
  assert.match(reason, /The agent of "\/ws" ended \(signal SIGKILL\)/);
  assert.equal(transient, true);
});

test("an agent is given its certificate over its pipes, before it listens with it", async (storage) => {
  const authority = await TestAuthority.make();
  const credentials = await authority.identify({ kind: "agent", agentId: "c".repeat(32) });
  const asked: IssueCertificateRequest[] = [];
  const certify = (request: IssueCertificateRequest) => {
    asked.push(request);
    return authority.certifyRequest(request.certificateRequest, { kind: "agent", agentId: "c".repeat(32) })
      .then((certificate) => ({ certificate, authorities: authority.certificate }));
  };
  const trusted = { ...spec(storage), bootstrapToken: "once", trustDomain: credentials.trustDomain };
  const agent = await compute(undefined, certify).start(trusted, never(), () => {});
  assert.deepEqual(asked.map(({ token }) => token), ["once"]);
  const orchestrator = await authority.identify({ kind: "orchestrator" });
  const expected = { kind: "agent", agentId: "c".repeat(32) } as const;
  using client = createRpcClient(Agent, `127.0.0.1:${agent.endpoint.port}`, {
    tls: { credentials: orchestrator, expected },
  });
  const call = client.supervise();
  await call.send({ message: { case: "setEpoch", value: { epoch: 1, term: 1 } } });
  let heard = false;
  for await (const { message } of call) {
    heard = true;
    if (message.case === "ready") break;
  }
  assert(heard);
  agent.kill();
  await agent.ended;
});

test("an agent that gets no certificate is ended, with the reason", async (storage) => {
  const refuse = () => Promise.reject(new Error("the token was used"));
  await fails(
    compute(undefined, refuse).start({ ...spec(storage), bootstrapToken: "x", trustDomain: "t" }, never(), () => {}),
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
  const trusted = { ...spec(storage), bootstrapToken: "x", trustDomain: "t" };
  await fails(compute(undefined, silent).start(trusted, giveUp.signal, () => {}), /^It took too long\.$/, true);
});

test("what an agent says is quoted without its token", async (storage) => {
  const odd = ["/bin/sh", "-c", `echo '{"token": "once", "more": 1}'; exec sleep 3600`] as [string, ...string[]];
  await fails(
    compute(odd, () => assert.fail("it did not ask")).start(
      { ...spec(storage), bootstrapToken: "once" },
      never(),
      () => {},
    ),
    /\(it says "\{\\"token\\": \\"…\\", \\"more\\": 1\}" instead of an IssueCertificateRequest\)/,
    false,
  );
});

test("an agent that listens before it has a certificate is none of this version", async (storage) => {
  const early = ["/bin/sh", "-c", `echo '{"port": 1, "commandPort": 2}'; exec sleep 3600`] as [string, ...string[]];
  await fails(
    compute(early, () => assert.fail("it did not ask")).start(spec(storage), never(), () => {}),
    /instead of an IssueCertificateRequest\)/,
    false,
  );
});

test("an agent gets of the environment only what it may have", async (storage) => {
  const agent = await compute().start(spec(storage, "--fake=environment"), never(), () => {});
  agent.kill();
  await agent.ended;
  const environment = JSON.parse(Deno.readTextFileSync(join(storage, "agent.log")));
  delete environment.PATH;
  delete environment.HOME;
  assert.deepEqual(environment, { USER: "ann" });
});

test("an agent that ends at once is quoted with its last words", async (storage) => {
  const start = compute().start(spec(storage, "--fake=exit"), never(), () => {});
  await fails(start, /\(exit code 3\): fake agent: no JDK here; more stands in .*agent\.log\.$/, false);
});

test("an agent that prints nonsense is no agent, and is ended", async (storage) => {
  const start = compute().start(spec(storage, "--fake=garbage"), never(), () => {});
  await fails(
    start,
    /is not an agent of this version of RBS \(it says "Welcome to {3}the shell!" instead of an AgentListening\)/,
    false,
  );
});

test("an agent that says nothing is ended when the start is given up", async (storage) => {
  const giveUp = new AbortController();
  const start = compute().start(spec(storage, "--fake=hang"), giveUp.signal, () => {
    giveUp.abort(new AgentStartError("It took too long.", true));
  });
  await fails(start, /^It took too long\.$/, true);
});

test("an endless first line is not read to its end", async (storage) => {
  await fails(
    compute(["/bin/sh", "-c", "exec yes '' | tr '\\n' x"]).start(spec(storage), never(), () => {}),
    /is not an agent of this version of RBS/,
    false,
  );
});

test("a program that is not there or cannot be executed is named", async (storage) => {
  await fails(
    compute(["/nowhere/agent"]).start(spec(storage), never(), () => {}),
    /\/nowhere\/agent cannot be exec/,
    false,
  );
  await fails(
    compute([FAKE_AGENT]).start(spec(storage), never(), () => {}),
    /fake_agent\.ts cannot be executed/,
    false,
  );
});

test("storage that cannot be made is named", async (storage) => {
  Deno.writeTextFileSync(storage, "a file");
  await fails(compute().start(spec(storage), never(), () => {}), /storage .* cannot be written/, false);
});

test("the log of the agent before is kept", async (storage) => {
  for (let i = 0; i < 2; i++) {
    await fails(compute(["/bin/false"]).start(spec(storage), never(), () => {}), /exit code 1/, false);
  }
  assert(Deno.statSync(join(storage, "agent.log.old")).isFile);
  assert.equal(Deno.statSync(join(storage, "agent.log")).mode! & 0o777, 0o600);
});

Deno.test("a session goes on with another's storage once, if it has none of its own", () => {
  using temp = tempDirectory();
  const [from, to, third] = ["from", "to", "third"].map((name) => join(temp.path, name));
  Deno.mkdirSync(from);
  Deno.writeTextFileSync(join(from, "file"), "");
  const service = compute();
  assert.equal(service.inherit(from, to), undefined);
  assert.equal(Deno.statSync(join(to, "file")).isFile, true);
  assert.equal(service.inherit(from, third), undefined);
  Deno.mkdirSync(from);
  assert.equal(service.inherit(from, to), undefined);
  assert.equal(Deno.statSync(join(to, "file")).isFile, true);
});

Deno.test("a session's agent is told where its user's class-data archives are, which an agent without a session is not", () => {
  const compute = new ProcessCompute({ command: ["/agent"], environment: ENVIRONMENT, maxClassArchives: 3 });
  const { classArchiveDirectory, maxClassArchives } = compute.complete(spec("/s/ann/ws"));
  assert.deepEqual([classArchiveDirectory, maxClassArchives], ["/s/ann/.classes", 3]);
  assert.equal(compute.complete({ ...spec("/s/.warm/x"), warm: true }).classArchiveDirectory, undefined);
  const none = new ProcessCompute({ command: ["/agent"], environment: ENVIRONMENT, maxClassArchives: 0 });
  assert.equal(none.complete(spec("/s/ann/ws")).classArchiveDirectory, undefined);
});
