/** What a run has started, as /proc shows it, whoever started it. */
import { parents, type Process, processesNaming } from "../../mirror/support/processes.ts";
import { PROGRAMS } from "../../support/repository.ts";

/** An agent, of a session or of the warm pool. */
export interface AgentProcess {
  readonly pid: number;
  /** Below the storage root: `<user>/<repo hash>`, or where a warm agent waits. */
  readonly folder: string;
  /** It has a namespace, and so the storage. */
  readonly isServing: boolean;
}

/** All processes of a run. */
export interface Processes {
  readonly agents: readonly AgentProcess[];
  /** Bazel servers. */
  readonly servers: readonly Process[];
  /** What neither is an agent or an orchestrator, nor was started by one that lives. */
  readonly strays: readonly Process[];
}

/**
 * Looks at the machine.
 *
 * @param directory All that a run starts names it.
 * @param storage The storage root, in it.
 * @param orchestrators Their process ids.
 */
export async function lookAtProcesses(
  directory: string,
  storage: string,
  orchestrators: readonly (number | undefined)[],
): Promise<Processes> {
  const all = await processesNaming(directory);
  // What makes a namespace was started before it was known for whom, and names nothing of the run.
  const parentOf = await parents();
  const isOf = (pid: number, owners: ReadonlySet<number | undefined>): boolean => {
    for (let at: number | undefined = pid; at; at = parentOf.get(at)) if (owners.has(at)) return true;
    return false;
  };
  const isProgram = (one: Process) => one.args.includes(PROGRAMS.agent) && !one.args.includes(PROGRAMS.orchestrator);
  const folder = (one: Process) => one.text.split("\0").at(-1)!;
  const candidates = all.filter((one) => isProgram(one) && folder(one).startsWith(`${storage}/`));
  // A child that has not become another program yet still looks like its agent.
  const isForked = (one: Process) => candidates.some(({ pid }) => pid === one.ppid);
  const agents = candidates.filter((one) => !isForked(one)).map((one): AgentProcess => ({
    pid: one.pid,
    folder: folder(one).slice(storage.length + 1),
    isServing: all.some(({ pid, args }) =>
      args.some((arg) => arg.endsWith("/init.sh")) && isOf(pid, new Set([one.pid]))
    ),
  }));
  const owners = new Set([Deno.pid, ...orchestrators, ...agents.map(({ pid }) => pid)]);
  const servers = all.filter(({ args }) => args[0].startsWith("bazel("));
  return { agents, servers, strays: all.filter(({ pid }) => !isOf(pid, owners)) };
}
