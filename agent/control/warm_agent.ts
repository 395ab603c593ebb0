import { RbsError } from "../../proto/base/errors.ts";
import type { AgentSpec } from "../../proto/contract/gen/rbs/v1/agent_pb.ts";
import { type AgentArguments, specFault } from "../arguments.ts";
import { log } from "../log.ts";
import type { HeldMaker } from "../namespace/held_maker.ts";
import { holdMaker, SessionNamespace } from "../namespace/mount_namespace.ts";
import type { Supervision } from "./supervise_service.ts";

/**
 * The life of an agent that was started ahead, until it gets a session: it tries out what a session will need first, a
 * namespace, starts what will make the session's, and waits. It has a folder of its own meanwhile, which it leaves and
 * removes.
 *
 * Rejects with an RbsError when it is given a session that is none.
 */
export async function waitForSession(
  { storageDirectory }: AgentSpec,
  { namespace: kind, allowRootSessions }: Pick<AgentArguments, "namespace" | "allowRootSessions">,
  supervision: Supervision,
): Promise<{ spec: AgentSpec; held?: HeldMaker }> {
  const trial = new SessionNamespace({ kind, storageDirectory, allowRootSessions });
  // What does not work here is said to whoever gets the agent.
  await trial.init().catch((e) => log(String(e)));
  await trial.close();
  // Without it the session's namespace is made as any other.
  const held = await holdMaker({ allowRootSessions }).catch((e) => void log(String(e)));
  const spec = await supervision.waiting();
  const fault = specFault(spec);
  if (fault) throw new RbsError(`it was assigned no session: ${fault}.`);
  leave(storageDirectory, spec.storageDirectory);
  return { spec, held: held ?? undefined };
}

/** Goes to the session's storage, and takes away the folder that nobody needs any more. */
function leave(former: string, next: string): void {
  try {
    Deno.mkdirSync(next, { recursive: true, mode: 0o700 });
    Deno.chdir(next);
  } catch (e) {
    // What cannot be written is said when the session's storage is locked.
    log(`its folder ${former} could not be left: ${e}`);
  }
  // Nobody waits for it.
  Deno.remove(former, { recursive: true }).catch((e) => log(`its folder ${former} could not be removed: ${e}`));
}
