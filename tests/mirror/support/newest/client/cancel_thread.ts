/**
 * What the client's second thread does: one thing at a time, each of which the next one waits for. So a call that is not
 * answered keeps the user's Ctrl-C waiting (Bazel 9.3, `src/main/cpp/blaze.cc`, CancelThread; bazelbuild/bazel#29750).
 *
 *     signal ──> action ──> UpdateTerminalSize, up to 10 s ──> Cancel, up to 10 s ──> JOIN
 */
import { TerminalSize, TOMORROW } from "../messages.ts";
import type { Channel, RequestFields } from "./channel.ts";

/** How long the thread waits for an answer. Milliseconds. */
const DEADLINE_MS = 10_000;

type Action = "cancel" | "resized" | "tomorrow" | "command id" | "join";

/** Where the thread's calls go, and who hears of them. */
export interface CancelThreadOptions {
  channel: Channel;
  size(): { columns: number; rows: number };
  /** A line for the user. */
  say(line: string): void;
  /** How long a call took. */
  debug(line: string): void;
}

export class CancelThread {
  readonly #options: CancelThreadOptions;
  readonly #actions: Action[] = [];
  #wake = () => {};
  #commandId = "";
  readonly #over: Promise<void>;

  constructor(options: CancelThreadOptions) {
    this.#options = options;
    this.#over = this.#work();
  }

  /** Writes to the thread's pipe. */
  send(action: Action): void {
    this.#actions.push(action);
    this.#wake();
  }

  /** The server has said which command it is: what had to wait for that is done now. */
  learn(commandId: string): void {
    if (this.#commandId) return;
    this.#commandId = commandId;
    this.send("command id");
  }

  async join(): Promise<void> {
    this.send("join");
    await this.#over;
  }

  async #work(): Promise<void> {
    const waiting = new Set<Action>();
    for (;;) {
      const action = this.#actions.shift();
      if (!action) await new Promise<void>((resolve) => this.#wake = resolve);
      else if (action === "join") return;
      else if (action !== "command id") {
        waiting.add(action);
        if (!this.#commandId) continue;
      }
      if (!action) continue;
      for (const one of [...waiting].toSorted((a, b) => Number(a === "cancel") - Number(b === "cancel"))) {
        waiting.delete(one);
        await this.#act(one);
      }
    }
  }

  async #act(action: Action): Promise<void> {
    const id: RequestFields = [[TerminalSize.commandId, this.#commandId]];
    if (action === "tomorrow") return void await this.#call(TOMORROW.method, id);
    if (action === "resized") {
      const { columns, rows } = this.#options.size();
      return void await this.#call("UpdateTerminalSize", [
        ...id,
        [TerminalSize.columns, columns],
        [TerminalSize.rows, rows],
      ]);
    }
    const error = await this.#call("Cancel", id);
    if (error) this.#options.say(`\nCould not interrupt server: ${error}\n`);
  }

  /** @returns why it failed */
  async #call(method: string, fields: RequestFields): Promise<string | undefined> {
    const began = performance.now();
    const error = await this.#options.channel.unary(method, fields, DEADLINE_MS).then(() => undefined, String);
    this.#options.debug(`${method} took ${Math.round(performance.now() - began)} ms${error ? `: ${error}` : ""}`);
    return error;
  }
}
