/** Where an agent listens. */
export interface AgentEndpoint {
  readonly host: string;
  /** Port of rbs.v1.Agent. */
  readonly port: number;
  /** Port of command_server.CommandServer. */
  readonly commandPort: number;
}

/** An endpoint as sessions and warm agents have it: an empty host and ports 0 stand for none. */
export interface EndpointFields {
  readonly host: string;
  readonly agentPort: number;
  readonly commandPort: number;
}

/** Where the agent of a session, or a warm agent, listens; undefined: it does not, as far as the store knows. */
export function endpointOf({ host, agentPort, commandPort }: EndpointFields): AgentEndpoint | undefined {
  return agentPort === 0 ? undefined : { host, port: agentPort, commandPort };
}
