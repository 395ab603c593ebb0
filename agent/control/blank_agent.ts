/** An agent before it has a session: how the first thing that every agent is, blank, becomes a session's. */
import { RbsError, sentence } from "../../proto/base/errors.ts";
import { unref } from "../../proto/base/timers.ts";
import type { AgentSpec, BlankAgent } from "../../proto/contract/gen/rbs/v1/agent_pb.ts";
import { type AgentArguments, specFault } from "../arguments.ts";
import { log } from "../log.ts";
import type { HeldMaker } from "../namespace/held_maker.ts";
import { holdMaker, SessionNamespace } from "../namespace/mount_namespace.ts";
import type { Supervision } from "./supervise_service.ts";

/** An agent that nobody has given a session by then was started ahead, and has time. Milliseconds. */
const TRIAL_AFTER_MS = 500;

/**
 * Locks the file by which others on this machine see that the agent lives: until the process ends, in whatever way.
 * Throws an RbsError when somebody else holds it.
 *
 * @param path Empty: nobody looks.
 */
export async function holdAliveFile(path: string): Promise<void> {
  if (path === "") return;
  let file: Deno.FsFile;
  try {
    file = await Deno.open(path, { write: true });
  } catch (cause) {
    throw new RbsError(`agent: its file ${path} cannot be opened (${sentence(cause)}).`, { cause });
  }
  // Never closed: the system does that.
  if (!await file.tryLock(true)) throw new RbsError(`agent: its file ${path} is another agent's.`);
}

/** The life of a blank agent. */
export class BlankLife {
  readonly #blank: BlankAgent;
  readonly #flags: Pick<AgentArguments, "namespace" | "allowRootSessions">;
  readonly #maker: Promise<HeldMaker | undefined>;
  #trial?: Promise<void>;

  constructor(blank: BlankAgent, flags: Pick<AgentArguments, "namespace" | "allowRootSessions">) {
    this.#blank = blank;
    this.#flags = flags;
    // At once: what makes the session's namespace starts while the certificate is on its way. Without it the namespace is
    // made as it would be otherwise.
    this.#maker = holdMaker(flags).catch((e) => void log(String(e)));
  }

  /**
   * Waits for a session. An agent that waits for long tries out meanwhile what one needs first, a namespace: the next one
   * finds all of that in memory.
   *
   * Rejects with an RbsError when what it is assigned is no session, or another agent's.
   */
  async assigned(supervision: Supervision): Promise<{ spec: AgentSpec; held?: HeldMaker }> {
    const timer = setTimeout(() => this.#trial = this.#tryOut(), TRIAL_AFTER_MS);
    unref(timer);
    const spec = await supervision.waiting();
    clearTimeout(timer);
    const fault = specFault(spec);
    if (fault) throw new RbsError(`it was assigned no session: ${fault}.`);
    if (spec.agentId !== this.#blank.agentId) {
      throw new RbsError("it was assigned no session: the AgentSpec is for another agent.");
    }
    enter(spec.storageDirectory);
    return { spec, held: await this.#maker };
  }

  /** Removes what the agent had before it had a session. Never rejects. */
  async end(): Promise<void> {
    await this.#trial;
    await Deno.remove(this.#blank.folder, { recursive: true }).catch((e) => {
      // Of another user's folder only what is in it can go.
      if (e instanceof Deno.errors.NotFound || e instanceof Deno.errors.PermissionDenied) return;
      log(`its folder ${this.#blank.folder} could not be removed: ${e}`);
    });
  }

  async #tryOut(): Promise<void> {
    const { namespace: kind, allowRootSessions } = this.#flags;
    const trial = new SessionNamespace({ kind, storageDirectory: this.#blank.folder, allowRootSessions });
    // What does not work here is said to whoever gets the agent.
    await trial.init().catch((e) => log(String(e)));
    await trial.close().catch((e) => log(String(e)));
  }
}

/** Goes to the session's storage. */
function enter(storage: string): void {
  try {
    Deno.mkdirSync(storage, { recursive: true, mode: 0o700 });
    Deno.chdir(storage);
  } catch (e) {
    // What cannot be written is said when the session's storage is locked.
    log(`the session's storage ${storage} could not be entered: ${e}`);
  }
}
