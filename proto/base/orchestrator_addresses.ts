/** A host that is this machine, whatever else its network does. */
const LOOPBACK = /^(?:localhost|127(?:\.\d+){3}|\[::1\])$/;

/** Orchestrators that serve the same sessions, any of which will do, and which of them is asked. */
export class OrchestratorAddresses {
  /** Each "HOST:PORT". */
  readonly all: readonly string[];
  #at = 0;
  #tried = 1;

  /** @param text What RBS_ORCHESTRATOR_ADDR holds: one "HOST:PORT", or several with commas between them. */
  constructor(text: string) {
    const all = text.split(",").map((address) => address.trim()).filter((address) => address !== "");
    this.all = all.length > 0 ? all : [text];
  }

  /** The one that is asked. */
  get current(): string {
    return this.all[this.#at];
  }

  /** Whether all of them are on this machine. */
  get areLocal(): boolean {
    return this.all.every((address) => LOOPBACK.test(address.replace(/:\d+$/, "")));
  }

  /** The one that is asked has answered: if it is lost, all of them are tried again. */
  answered(): void {
    this.#tried = 1;
  }

  /** The one that is asked does not answer: goes on to the next. @returns false: all have been tried by now */
  next(): boolean {
    this.#at = (this.#at + 1) % this.all.length;
    if (this.#tried++ < this.all.length) return true;
    this.#tried = 1;
    return false;
  }

  /**
   * Whether it is certain that nothing listens: all of them are on this machine, which refuses connections at once. A
   * refusal elsewhere may come from a machine that is starting, or from a forwarder whose target is.
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

  /** For people. */
  toString(): string {
    return this.all.join(" or ");
  }
}
