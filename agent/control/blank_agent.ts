/** An agent before it has a session. Every agent starts blank and waits until it is assigned one. */
import { RbsError, sentence } from "../../proto/base/errors.ts";
import { unref } from "../../proto/base/timers.ts";
import type { AgentSpec, BlankAgent } from "../../proto/contract/gen/rbs/v1/agent_pb.ts";
import { type AgentArguments, specFault } from "../arguments.ts";
import { log } from "../log.ts";
import type { HeldMaker } from "../namespace/held_maker.ts";
import { holdMaker, SessionNamespace } from "../namespace/mount_namespace.ts";
import type { Supervision } from "./supervise_service.ts";

/** An agent without a session after this time was started ahead of time, and can try a namespace. Milliseconds. */
const TRIAL_AFTER_MS = 500;

/**
 * Locks the file by which orchestrators see that the agent lives, until the process ends. Throws an RbsError if another
 * process holds the lock.
 *
 * @param path Empty if there is no such file.
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

/** A blank agent, from its start to its end. */
export class BlankLife {
  readonly #blank: BlankAgent;
  readonly #flags: Pick<AgentArguments, "namespace" | "allowRootSessions">;
  readonly #maker: Promise<HeldMaker | undefined>;
  #trial?: Promise<void>;

  constructor(blank: BlankAgent, flags: Pick<AgentArguments, "namespace" | "allowRootSessions">) {
    this.#blank = blank;
    this.#flags = flags;
    // The program that makes the session's namespace starts while the certificate is on its way. If it cannot start, the
    // namespace is made without it.
    this.#maker = holdMaker(flags).catch((e) => void log(String(e)));
  }

  /**
   * Waits for a session. Meanwhile an agent that waits for long makes a namespace once, so that the programs and files
   * for the session's own are in memory.
   *
   * Rejects with an RbsError if the assigned session is invalid or meant for another agent.
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
