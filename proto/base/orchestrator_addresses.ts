/** Matches hosts that are always this machine. */
const LOOPBACK = /^(?:localhost|127(?:\.\d+){3}|\[::1\])$/;

/** The addresses of equivalent orchestrators, and which of them is in use. */
export class OrchestratorAddresses {
  /** Each is "HOST:PORT". */
  readonly all: readonly string[];
  #at = 0;
  #tried = 1;

  /** @param text The value of RBS_ORCHESTRATOR_ADDR: one "HOST:PORT", or several separated by commas. */
  constructor(text: string) {
    const all = text.split(",").map((address) => address.trim()).filter((address) => address !== "");
    this.all = all.length > 0 ? all : [text];
  }

  /** The address in use. */
  get current(): string {
    return this.all[this.#at];
  }

  /** Whether all addresses are on this machine. */
  get areLocal(): boolean {
    return this.all.every((address) => LOOPBACK.test(address.replace(/:\d+$/, "")));
  }

  /** Records an answer: if the orchestrator is lost later, all are tried again. */
  answered(): void {
    this.#tried = 1;
  }

  /** Moves to the next address after a failure. @returns false if all have been tried */
  next(): boolean {
    this.#at = (this.#at + 1) % this.all.length;
    if (this.#tried++ < this.all.length) return true;
    this.#tried = 1;
    return false;
  }

  /**
   * Whether certainly nothing listens: all addresses are on this machine, which refuses connections at once. Elsewhere
   * a refusal may come from a machine that is starting, or from a forwarder whose target is.
   */
  async areRefused(): Promise<boolean> {
    for (const address of this.all) {
      const [, hostname = "", port] = /^(.*):(\d+)$/.exec(address) ?? [];
      if (!LOOPBACK.test(hostname)) return false;
      try {
        (await Deno.connect({ hostname: hostname.replace(/^\[|\]$/g, ""), port: Number(port) })).close();
        return false;
      } catch (e) {
        if (!(e instanceof Deno.errors.ConnectionRefused)) return false;
      }
    }
    return true;
  }

  /** For messages. */
  toString(): string {
    return this.all.join(" or ");
  }
}
