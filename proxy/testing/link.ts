/** A link between two programs on this machine that a test can break. */

/** Forwards connections from a port of its own to another. */
export class TestLink implements Disposable {
  readonly #listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  readonly #pairs = new Set<{ near: Deno.TcpConn; far: Deno.TcpConn }>();
  #silent = false;
  #down = false;
  /** Bytes that went towards the caller. */
  received = 0;
  /** Cuts the link when so many bytes have gone towards the caller. */
  cutAt = Infinity;

  constructor(readonly target: number) {
    void this.#accept();
  }

  /** Where callers connect. */
  get port(): number {
    return (this.#listener.addr as Deno.NetAddr).port;
  }

  /** Ends every connection; new ones can be made. */
  cut(): void {
    for (const { near, far } of this.#pairs) {
      close(near);
      close(far);
    }
    this.#pairs.clear();
  }

  /** Nothing arrives any more, and nobody is told. */
  silence(): void {
    this.#silent = true;
  }

  /** Connections end, and new ones end at once. */
  down(): void {
    this.#down = true;
    this.cut();
  }

  /** New connections work again. */
  heal(): void {
    this.#silent = this.#down = false;
  }

  async #accept(): Promise<void> {
    for await (const near of this.#listener) {
      if (this.#down) {
        close(near);
        continue;
      }
      const far = await Deno.connect({ port: this.target });
      this.#pairs.add({ near, far });
      void this.#forward(near, far, () => {});
      void this.#forward(far, near, (n) => {
        this.received += n;
        if (this.received < this.cutAt) return;
        this.cutAt = Infinity;
        this.cut();
      });
    }
  }

  async #forward(from: Deno.TcpConn, to: Deno.TcpConn, passed: (bytes: number) => void): Promise<void> {
    const buffer = new Uint8Array(1 << 16);
    try {
      for (let n = await from.read(buffer); n !== null; n = await from.read(buffer)) {
        if (this.#silent) continue;
        for (let at = 0; at < n;) at += await to.write(buffer.subarray(at, n));
        passed(n);
      }
    } catch { /* cut */ }
    if (this.#silent) return;
    close(from);
    close(to);
  }

  [Symbol.dispose](): void {
    this.#silent = false;
    this.cut();
    close(this.#listener);
  }
}

function close(resource: { close(): void }): void {
  try {
    resource.close();
  } catch { /* closed already */ }
}
