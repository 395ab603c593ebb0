import { machineOf, type SessionKey } from "./session.ts";

/**
 * How many of a user's agents for one workspace on one machine count under AgentLimits.agentsPerUser: the second one, which
 * is the small server of an IDE beside that of the terminal, does not.
 */
export function counted(agents: number): number {
  return agents > 1 ? agents - 1 : agents;
}

/** Counts the agents of users as AgentLimits do. */
export class AgentCount {
  /** By user, and there by workspace and machine. */
  readonly #groups = new Map<string, Map<string, number>>();
  #all = 0;

  constructor(keys: Iterable<SessionKey> = []) {
    for (const key of keys) this.add(key);
  }

  /** Counts one more. */
  add(key: SessionKey): void {
    const groups = this.#groups.get(key.userId) ?? new Map<string, number>();
    this.#groups.set(key.userId, groups.set(groupOf(key), (groups.get(groupOf(key)) ?? 0) + 1));
    this.#all++;
  }

  /** All agents of all users. */
  get all(): number {
    return this.#all;
  }

  /** What counts of a user's. */
  of(userId: string): number {
    let sum = 0;
    for (const agents of this.#groups.get(userId)?.values() ?? []) sum += counted(agents);
    return sum;
  }

  /** Whether an agent of this key would be a second one, which does not count. */
  isSecond(key: SessionKey): boolean {
    return this.#groups.get(key.userId)?.get(groupOf(key)) === 1;
  }
}

function groupOf({ repoHash, serverId }: SessionKey): string {
  return `${repoHash}/${machineOf(serverId)}`;
}
