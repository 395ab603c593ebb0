/** The link between two machines of a test, which the test can cut, heal, slow down, and count what went over it. */
import { output } from "./run.ts";
import type { LinkCount, LinkPlan, LinkState } from "./link_emulator.ts";
import type { Machine } from "./two_machines.ts";
import { LineReader } from "../../proto/base/line_reader.ts";

/** A link with 20 ms round trip and 1 % loss, unless a test says otherwise. */
export const DEFAULT_LINK: LinkState = { mode: "carries", delayMs: 10, loss: 0.01, rate: 0 };

/** The name of the device in both namespaces. */
const DEVICE = "link0";

/** A link. It ends with the scope, and with this process. */
export interface Link extends AsyncDisposable {
  /** With this seed the same packets are lost. */
  readonly seed: number;
  /** From now on the link behaves so. Returns what it has carried until then. */
  set(state: Partial<LinkState>): Promise<LinkCount>;
  /** What it has carried: from the laptop there, and back. */
  count(): Promise<LinkCount>;
  /** Silence: from now on all packets are lost, those under way too. */
  cut(): Promise<void>;
  /** From now on each TCP connection that says something is reset, and none can be made: a router was restarted. */
  reset(): Promise<void>;
  /** After {@link cut} or {@link reset}: carries packets again. */
  heal(): Promise<void>;
  /** Takes the laptop's network away, as without Wi-Fi: there is no route, and who sends is told so at once. */
  unplug(): Promise<void>;
  /** The laptop has a network again, with another address, as in another office. */
  plugIn(): Promise<void>;
}

/** How a link is made. */
export interface LinkOptions extends Partial<LinkState> {
  /** Which packets are lost. @default `RBS_TEST_SEED`, or a random number */
  seed?: number;
  /** The largest packet, in bytes. @default 1500 */
  mtu?: number;
}

/**
 * Joins two machines by a link.
 *
 * @param user The beginning of a command line that may enter their namespaces.
 */
export async function startLink(
  laptop: Machine,
  cloud: Machine,
  user: readonly string[],
  options: LinkOptions = {},
): Promise<Link> {
  const { mtu = 1500, seed = Number(Deno.env.get("RBS_TEST_SEED") || Math.floor(Math.random() * 2 ** 31)), ...state } =
    options;
  const plan: LinkPlan = {
    ...DEFAULT_LINK,
    ...state,
    seed,
    device: DEVICE,
    namespaces: [laptop.network, cloud.network],
  };
  const emulator = new URL("./link_emulator.ts", import.meta.url).pathname;
  const argv = [...user, Deno.execPath(), "run", "--quiet", "--allow-ffi", emulator, JSON.stringify(plan)];
  const child = new Deno.Command(argv[0], {
    args: argv.slice(1),
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const said = new Response(child.stderr).text();
  const writer = child.stdin.getWriter();
  const answers = new LineReader(child.stdout);
  const answer = async (): Promise<LinkCount> => {
    const line = await answers.next();
    if (line === undefined) throw new Error(`The link's emulator ended: ${(await said).trim()}`);
    return JSON.parse(line);
  };
  /** Questions and answers are in the same order. */
  let last: Promise<unknown> = Promise.resolve();
  const ask = (change: Partial<LinkState>): Promise<LinkCount> => {
    const asked = last.catch(() => {}).then(async () => {
      await writer.write(new TextEncoder().encode(`${JSON.stringify(change)}\n`));
      return await answer();
    });
    last = asked;
    return asked;
  };
  const end = async () => {
    await writer.close().catch(() => {});
    answers.close();
    await Promise.all([child.status, said]);
  };

  try {
    await answer();
    const up = async (machine: Machine, address: string) => {
      const script = `ip link set dev "$0" mtu "$1" up && ip address replace "$2/24" dev "$0"`;
      await output(["sh", "-c", script, DEVICE, String(mtu), address], { on: machine });
    };
    await Promise.all([laptop, cloud].map((machine) => up(machine, machine.address)));

    let host = 100;
    return {
      seed,
      set: ask,
      count: () => ask({}),
      cut: async () => void await ask({ mode: "drops" }),
      reset: async () => void await ask({ mode: "resets" }),
      heal: async () => void await ask({ mode: "carries" }),
      unplug: async () => void await output(["ip", "link", "set", "dev", DEVICE, "down"], { on: laptop }),
      plugIn: async () => {
        await output(["ip", "address", "flush", "dev", DEVICE], { on: laptop });
        await up(laptop, laptop.address.replace(/\d+$/, String(host++)));
      },
      [Symbol.asyncDispose]: end,
    };
  } catch (error) {
    await end();
    throw error;
  }
}
