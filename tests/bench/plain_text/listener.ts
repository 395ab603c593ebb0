/** Takes the place of proto/transport/tls/listener.ts, see client.ts beside it: believes whatever a caller says of itself. */
import { AdmissionControl } from "../../../proto/transport/admission.ts";
import type { Credentials } from "../../../proto/identity/credentials.ts";
import type { Identity } from "../../../proto/identity/spiffe.ts";
import type { AcceptedConnection, Listener } from "../../../proto/transport/listener.ts";

export interface TlsListenerOptions {
  hostname: string;
  credentials: Credentials;
  accepts?(identity: Identity): boolean;
  onRefused?(why: string): void;
}

export class TlsListener implements Listener {
  readonly #listener: Deno.TcpListener;

  private constructor(hostname: string) {
    this.#listener = Deno.listen({ hostname, port: 0 });
  }

  static listen({ hostname }: TlsListenerOptions): Promise<TlsListener> {
    return Promise.resolve(new TlsListener(hostname));
  }

  get port(): number {
    return (this.#listener.addr as Deno.NetAddr).port;
  }

  async start(serve: (connection: AcceptedConnection) => void): Promise<void> {
    const control = new AdmissionControl();
    for await (const tcp of this.#listener) {
      tcp.setNoDelay(true);
      const admission = control.enter(() => tcp.close())!;
      admission.admit();
      serve({ transport: tcp, admission, caller: { identity: await identity(tcp) } });
    }
  }

  replaceCredentials(): void {}

  close(): void {
    this.#listener.close();
  }
}

async function identity(tcp: Deno.TcpConn): Promise<Identity> {
  let line = "";
  for (const byte = new Uint8Array(1); !line.endsWith("\n");) {
    if (await tcp.read(byte) === null) break;
    line += String.fromCharCode(byte[0]);
  }
  return JSON.parse(line);
}
