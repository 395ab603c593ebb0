/**
 * An agent's process that another orchestrator started. It is not this program's child, so the kernel does not report its
 * end. The lock of its file does (agent_folder.ts), which is checked once a second.
 */
import { unref } from "../../../proto/base/timers.ts";
import { isAlive } from "./agent_folder.ts";
import { type AgentUser, PATHS } from "./agent_user.ts";

/** Interval between two checks of the lock, in milliseconds. */
const LOOK_MS = 1_000;

/** Signals the process, and reports its end. */
export class AdoptedProcess {
  readonly #pid: number;
  readonly #folder: string;
  readonly #user?: AgentUser;
  readonly #ended = Promise.withResolvers<void>();
  #timer?: ReturnType<typeof setInterval>;
  /** KILL was asked for: it is repeated, since a process of the agent's user may hold the lock in its place. */
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
   * Sends a signal if the process still is the agent. While the file is locked, the process id has not been reused. The
   * agent's own user sends the signal, so that a false lock harms no other user's process. A false lock cannot keep a dead
   * agent alive either: KILL is repeated at each check, and when no process takes it, the agent has ended.
   */
  signal(name: "TERM" | "KILL"): void {
    this.#isKilled ||= name === "KILL";
    this.#look();
    // The check above has sent KILL.
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
      // Without the program `kill`, the agent ends when its lease expires.
    }
  }

  /** Stops the checks. */
  letGo(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  #look(): void {
    if (this.#timer === undefined) return;
    try {
      if (!isAlive(this.#folder)) return this.#end();
    } catch {
      // A failing disk says nothing about the agent.
    }
    if (this.#isKilled) void this.#send("KILL");
  }

  #end(): void {
    // Of a process that was let go, no end is reported.
    if (this.#timer === undefined) return;
    this.letGo();
    this.#ended.resolve();
  }
}
