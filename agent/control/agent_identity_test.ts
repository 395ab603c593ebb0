import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { certificateIdentity } from "../../proto/identity/certificate.ts";
import { TrustError } from "../../proto/transport/rpc/client.ts";
import { TestAuthority, TRUST_DOMAIN } from "../../proto/testing/certificates.ts";
import { TestIssuer } from "../../proto/testing/issuer.ts";
import { AgentIdentity } from "./agent_identity.ts";
import { TestAgent, TestWorkspace } from "../test_agent.ts";
import { eventually } from "../../tests/support/eventually.ts";

const AGENT = { kind: "agent", agentId: "7".repeat(32) } as const;

function test(promise: string, fn: () => Promise<void>): void {
  // gRPC's channels close a moment after they are told to.
  Deno.test({ name: promise, fn, sanitizeOps: false, sanitizeResources: false });
}

/** Credentials that are half over in `ms` milliseconds. */
const halfOverIn = (ms: number) => ({
  notBefore: new Date(Date.now() - 10_000),
  notAfter: new Date(Date.now() + 10_000 + 2 * ms),
});

test("an agent gets its certificate for its token, once, and only from the orchestrator that it was told of", async () => {
  await using issuer = await TestIssuer.start(AGENT);
  {
    using identity = await AgentIdentity.obtain(issuer.spec(), { log() {} });
    const { raw } = new X509Certificate(identity.credentials.certificate);
    assert.deepEqual(certificateIdentity(raw, TRUST_DOMAIN), AGENT);
  }
  await assert.rejects(AgentIdentity.obtain(issuer.spec(), { log() {} }), /the token was used/);
  const other = { ...issuer.spec("another"), authorities: (await TestAuthority.make()).certificate };
  await assert.rejects(AgentIdentity.obtain(other, { log() {} }), TrustError);
});

test("at half its life a certificate is renewed, and tried again when that fails, where the orchestrator is now", async () => {
  await using issuer = await TestIssuer.start(AGENT);
  const lines: string[] = [];
  const asked: string[] = [];
  const renewed = Promise.withResolvers<string>();
  const first = await issuer.authority.identify(AGENT, halfOverIn(300));
  const second = await issuer.authority.identify(AGENT);
  using identity = await AgentIdentity.obtain(issuer.spec(), {
    log: (line) => void lines.push(line),
    enrol: () => Promise.resolve(first),
    renew: (address, credentials) => {
      assert.equal(credentials, first);
      asked.push(address);
      if (asked.length === 1) identity.orchestratorIsAt("127.0.0.1:2");
      if (asked.length === 1) return Promise.reject(new Error("nobody there"));
      return Promise.resolve(second);
    },
  });
  identity.onChange((credentials) => renewed.resolve(credentials.certificate));
  identity.orchestratorIsAt("");
  assert.equal(await renewed.promise, second.certificate);
  assert.equal(identity.credentials, second);
  assert.deepEqual(asked, [issuer.address, "127.0.0.1:2"]);
  assert.deepEqual(lines, ["the agent's certificate could not be renewed: nobody there"]);
});

test("while an agent's certificate is renewed its streams live on, and who comes after sees the new one", async () => {
  await using workspace = await TestWorkspace.make();
  await using agent = await TestAgent.start(workspace, { certificates: halfOverIn(4_000) });
  using supervisor = agent.supervise();
  await supervisor.ready();
  using command = agent.execute({ args: ["/bin/cat"] });
  await command.send("before ");
  await command.says("before");
  await eventually(() => agent.issuer.renewals > 0 && agent.log.includes("certificate was renewed"));
  await command.send("after");
  await command.says("before after");
  command.end();
  assert.equal((await command.result).code, 0);
  assert.equal(await agent.sh("echo new"), "new");
});
