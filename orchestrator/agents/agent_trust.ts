import type { Credentials } from "../../proto/identity/credentials.ts";
import type { ClientTls } from "../../proto/transport/tls/channel_credentials.ts";
import type { AgentBootstrap } from "../compute/compute_service.ts";

/** What makes orchestrator and agents trust each other. */
export interface AgentTrust {
  /** "host:port" where agents find this orchestrator, once it listens. */
  readonly orchestratorAddress: Promise<string>;
  /** The orchestrator's own; called for each connection. */
  credentials(): Credentials;
  /** Makes the token for which an agent gets its certificate. */
  bootstrapToken(agentId: string): Promise<string>;
}

/** What an agent gets its first certificate by. @param trust Undefined: there are none, for tests */
export async function bootstrap(agentId: string, trust: AgentTrust | undefined): Promise<AgentBootstrap | undefined> {
  if (!trust) return undefined;
  const { authorities, trustDomain } = trust.credentials();
  const [orchestratorAddress, bootstrapToken] = await Promise.all([
    trust.orchestratorAddress,
    trust.bootstrapToken(agentId),
  ]);
  return { orchestratorAddress, bootstrapToken, authorities, trustDomain };
}

/** How an agent is called. */
export function agentTls(trust: AgentTrust | undefined, agentId: string): ClientTls | undefined {
  return trust && { credentials: trust.credentials(), expected: { kind: "agent", agentId } };
}
