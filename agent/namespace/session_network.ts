/**
 * A session's own network: a loopback interface and nothing else, so that a build reaches neither what listens on this
 * machine nor other machines. The agent stays outside, and reaches the session's Bazel server by a splice: a process on
 * the machine's side of all namespaces but this one, which no program of the session can see, stop or connect to.
 */
import { RbsError } from "../../proto/base/errors.ts";
import type { Transport } from "../../proto/transport/transport.ts";

/** util-linux's `unshare` leaves the loopback interface down, unlike bubblewrap. The command comes after it. */
export const LOOPBACK_UP = [
  ...[
    "bash",
    "-c",
    `ip link set lo up || { echo "iproute2 is needed for a network of its own" >&2; exit 1; }; exec "$@"`,
  ],
  "bash",
];

/**
 * Joins its standard input and output to a port. $1: the process that was started to make the namespaces; it or one of
 * its descendants is in the network. $2: an IP address. $3: the port. It says "+" when it is connected.
 *
 * The connection is the last `cat`'s, which is this very process: it ends with the connection, and the connection with it.
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
 * Connects to what listens in a session's network. Rejects with an RbsError when nothing does, or with the signal's
 * reason.
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

/** A process's standard input and output. */
class PipeTransport implements Transport {
  readonly #process: Deno.ChildProcess;
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  /** What was received and not read yet. */
  #rest: Uint8Array = new Uint8Array();

  constructor(process: Deno.ChildProcess) {
    this.#process = process;
    this.#reader = process.stdout.getReader();
    this.#writer = process.stdin.getWriter();
    // Who writes gets told.
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
    // Also what it has written already: nobody reads it any more.
    this.#reader.cancel().catch(() => {});
    this.#writer.close().catch(() => {});
  }
}
