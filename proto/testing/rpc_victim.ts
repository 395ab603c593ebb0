/**
 * A server of our own services as an orchestrator's: strangers may ask for a certificate, and users for heartbeats. In a
 * process of its own, so that a test can see what it costs. Says where it listens, and what its callers need, as one line
 * of JSON; ends with its input.
 */
import { Identity as IdentityService } from "../contract/gen/rbs/v1/identity_pb.ts";
import { Orchestrator } from "../contract/gen/rbs/v1/orchestrator_pb.ts";
import { Code, RpcError } from "../transport/rpc/client.ts";
import { admit } from "../identity/access_rules.ts";
import { RpcServer } from "../transport/rpc/server.ts";
import { TRUST_DOMAIN } from "./certificates.ts";
import { orchestratorCredentials, testAuthority } from "./keys.ts";

const authority = await testAuthority();
const server = new RpcServer({
  address: "127.0.0.1:0",
  credentials: await orchestratorCredentials(),
  admitStrangers: true,
  authorize: admit,
  // The machine of a test may be busy.
  limits: { handshakeMs: 30_000, strangerMs: 60_000 },
})
  .add(IdentityService, {
    issueCertificate: ({ token }) =>
      token === "good"
        ? Promise.resolve({ certificate: "a certificate" })
        : Promise.reject(new RpcError(Code.UNAUTHENTICATED, "The token is not known.")),
    renewCertificate: () => Promise.resolve({}),
  })
  .add(Orchestrator, { heartbeat: () => Promise.resolve({ intervalSeconds: 7 }) } as never);
const port = await server.listen();
const user = (userId: string) => authority.identify({ kind: "user", userId }, { names: [] });
const say = (value: unknown) => Deno.stdout.writeSync(new TextEncoder().encode(`${JSON.stringify(value)}\n`));
say({
  port,
  stranger: { authorities: authority.certificate, trustDomain: TRUST_DOMAIN },
  ann: await user("ann"),
  bob: await user("bob"),
});
for await (const _ of Deno.stdin.readable);
Deno.exit(0);
