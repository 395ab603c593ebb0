import type { IdentityStore } from "./identity_store.ts";
import type { LeaseStore } from "./lease_store.ts";
import type { SessionStore } from "./session_store.ts";
import type { WarmAgentStore } from "./warm_agent_store.ts";

/** Everything that orchestrators keep in one database. Closing it closes its parts. */
export interface Store extends AsyncDisposable {
  readonly sessions: SessionStore;
  readonly leases: LeaseStore;
  readonly warmAgents: WarmAgentStore;
  readonly identities: IdentityStore;
}
