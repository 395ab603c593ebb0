/**
 * A session's own network: only a loopback interface, so that a build can reach neither this machine's ports nor other
 * machines. The agent stays outside, and reaches the session's Bazel server by a splice: a process that is outside of
 * all namespaces but this one, so that no program of the session can see it, stop it or connect to it.
 */
import { RbsError } from "../../proto/base/errors.ts";
import type { Transport } from "../../proto/transport/transport.ts";

/** Brings up the loopback interface, which util-linux's `unshare` does not, unlike bubblewrap. The command follows. */
export const LOOPBACK_UP = [
  ...[
    "bash",
    "-c",
    `ip link set lo up || { echo "iproute2 is needed for a network of its own" >&2; exit 1; }; exec "$@"`,
  ],
  "bash",
];

/**
 * Connects its standard input and output to a port. $1: the process that was started to make the namespaces; the
 * process or one of its descendants is in the network. $2: an IP address. $3: the port. Prints "+" when connected.
 *
 * The connection belongs to the last `cat`, which is this process: each ends with the other.
 */
const SPLICE = String.raw`
own=$(readlink /proc/self/ns/net)
inside() {
  local pid ns
  for pid; do
    # None: it is just ending.
    ns=$(readlink "/proc/$pid/ns/net" 2>/dev/null) || continue
    if [[ $ns != "$own" ]]; then echo "$pid"; return; fi
    inside $(ps -o pid= --ppid "$pid") && return
  done
  return 1
}
pid=$(inside "$1") || { echo "its network is gone" >&2; exit 1; }
user=()
[[ $(readlink "/proc/$pid/ns/user") == "$(readlink /proc/self/ns/user)" ]] || user=(--user --preserve-credentials)
exec nsenter --target "$pid" "${"${user[@]}"}" --net -- bash -c '
  exec 3<>"/dev/tcp/$1/$2" || exit
  echo -n +
  cat <&0 >&3 3>&- &
  exec cat <&3 3<&-
' bash "$2" "$3"
`;

/**
 * Connects to a port in a session's network. Rejects with an RbsError if nothing listens, or with the signal's reason.
 *
 * @param pid The process that was started to make the session's namespaces.
 * @param host An IP address (v6 without brackets).
 */
export async function connectInside(pid: number, host: string, port: number, signal: AbortSignal): Promise<Transport> {
  signal.throwIfAborted();
  const splice = new Deno.Command("bash", {
    args: ["-c", SPLICE, "bash", String(pid), host, String(port)],
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const transport = new PipeTransport(splice);
  const complaint = new Response(splice.stderr).text().catch(() => "");
  const close = () => transport.close();
  signal.addEventListener("abort", close);
  try {
    const connected = await transport.read(new Uint8Array(1));
    signal.throwIfAborted();
    if (connected !== null) return transport;
    transport.close();
    const [why = "the splice ended"] = (await complaint).split("\n").filter((line) => line.trim() !== "");
    throw new RbsError(`The session's network cannot be reached: ${why.trim()}.`);
  } finally {
    signal.removeEventListener("abort", close);
  }
}

/** A process's standard input and output as a transport. */
class PipeTransport implements Transport {
  readonly #process: Deno.ChildProcess;
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  /** Received bytes that were not read yet. */
  #rest: Uint8Array = new Uint8Array();

  constructor(process: Deno.ChildProcess) {
    this.#process = process;
    this.#reader = process.stdout.getReader();
    this.#writer = process.stdin.getWriter();
    // The writes report the error.
    this.#writer.closed.catch(() => {});
    void process.status.then(() => this.#writer.close().catch(() => {}));
  }

  async read(into: Uint8Array): Promise<number | null> {
    while (this.#rest.length === 0) {
      const { done, value } = await this.#reader.read();
      if (done) return null;
      this.#rest = value;
    }
    const length = Math.min(into.length, this.#rest.length);
    into.set(this.#rest.subarray(0, length));
    this.#rest = this.#rest.subarray(length);
    return length;
  }

  async write(bytes: Uint8Array): Promise<number> {
    await this.#writer.write(bytes);
    return bytes.length;
  }

  close(): void {
    try {
      this.#process.kill("SIGKILL");
    } catch {
      // It has ended.
    }
    // Drops what is still buffered, since it will not be read.
    this.#reader.cancel().catch(() => {});
    this.#writer.close().catch(() => {});
  }
}
