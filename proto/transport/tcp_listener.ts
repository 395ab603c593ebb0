import { AdmissionControl, type AdmissionLimits, BACKLOG } from "./admission.ts";
import type { Caller } from "../identity/access_rules.ts";
import type { AcceptedConnection, Listener } from "./listener.ts";
import type { Transport } from "./transport.ts";

type Serve = (connection: AcceptedConnection) => void;

/** What is read of a connection before it is handed over, in bytes: a client's first words, its call as well. */
const FIRST_BYTES = 1 << 10;

/** Who calls in plain text has proved nothing by that. */
const PLAIN: Caller = { stranger: "it speaks plain text" };

/** Options of a {@link TcpListener}. */
export interface TcpListenerOptions {
  /** An IP address (v6 without brackets) or a name of this machine. */
  hostname: string;
  /** @default 0: a free one */
  port?: number;
  /** Each caller is as good as known, as in tests. @default false: it is a stranger until it is admitted by what it sends */
  trusted?: boolean;
  limits?: Partial<AdmissionLimits>;
  /** Told why a caller was refused, in one sentence; not of each when there are many. */
  onRefused?(why: string): void;
}

/** Callers in plain text: those of this machine, and those of tests. */
export class TcpListener implements Listener {
  readonly #listener: Deno.TcpListener;
  readonly #trusted: boolean;
  /** What its callers cost. */
  readonly admission: AdmissionControl;

  /** Throws the system's error if it cannot listen there. */
  constructor({ hostname, port = 0, trusted = false, limits, onRefused }: TcpListenerOptions) {
    this.#listener = Deno.listen({ hostname, port, tcpBacklog: BACKLOG });
    this.#trusted = trusted;
    this.admission = new AdmissionControl(limits, onRefused);
  }

  get port(): number {
    return (this.#listener.addr as Deno.NetAddr).port;
  }

  async start(serve: Serve): Promise<void> {
    for (;;) {
      let tcp: Deno.TcpConn;
      try {
        tcp = await this.#listener.accept();
      } catch (e) {
        if (e instanceof Deno.errors.BadResource || e instanceof Deno.errors.Interrupted) return;
        // A connection that broke before it was taken, or too many open files: neither ends the server.
        await new Promise((r) => setTimeout(r, 10));
        continue;
      }
      try {
        tcp.setNoDelay(true);
      } catch { /* it broke already, which its reader will notice */ }
      void this.#take(tcp, serve);
    }
  }

  async #take(tcp: Deno.TcpConn, serve: Serve): Promise<void> {
    const close = () => {
      try {
        tcp.close();
      } catch { /* closed before */ }
    };
    const admission = this.admission.enter(close);
    if (!admission) return close();
    const end = () => {
      admission.end();
      close();
    };
    const handOver = (first?: Uint8Array) =>
      serve({ transport: new TcpTransport(tcp, end, first), admission, caller: PLAIN });
    if (this.#trusted) return admission.admit() ? handOver() : close();
    // A client of HTTP speaks first. Until it does, it costs no more than this.
    const first = new Uint8Array(FIRST_BYTES);
    const length = await tcp.read(first).catch(() => null);
    if (length === null || !admission.secured()) return end();
    handOver(first.subarray(0, length));
  }

  close(): void {
    try {
      this.#listener.close();
    } catch { /* closed before */ }
  }
}

/** A connection, of which some bytes may have been read already. */
class TcpTransport implements Transport {
  readonly #tcp: Deno.TcpConn;
  #first: Uint8Array;

  /** @param close May be called again. */
  constructor(tcp: Deno.TcpConn, readonly close: () => void, first: Uint8Array = new Uint8Array()) {
    this.#tcp = tcp;
    this.#first = first;
  }

  read(into: Uint8Array): Promise<number | null> {
    const length = Math.min(this.#first.length, into.length);
    if (length === 0) return this.#tcp.read(into);
    into.set(this.#first.subarray(0, length));
    this.#first = this.#first.subarray(length);
    return Promise.resolve(length);
  }

  write(bytes: Uint8Array): Promise<number> {
    return this.#tcp.write(bytes);
  }
}
