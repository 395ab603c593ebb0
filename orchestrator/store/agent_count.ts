import { machineOf, type SessionKey } from "./session.ts";

/**
 * How many of a user's agents for one workspace on one machine count under AgentLimits.agentsPerUser: the second one
 * does not, since it is an IDE's small server beside the terminal's.
 */
export function counted(agents: number): number {
  return agents > 1 ? agents - 1 : agents;
}

/** Counts users' agents as AgentLimits require. */
export class AgentCount {
  /** By user, then by workspace and machine. */
  readonly #groups = new Map<string, Map<string, number>>();
  #all = 0;

  constructor(keys: Iterable<SessionKey> = []) {
    for (const key of keys) this.add(key);
  }

  /** Counts one more agent. */
  add(key: SessionKey): void {
    const groups = this.#groups.get(key.userId) ?? new Map<string, number>();
    this.#groups.set(key.userId, groups.set(groupOf(key), (groups.get(groupOf(key)) ?? 0) + 1));
    this.#all++;
  }

  /** Number of all users' agents. */
  get all(): number {
    return this.#all;
  }

  /** Number of a user's agents that count. */
  of(userId: string): number {
    let sum = 0;
    for (const agents of this.#groups.get(userId)?.values() ?? []) sum += counted(agents);
    return sum;
  }

  /** Whether one more agent of this key would be a second one, which does not count. */
  isSecond(key: SessionKey): boolean {
    return this.#groups.get(key.userId)?.get(groupOf(key)) === 1;
  }
}

function groupOf({ repoHash, serverId }: SessionKey): string {
  return `${repoHash}/${machineOf(serverId)}`;
}
