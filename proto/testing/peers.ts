/** Starts http2_peer.ts as a process of its own. */
const SCRIPT = new URL("./http2_peer.ts", import.meta.url).pathname;

/** A peer that runs; it ends with the scope. */
export class PeerProcess implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  #output = "";
  readonly #reader: ReadableStreamDefaultReader<string>;

  /** @param args See http2_peer.ts. */
  constructor(...args: string[]) {
    this.#child = new Deno.Command(Deno.execPath(), {
      args: ["run", "--quiet", "--allow-all", SCRIPT, ...args],
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    this.#reader = this.#child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  }

  /** The next line that it says, as JSON. Rejects when it ends without one. */
  // deno-lint-ignore no-explicit-any
  async line(): Promise<any> {
    while (!this.#output.includes("\n")) {
      const { value, done } = await this.#reader.read();
      if (done) throw new Error(`the peer ended without a word: ${JSON.stringify(await this.#child.status)}`);
      this.#output += value;
    }
    const [line] = this.#output.split("\n", 1);
    this.#output = this.#output.slice(line.length + 1);
    return JSON.parse(line);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#child.stdin.close().catch(() => {});
    await this.#reader.cancel().catch(() => {});
    try {
      this.#child.kill("SIGKILL");
    } catch { /* ended already */ }
    await this.#child.status;
  }
}
