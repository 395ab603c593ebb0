/** Steps of an agent's start that a proxy knows by their beginning. All others are for people only. */

/** Others have all the agents that there may be. */
export const WAITING_FOR_AGENT = "waiting for a free agent";
