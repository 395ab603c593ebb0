/** Makes the proxy known to Bazel clients, as a server does: by files in its output base. */
import { join } from "node:path";
import { randomToken } from "../../proto/base/state_directory.ts";
import { HANDSHAKE_FILES } from "../../proto/bazel/handshake_files.ts";
import { encodeFields } from "../../proto/base/protobuf_fields.ts";

/** A proxy's handshake files. */
export class Handshake {
  /** The secrets by which client and proxy recognize each other. */
  readonly requestCookie: string = randomToken();
  readonly responseCookie: string = randomToken();
  readonly #directory: string;

  /** @param outputBase Absolute; its `server` directory exists (the client made it). */
  constructor(outputBase: string) {
    this.#directory = join(outputBase, "server");
  }

  /** Writes the files. Each appears completely; the two with the address come last. */
  publish(port: number): void {
    const address = `127.0.0.1:${port}`;
    this.#write("request_cookie", this.requestCookie);
    this.#write("response_cookie", this.responseCookie);
    this.#write(
      "server_info.rawproto",
      encodeFields([[1, Deno.pid], [2, address], [3, this.requestCookie], [4, this.responseCookie]]),
    );
    this.#write("command_port", address);
  }

  /** Whether the output base still exists and names this process as its server. */
  isOurs(): boolean {
    try {
      return Deno.readTextFileSync(join(this.#directory, "server.pid.txt")) === String(Deno.pid);
    } catch {
      return false;
    }
  }

  /** Removes the files, unless a later server has written its own. */
  withdraw(): void {
    try {
      if (Deno.readTextFileSync(join(this.#directory, "request_cookie")) !== this.requestCookie) return;
    } catch {
      return;
    }
    const pid = this.isOurs() ? ["server.pid.txt"] : [];
    for (const name of [...HANDSHAKE_FILES, ...pid]) {
      try {
        Deno.removeSync(join(this.#directory, name));
      } catch { /* gone already, with the output base */ }
    }
  }

  #write(name: string, content: string | Uint8Array): void {
    const file = join(this.#directory, name), temporary = `${file}.${Deno.pid}.tmp`;
    // The cookies are this user's secrets.
    if (typeof content === "string") Deno.writeTextFileSync(temporary, content, { mode: 0o600 });
    else Deno.writeFileSync(temporary, content, { mode: 0o600 });
    Deno.renameSync(temporary, file);
  }
}
