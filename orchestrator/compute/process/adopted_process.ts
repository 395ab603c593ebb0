/**
 * An agent's process that another orchestrator started: it is no child of ours, so that the kernel does not tell of its
 * end. Its file does (agent_folder.ts), which is looked at once in a second.
 */
import { unref } from "../../../proto/base/timers.ts";
import { isAlive } from "./agent_folder.ts";
import { type AgentUser, PATHS } from "./agent_user.ts";

/** Milliseconds. */
const LOOK_MS = 1_000;

/** See the file's head. */
export class AdoptedProcess {
  readonly #pid: number;
  readonly #folder: string;
  readonly #user?: AgentUser;
  readonly #ended = Promise.withResolvers<void>();
  #timer?: ReturnType<typeof setInterval>;
  /** It is to be gone; and its user may hold its file for it. */
  #isKilled = false;

  /** @param user Whom it runs as. @default the orchestrator's own user */
  constructor(pid: number, folder: string, user?: AgentUser, lookMs = LOOK_MS) {
    this.#pid = pid;
    this.#folder = folder;
    this.#user = user;
    this.#timer = setInterval(() => this.#look(), lookMs);
    unref(this.#timer);
    this.#look();
  }

  /** Resolves when the process is gone. */
  get ended(): Promise<void> {
    return this.#ended.promise;
  }

  /**
   * Sends a signal, if the process still is the agent. A process id may be another's by now: so long as the file is locked
   * it is not; and it is the agent's own user that sends the signal, who could do no harm to others by a lock that is false.
   * Nor can that user keep an agent from being gone: KILL is sent again with each look, and once there is no process to
   * take it, there is no agent.
   */
  signal(name: "TERM" | "KILL"): void {
    this.#isKilled ||= name === "KILL";
    this.#look();
    // With that look it is sent.
    if (name === "TERM") this.#send(name);
  }

  async #send(name: "TERM" | "KILL"): Promise<void> {
    if (this.#timer === undefined) return;
    const { uid, gid } = this.#user ?? {};
    const command = new Deno.Command("kill", {
      args: ["-s", name, "--", String(this.#pid)],
      ...uid !== undefined && { uid, gid, cwd: "/", clearEnv: true, env: { PATH: PATHS } },
      ...{ stdin: "null", stdout: "null", stderr: "null" },
    });
    try {
      const { success, signal } = await command.spawn().status;
      if (name === "KILL" && !success && signal === null) this.#end();
    } catch {
      // Without the program it ends by its lease.
    }
  }

  /** Looks no more. */
  letGo(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  #look(): void {
    if (this.#timer === undefined) return;
    try {
      if (!isAlive(this.#folder)) return this.#end();
    } catch {
      // A disk that fails says nothing of the agent.
    }
    if (this.#isKilled) void this.#send("KILL");
  }

  #end(): void {
    // Nobody is told of one that was let go.
    if (this.#timer === undefined) return;
    this.letGo();
    this.#ended.resolve();
  }
}
