/** A TCP connection's way through this process, which can be cut, stopped and slowed down. */
export class TcpLink {
  readonly #listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  readonly #connections = new Set<Deno.TcpConn>();
  /** What each piece takes more. Milliseconds. */
  delayMs = 0;
  #stopped?: PromiseWithResolvers<void>;
  #isOpen = true;

  /** @param port Where it leads, on this machine. */
  constructor(readonly target: number) {
    this.#accept().catch((e) => {
      // Leaving the loop closes a listener that is closed.
      if (!(e instanceof Deno.errors.BadResource)) throw e;
    });
  }

  /** Where it begins, on this machine. */
  get port(): number {
    return this.#listener.addr.port;
  }

  /** Breaks all connections; new ones work. */
  cut(): void {
    for (const connection of this.#connections) close(connection);
    this.#connections.clear();
  }

  /** Nothing passes until {@link go}. */
  stop(): void {
    this.#stopped ??= Promise.withResolvers();
  }

  go(): void {
    this.#stopped?.resolve();
    this.#stopped = undefined;
  }

  /** Breaks all connections, and refuses new ones. */
  close(): void {
    this.#isOpen = false;
    this.go();
    this.cut();
    try {
      this.#listener.close();
    } catch {
      // It is closed.
    }
  }

  async #accept(): Promise<void> {
    for await (const near of this.#listener) {
      if (!this.#isOpen) return close(near);
      this.#connections.add(near);
      try {
        const far = await Deno.connect({ hostname: "127.0.0.1", port: this.target });
        if (!this.#connections.has(near)) {
          close(far);
          continue;
        }
        this.#connections.add(far);
        void this.#pump(near, far);
        void this.#pump(far, near);
      } catch {
        close(near);
      }
    }
  }

  async #pump(from: Deno.TcpConn, to: Deno.TcpConn): Promise<void> {
    const buffer = new Uint8Array(16 << 10);
    try {
      for (;;) {
        const length = await from.read(buffer);
        if (this.delayMs > 0) await new Promise((resolve) => setTimeout(resolve, this.delayMs));
        while (this.#stopped) await this.#stopped.promise;
        if (length === null) break;
        for (let at = 0; at < length;) at += await to.write(buffer.subarray(at, length));
      }
    } catch {
      // One of them was cut.
    }
    for (const connection of [from, to]) {
      close(connection);
      this.#connections.delete(connection);
    }
  }
}

function close(connection: Deno.TcpConn): void {
  try {
    connection.close();
  } catch {
    // It is closed.
  }
}
