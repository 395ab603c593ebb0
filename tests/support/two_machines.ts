/**
 * Two machines on one: "laptop" and "cloud" each have a network namespace of their own, joined by a link, and a folder of
 * their own that the other does not see. Programs and system folders are the same on both, and so are process numbers.
 */
import { type Link, type LinkOptions, startLink } from "./link.ts";
import { tempDir } from "./temp_dir.ts";

/** One of the two. */
export interface Machine {
  name: "laptop" | "cloud";
  /** On the link. */
  address: string;
  /** A folder that the other machine does not see. Absolute. */
  directory: string;
  /** The file that stands for its network namespace. */
  network: string;
  /** The beginning of a command line, by which the rest of it runs there. */
  enter: readonly string[];
}

/** Both. What runs on them ends with the scope; with this process, so does the link. */
export interface TwoMachines extends AsyncDisposable {
  laptop: Machine;
  cloud: Machine;
  link: Link;
  /** A folder that both see. Absolute. */
  shared: string;
}

/** What a test knows that runs on the laptop itself (see on_laptop.ts). */
export type Surroundings = Pick<TwoMachines, "cloud" | "shared">;

const VARIABLE = "RBS_TEST_MACHINES";

/** Makes two machines: as an ordinary user, in a user namespace. */
export async function twoMachines(options: LinkOptions = {}): Promise<TwoMachines> {
  await using cleanup = new AsyncDisposableStack();
  const directory = await tempDir("rbs-machines-");
  cleanup.use(directory);
  const folders = {
    laptop: directory.join("laptop"),
    cloud: directory.join("cloud"),
    shared: directory.join("shared"),
  };
  await Promise.all(Object.values(folders).map((path) => Deno.mkdir(path)));

  const root = Deno.uid() === 0;
  const first = await hold(
    ["unshare", ...root ? [] : ["--user", "--map-root-user"], "--net", "--mount"],
    folders.cloud,
  );
  cleanup.use(first);
  /** The way into the user namespace, if there is one. */
  const user = root ? [] : ["nsenter", `--target=${first.pid}`, "--user", "--preserve-credentials", "--"];
  const second = await hold([...user, "unshare", "--net", "--mount"], folders.laptop);
  cleanup.use(second);
  const machine = (name: "laptop" | "cloud", pid: number, address: string): Machine => ({
    name,
    address,
    directory: folders[name],
    network: `/proc/${pid}/ns/net`,
    enter: [...user, ...enter(pid)],
  });
  // Addresses for documentation (RFC 5737): nobody has them.
  const laptop = machine("laptop", first.pid, "192.0.2.1");
  const cloud = machine("cloud", second.pid, "192.0.2.2");
  for (const { network } of [laptop, cloud]) cleanup.defer(() => endAllIn(network));
  const link = await startLink(laptop, cloud, user, options);
  cleanup.use(link);

  const all = cleanup.move();
  return { laptop, cloud, link, shared: folders.shared, [Symbol.asyncDispose]: () => all.disposeAsync() };
}

/** The variables with which a test that runs on the laptop finds its {@link surroundings}. */
export function surroundingVariables({ laptop, cloud, shared }: TwoMachines): Record<string, string> {
  const pid = Number(cloud.network.split("/")[2]);
  const surroundings: Surroundings = { cloud: { ...cloud, enter: enter(pid) }, shared };
  return { TMPDIR: laptop.directory, [VARIABLE]: JSON.stringify(surroundings) };
}

/** What is around a test that runs on the laptop; undefined for any other. */
export function surroundings(): Surroundings | undefined {
  const text = Deno.env.get(VARIABLE);
  return text ? JSON.parse(text) : undefined;
}

function enter(pid: number): string[] {
  return ["nsenter", `--target=${pid}`, "--net", "--mount", "--"];
}

/** Starts a process that keeps namespaces alive until the scope or this process ends, and hides a folder in them. */
async function hold(unshare: readonly string[], hidden: string): Promise<{ pid: number } & AsyncDisposable> {
  const script = 'ip link set dev lo up && mount -t tmpfs -o ro,size=4k rbs "$0" && echo ready && exec cat';
  const child = new Deno.Command(unshare[0], {
    args: [...unshare.slice(1), "sh", "-c", script, hidden],
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const said = new Response(child.stderr).text();
  const reader = child.stdout.getReader();
  const { done } = await reader.read();
  if (done) throw new Error(`There can be no second machine here: ${(await said).trim()}`);
  reader.releaseLock();
  return {
    pid: child.pid,
    async [Symbol.asyncDispose]() {
      await child.stdin.close();
      await child.stdout.cancel();
      await Promise.all([child.status, said]);
    },
  };
}

/** Kills all that runs in a network namespace, but for the process that holds it. */
async function endAllIn(network: string) {
  const holder = network.split("/")[2];
  const namespace = await Deno.readLink(network);
  for (;;) {
    const left: number[] = [];
    for await (const { name } of Deno.readDir("/proc")) {
      if (!/^\d+$/.test(name) || name === holder) continue;
      // Of a zombie, and of another user's process, there is nothing to read.
      if (await Deno.readLink(`/proc/${name}/ns/net`).catch(() => "") === namespace) left.push(Number(name));
    }
    if (left.length === 0) return;
    for (const pid of left) {
      try {
        Deno.kill(pid, "SIGKILL");
      } catch {
        // It has ended meanwhile.
      }
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
