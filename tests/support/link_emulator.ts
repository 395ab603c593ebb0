/**
 * A link between two network namespaces: has a TUN device in each, and carries the packets from one to the other, late and
 * not all of them. A program of its own (see link.ts), since it must look at its queues each millisecond. tc's netem would
 * delay and lose as well, but it is a module that many kernels lack, those of CI machines and microVMs for example ("qdisc
 * kind is unknown"); and it resets no connections.
 *
 * Its only argument is a {@link LinkPlan} as JSON. It prints a line of JSON, a {@link LinkCount}, when the devices are
 * there, and another for each line on its standard input, a partial {@link LinkState}. It ends with its standard input.
 */

/** How the link behaves. */
export interface LinkState {
  /** carries: as a good link. drops: swallows all packets. resets: the same, but TCP connections are told. */
  mode: "carries" | "drops" | "resets";
  /** One way, in milliseconds. */
  delayMs: number;
  /** The part of the packets that is lost: 0 to 1. */
  loss: number;
  /** Bits per second in each direction; 0: as fast as it goes. */
  rate: number;
}

/** What the emulator is started with. */
export interface LinkPlan extends LinkState {
  /** Files that stand for the two network namespaces (/proc/PID/ns/net). */
  namespaces: [string, string];
  /** The name that the device has in both. */
  device: string;
  /** Decides which packets are lost. */
  seed: number;
}

/** What went from the first end to the second, and back. */
export interface LinkCount {
  there: Traffic;
  back: Traffic;
}

/** One direction's packets. */
export interface Traffic {
  packets: number;
  bytes: number;
  lost: number;
}

/** A router's buffer: what comes while so much waits for a slow link is lost. Bytes. */
const BUFFER = 4 << 20;
/** So many packets are taken from one end before the other has its turn. */
const TURN = 256;

const O_RDONLY = 0, O_RDWR = 2, O_NONBLOCK = 0o4000, O_CLOEXEC = 0o2000000;
const CLONE_NEWNET = 0x40000000;
const TUNSETIFF = 0x400454ca, IFF_TUN = 1, IFF_NO_PI = 0x1000;
const POLLIN = 1, STDIN = 0;
const TCP = 6, TCP_SYN = 2, TCP_RST = 4;

const { symbols: libc } = Deno.dlopen("libc.so.6", {
  open: { parameters: ["buffer", "i32"], result: "i32" },
  setns: { parameters: ["i32", "i32"], result: "i32" },
  ioctl: { parameters: ["i32", "u64", "buffer"], result: "i32" },
  read: { parameters: ["i32", "buffer", "usize"], result: "i32" },
  write: { parameters: ["i32", "buffer", "usize"], result: "i32" },
  ppoll: { parameters: ["buffer", "u64", "buffer", "pointer"], result: "i32" },
});

const text = (value: string) => new TextEncoder().encode(`${value}\0`);

/** Makes a TUN device in a network namespace, and returns its file descriptor. */
function openTun(namespace: string, device: string): number {
  const ns = libc.open(text(namespace), O_RDONLY | O_CLOEXEC);
  if (ns < 0 || libc.setns(ns, CLONE_NEWNET) < 0) throw new Error(`the namespace ${namespace} cannot be entered`);
  const tun = libc.open(text("/dev/net/tun"), O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (tun < 0) {
    throw new Error("/dev/net/tun cannot be opened (is the kernel module tun loaded, may this user open it?)");
  }
  const request = new Uint8Array(40); // struct ifreq
  request.set(text(device));
  new DataView(request.buffer).setUint16(16, IFF_TUN | IFF_NO_PI, true);
  if (libc.ioctl(tun, BigInt(TUNSETIFF), request) < 0) throw new Error(`the TUN device ${device} cannot be made`);
  return tun;
}

/** Numbers from 0 to 1, the same ones for the same seed (mulberry32). */
function randomNumbers(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** One direction: packets wait here in their order. */
class Direction {
  readonly count: Traffic = { packets: 0, bytes: 0, lost: 0 };
  readonly #into: number;
  readonly #random: () => number;
  #queue: { due: number; packet: Uint8Array<ArrayBuffer> }[] = [];
  #waiting = 0;
  /** When the packet before has left a link of limited rate. */
  #free = 0;

  constructor(into: number, seed: number) {
    this.#into = into;
    this.#random = randomNumbers(seed);
  }

  /** When the next packet arrives, by performance.now(). */
  get due(): number {
    return this.#queue[0]?.due ?? Infinity;
  }

  take(packet: Uint8Array<ArrayBuffer>, now: number, { delayMs, loss, rate }: LinkState) {
    if (this.#random() < loss || this.#waiting + packet.length > BUFFER) {
      this.count.lost++;
      return;
    }
    this.#free = Math.max(this.#free, now) + (rate > 0 ? packet.length * 8_000 / rate : 0);
    this.#waiting += packet.length;
    this.#queue.push({ due: this.#free + delayMs, packet });
  }

  deliver(now: number) {
    let at = 0;
    for (; at < this.#queue.length && this.#queue[at].due <= now; at++) {
      const { packet } = this.#queue[at];
      libc.write(this.#into, packet, BigInt(packet.length)); // Fails for a device that is down: so the packet is lost.
      this.count.packets++;
      this.count.bytes += packet.length;
      this.#waiting -= packet.length;
    }
    if (at > 0) this.#queue.splice(0, at);
  }

  clear() {
    this.count.lost += this.#queue.length;
    this.#queue = [];
    this.#waiting = this.#free = 0;
  }
}

/**
 * The TCP packet that ends the connection of `packet` for its sender. Undefined for anything but a connection that is there
 * (over IPv4): who asks for a new one hears nothing.
 */
function resetFor(packet: Uint8Array): Uint8Array<ArrayBuffer> | undefined {
  const from = new DataView(packet.buffer, packet.byteOffset, packet.length);
  const ip = (packet[0] & 15) * 4;
  if (packet[0] >> 4 !== 4 || packet[9] !== TCP || packet.length < ip + 20) return undefined;
  const flags = packet[ip + 13];
  if (flags & (TCP_RST | TCP_SYN)) return undefined;
  const reply = new Uint8Array(40);
  const to = new DataView(reply.buffer);
  reply.set([0x45, 0, 0, 40, 0, 0, 0, 0, 64, TCP]);
  reply.set(packet.subarray(16, 20), 12);
  reply.set(packet.subarray(12, 16), 16);
  to.setUint16(20, from.getUint16(ip + 2));
  to.setUint16(22, from.getUint16(ip));
  to.setUint32(24, from.getUint32(ip + 8)); // What was acknowledged is what is due next.
  reply[32] = 5 << 4;
  reply[33] = TCP_RST;
  to.setUint16(10, checksum(to, 0, 20, 0));
  to.setUint16(36, checksum(to, 12, 40, TCP + 20)); // The pseudo-header: both addresses, the protocol and the length.
  return reply;
}

function checksum(view: DataView, from: number, to: number, sum: number): number {
  for (let at = from; at < to; at += 2) sum += view.getUint16(at);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

if (import.meta.main) {
  const plan: LinkPlan = JSON.parse(Deno.args[0]);
  const state: LinkState = plan;
  const ends = plan.namespaces.map((namespace) => openTun(namespace, plan.device));
  /** By the end that a packet comes from. */
  const directions = [new Direction(ends[1], plan.seed), new Direction(ends[0], plan.seed + 1)];
  const answer = () => {
    const [there, back] = directions.map(({ count }) => count);
    console.log(JSON.stringify({ there, back } satisfies LinkCount));
  };

  let rest = "";
  /** Obeys what came on the standard input. */
  const obey = () => {
    const length = Deno.stdin.readSync(buffer);
    if (length === null) Deno.exit(0);
    const lines = (rest + new TextDecoder().decode(buffer.subarray(0, length))).split("\n");
    rest = lines.pop()!;
    for (const line of lines) {
      Object.assign(state, JSON.parse(line));
      if (state.mode !== "carries") { for (const direction of directions) direction.clear(); }
      answer();
    }
  };

  const buffer = new Uint8Array(65_536);
  const watched = [...ends, STDIN];
  const polled = new DataView(new ArrayBuffer(8 * watched.length)); // struct pollfd each: fd, events, revents.
  watched.forEach((fd, i) => {
    polled.setInt32(i * 8, fd, true);
    polled.setInt16(i * 8 + 4, POLLIN, true);
  });
  const isReady = (i: number) => polled.getInt16(i * 8 + 6, true) !== 0;
  const timeout = new BigInt64Array(2); // struct timespec
  answer();
  // No event loop: each packet would go through it twice, and a thread of its own besides.
  for (;;) {
    const wait = Math.min(...directions.map(({ due }) => due - performance.now()));
    const nanoseconds = wait === Infinity ? null : BigInt(Math.max(0, Math.round(wait * 1e6)));
    timeout[0] = (nanoseconds ?? 0n) / 1_000_000_000n;
    timeout[1] = (nanoseconds ?? 0n) % 1_000_000_000n;
    const until = nanoseconds === null ? null : new Uint8Array(timeout.buffer);
    libc.ppoll(new Uint8Array(polled.buffer), BigInt(watched.length), until, null);
    if (isReady(ends.length)) obey();
    const now = performance.now();
    ends.forEach((fd, end) => {
      if (!isReady(end)) return;
      for (
        let taken = 0, length;
        taken < TURN && (length = libc.read(fd, buffer, BigInt(buffer.length))) > 0;
        taken++
      ) {
        const packet = buffer.slice(0, length);
        if (state.mode === "carries") {
          directions[end].take(packet, now, state);
          continue;
        }
        directions[end].count.lost++;
        const reset = state.mode === "resets" && resetFor(packet);
        if (reset) libc.write(fd, reset, BigInt(reset.length));
      }
    });
    for (const direction of directions) direction.deliver(performance.now());
  }
}
