/** Where an agent listens. */
export interface AgentEndpoint {
  readonly host: string;
  /** Port of rbs.v1.Agent. */
  readonly port: number;
  /** Port of command_server.CommandServer. */
  readonly commandPort: number;
}

/** An endpoint in the fields of sessions and warm agents: an empty host and ports 0 mean that there is none. */
export interface EndpointFields {
  readonly host: string;
  readonly agentPort: number;
  readonly commandPort: number;
}

/** Where an agent listens; undefined if it does not, as far as the store knows. */
export function endpointOf({ host, agentPort, commandPort }: EndpointFields): AgentEndpoint | undefined {
  return agentPort === 0 ? undefined : { host, port: agentPort, commandPort };
}
