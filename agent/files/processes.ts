/**
 * The machine's processes as the kernel reports them outside of a session. A session's programs can neither see these
 * looks nor change their results.
 */
import { Buffer } from "node:buffer";
import { pause } from "../../proto/base/timers.ts";
import { Beneath } from "./beneath.ts";

const { symbols: c } = Deno.dlopen("libc.so.6", {
  // pidfd_open and pidfd_send_signal, for which older C libraries have no functions.
  pidfdOpen: { name: "syscall", parameters: ["i64", "i32", "u32"], result: "i32" },
  pidfdSendSignal: { name: "syscall", parameters: ["i64", "i32", "i32", "usize", "u32"], result: "i32" },
  poll: { parameters: ["buffer", "u64", "i32"], result: "i32" },
  close: { parameters: ["i32"], result: "i32" },
});
const SYS_PIDFD_SEND_SIGNAL = 424n, SYS_PIDFD_OPEN = 434n;
const SIGNALS = { KILL: 9, TERM: 15 } as const;
/** struct pollfd: fd 4, events 2, revents 2. */
const polled = new Int16Array(4), polledFd = new Int32Array(polled.buffer, 0, 1), POLLIN = 1;

/** Maximum size read of a kernel table, in bytes. */
const MAX_TABLE_BYTES = 64 << 20;

let kept: Beneath | undefined;
/** /proc, without following symlinks. */
const proc = () => kept ??= Beneath.open("/proc");

/** Reads a file of /proc, whose size is not known beforehand. Undefined if the process is gone or may not be read. */
function table(path: string): string | undefined {
  try {
    using file = proc().open(path);
    const chunks: Buffer[] = [];
    for (let bytes = 0; bytes < MAX_TABLE_BYTES;) {
      const chunk = new Uint8Array(16 << 10);
      const n = file.read(chunk);
      if (n === 0) break;
      bytes += n;
      chunks.push(Buffer.from(chunk.buffer, 0, n));
    }
    return Buffer.concat(chunks).toString("latin1");
  } catch {
    return undefined;
  }
}

/** This process's mounts, as text for comparison. */
export function mountTable(): string | undefined {
  return table(`${Deno.pid}/mountinfo`);
}

/** A process's ids, from this machine's to the innermost pid namespace's; empty if it is gone. */
function numbers(pid: number): number[] {
  const [, line = ""] = /^NSpid:(.*)$/m.exec(table(`${pid}/status`) ?? "") ?? [];
  return line.trim().split(/\s+/).filter((n) => n !== "").map(Number);
}

function children(pid: number): number[] {
  const listed = table(`${pid}/task/${pid}/children`);
  if (listed !== undefined) return listed.trim().split(" ").filter((n) => n !== "").map(Number);
  // The kernel does not provide that list.
  return proc().names("").filter((name) => /^\d+$/.test(name)).map(Number).filter((other) => {
    const stat = table(`${other}/stat`);
    return stat !== undefined && Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]) === pid;
  });
}

function* descendants(pid: number): Generator<number> {
  for (const child of children(pid)) {
    yield child;
    yield* descendants(child);
  }
}

/** A pid namespace. Its processes are found among the descendants of its maker. */
export interface PidNamespace {
  /** Id of its first process on this machine. All others end with it. */
  readonly first: number;
  /** Number of ids that its processes have. */
  readonly depth: number;
}

/** The pid namespace made by a process or one of its descendants; undefined if there is none. */
export function pidNamespaceOf(maker: number): PidNamespace | undefined {
  const outside = numbers(maker).length;
  for (const pid of descendants(maker)) {
    const inside = numbers(pid);
    if (inside.length > outside && inside.at(-1) === 1) return { first: pid, depth: inside.length };
  }
  return undefined;
}

/**
 * The id on this machine of a process in a session; undefined if it does not exist.
 *
 * @param maker The process that made the session's namespaces. The process is it or one of its descendants.
 * @param inner The id in the session.
 */
export function findProcess(maker: number, namespace: PidNamespace | undefined, inner: number): number | undefined {
  if (!namespace) return numbers(inner).length > 0 ? inner : undefined;
  for (const pid of descendants(maker)) {
    const inside = numbers(pid);
    if (inside.length === namespace.depth && inside.at(-1) === inner) return pid;
  }
  return undefined;
}

/** A handle of a process that stays valid when its id is reused. */
export class HeldProcess implements Disposable {
  #fd: number;

  /** Throws an Error if the process is gone. */
  constructor(pid: number) {
    this.#fd = c.pidfdOpen(SYS_PIDFD_OPEN, pid, 0);
    if (this.#fd < 0) throw new Error(`process ${pid} is gone`);
  }

  signal(name: keyof typeof SIGNALS): void {
    if (this.#fd >= 0) c.pidfdSendSignal(SYS_PIDFD_SEND_SIGNAL, this.#fd, SIGNALS[name], 0n, 0);
  }

  /** Whether it has ended, even if its exit code was not collected yet. */
  get hasEnded(): boolean {
    if (this.#fd < 0) return true;
    polledFd[0] = this.#fd;
    polled[2] = POLLIN;
    return c.poll(polled, 1n, 0) > 0;
  }

  /** Waits for its end. @returns whether it ended in time */
  async ended(timeoutMs: number): Promise<boolean> {
    const deadline = performance.now() + timeoutMs;
    while (!this.hasEnded) {
      if (performance.now() > deadline) return false;
      await pause(10);
    }
    return true;
  }

  [Symbol.dispose](): void {
    if (this.#fd >= 0) c.close(this.#fd);
    this.#fd = -1;
  }
}

const ESTABLISHED = "01", LISTEN = "0A";
/**
 * The local addresses in /proc/net/tcp and tcp6 at which connections to a loopback address arrive: the address itself,
 * and if nothing listens there, the wildcard. The bytes of each word are reversed on x86_64 and aarch64.
 */
const ARRIVES = {
  "127.0.0.1": { own: ["0100007F", "0000000000000000FFFF00000100007F"], any: ["00000000", "0".repeat(32)] },
  "::1": { own: ["00000000000000000000000001000000"], any: ["0".repeat(32)] },
};

/**
 * Whether a port of a loopback address belongs only to a process and its descendants: they have the listening socket
 * and all accepted connections. The same port of the other loopback address may be another program's: a kernel that is
 * asked for any free port may give the number away twice.
 *
 * @param host "127.0.0.1" or "::1"; for others the result is false.
 */
export function ownsPort(pid: number, host: string, port: number): boolean {
  if (host !== "127.0.0.1" && host !== "::1") return false;
  const { own, any } = ARRIVES[host];
  const there: string[] = [], anywhere: string[] = [], accepted: string[] = [];
  const wanted = port.toString(16).toUpperCase().padStart(4, "0");
  for (const name of ["tcp", "tcp6"]) {
    for (const line of (table(`${pid}/net/${name}`) ?? "").split("\n").slice(1)) {
      // sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode
      const [, local = "", , state, , , , , , inode] = line.trim().split(/\s+/);
      const [address, at] = local.split(":");
      if (at !== wanted) continue;
      if (state === LISTEN && own.includes(address)) there.push(inode);
      else if (state === LISTEN && any.includes(address)) anywhere.push(inode);
      // Inode 0: not accepted yet, so it belongs to no process.
      else if (state === ESTABLISHED && own.includes(address) && inode !== "0") accepted.push(inode);
    }
  }
  const listening = there.length > 0 ? there : anywhere;
  if (listening.length === 0) return false;
  const inodes = new Set([...listening, ...accepted]);
  for (const owner of [pid, ...descendants(pid)]) for (const inode of sockets(owner)) inodes.delete(inode);
  return inodes.size === 0;
}

/** The inodes of a process's sockets; empty if it is gone or may not be read. */
function sockets(pid: number): string[] {
  try {
    using folder = proc().folder(`${pid}/fd`);
    return folder.names.flatMap((name) => /^socket:\[(\d+)\]$/.exec(targetOf(folder, name))?.[1] ?? []);
  } catch {
    return [];
  }
}

function targetOf(folder: { lstat(name: string): { target?: string } }, name: string): string {
  try {
    return folder.lstat(name).target ?? "";
  } catch {
    // It was closed just now.
    return "";
  }
}
