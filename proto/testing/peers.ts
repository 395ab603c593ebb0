import { LineReader } from "../base/line_reader.ts";

/** Starts http2_peer.ts as a process of its own. */
const SCRIPT = new URL("./http2_peer.ts", import.meta.url).pathname;

/** A peer that runs; it ends with the scope. */
export class PeerProcess implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #lines: LineReader;

  /** @param args See http2_peer.ts. */
  constructor(...args: string[]) {
    this.#child = new Deno.Command(Deno.execPath(), {
      args: ["run", "--quiet", "--allow-all", SCRIPT, ...args],
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    this.#lines = new LineReader(this.#child.stdout);
  }

  /** The next line that it says, as JSON. Rejects when it ends without one. */
  // deno-lint-ignore no-explicit-any
  async line(): Promise<any> {
    const line = await this.#lines.next();
    if (line === undefined) {
      throw new Error(`the peer ended without a word: ${JSON.stringify(await this.#child.status)}`);
    }
    return JSON.parse(line);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#child.stdin.close().catch(() => {});
    this.#lines.close();
    try {
      this.#child.kill("SIGKILL");
    } catch { /* ended already */ }
    await this.#child.status;
  }
}
