/** `deno task attacks`: floods on the real programs, for as long as one likes. Exit code 1: something did not hold. */
import { Command, InvalidArgumentError, Option } from "commander";
import { type Flood, FLOODS, type PortName } from "./floods/floods.ts";
import { BOUNDS, isHarmed, mb, measure, type Measured, misses, residentMemory } from "./floods/measure.ts";
import { startVictims, type Victims } from "./floods/victims.ts";

/** All ports; the agent and its second port are one program. */
const PORTS: readonly PortName[] = ["orchestrator", "agent", "commands", "proxy"];

function whole(text: string): number {
  if (!/^\d{1,8}$/.test(text) || Number(text) < 1) {
    throw new InvalidArgumentError("it must be a whole number from 1 on");
  }
  return Number(text);
}

const program = new Command("deno task attacks")
  .description(
    "Floods the ports of the real programs of dist/ (`deno task compile` makes them) from a process of its own, while " +
      "honest callers go on: nobody's memory may grow by more than " +
      `${mb(BOUNDS.memory)} MB, none of them may wait for longer than ${BOUNDS.waitMs} ms. ` +
      "Needs two processors that nobody else uses, one for the attacker and one for whom it attacks.",
  )
  .addOption(
    new Option("--seconds <number>", "how long, all floods on all ports together").argParser(whole).default(600),
  )
  .addOption(new Option("--port <name>", "attack this one only").choices(PORTS))
  .addOption(new Option("--flood <text>", "try only floods whose name has this text in it, as `--list` prints them"))
  .addOption(new Option("--wait <ms>", "what an honest caller may wait").argParser(whole).default(BOUNDS.waitMs))
  .addOption(
    new Option("--files <number>", "first make so many files in a session, which must cost its agent nothing; 0: none")
      .argParser((text) => text === "0" ? 0 : whole(text)),
  )
  .addOption(new Option("--list", "print the floods that there are, and end"))
  .addHelpText(
    "after",
    `
Examples:
  deno task attacks --seconds=600 --files=1000000     the soak: each flood in turn, without growth from first to last
  deno task attacks --port=proxy --flood=empty --seconds=30`,
  )
  .parse(Deno.args, { from: "user" });
const options = program.opts<
  { seconds: number; port?: PortName; flood?: string; wait: number; files?: number; list?: boolean }
>();

if (options.list) {
  for (const { wants } of FLOODS) console.log(wants);
  Deno.exit(0);
}
const chosen = PORTS.filter((port) => options.port === undefined || port === options.port).flatMap((port) =>
  FLOODS.filter(({ wants, ports = PORTS }) => ports.includes(port) && wants.includes(options.flood ?? ""))
    .map((flood): [PortName, Flood] => [port, flood])
);
if (chosen.length === 0) {
  console.error(`attacks: no flood is called ${JSON.stringify(options.flood)}: see --list.`);
  Deno.exit(2);
}

const bounds = { ...BOUNDS, waitMs: options.wait };
const stopped = new AbortController();
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  Deno.addSignalListener(signal, () => {
    console.log(`\n${signal}: ending`);
    stopped.abort();
  });
}

const filesHeld = !options.files || await tryFiles(options.files);
const seconds = options.seconds / chosen.length;
console.log(`${chosen.length} floods, each for ${seconds.toFixed(1)} s`);
const results: { measured: Measured; wrong: string[] }[] = [];
let victims: Victims | undefined;
/** What each program had before the first flood: so that many small leaks are seen as well. */
const first = new Map<number, number>();
try {
  for (const [port, flood] of chosen) {
    if (stopped.signal.aborted) break;
    victims ??= await startVictims();
    const victim = victims.ports[port];
    console.log(`\n${victim.name}: ${flood.wants}`);
    if (!first.has(victim.pid)) first.set(victim.pid, await residentMemory(victim.pid) ?? 0);
    const measured = await measure(flood, victim, {
      ...{ seconds, before: first.get(victim.pid), signal: stopped.signal, bounds },
      progress: (line) => console.log(`  ${line}`),
    });
    if (stopped.signal.aborted) break;
    const wrong = misses(measured, bounds);
    console.log(`  ${wrong.length === 0 ? "held" : wrong.join("; ")}`);
    results.push({ measured, wrong });
    if (!isHarmed(measured, bounds)) continue;
    await victims[Symbol.asyncDispose]();
    victims = undefined;
    first.clear();
  }
  if (victims && !stopped.signal.aborted) await victims.rig.buildsQuickly();
} catch (e) {
  // Ctrl-C reaches the programs as well, and what was asked of them comes to nothing.
  if (!stopped.signal.aborted) throw e;
} finally {
  await victims?.[Symbol.asyncDispose]();
}
printTable();
Deno.exit(stopped.signal.aborted ? 130 : !filesHeld || results.some(({ wrong }) => wrong.length > 0) ? 1 : 0);

/** The test of it, with more files. */
async function tryFiles(files: number): Promise<boolean> {
  const { success } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...["test", "--frozen", "--allow-all", "--quiet", "--filter", "cost the agent no memory"],
      new URL("./storage_test.ts", import.meta.url).pathname,
    ],
    env: { RBS_ATTACK_FILES: String(files) },
  }).spawn().status;
  return success;
}

function printTable() {
  const rows = results.map(({ measured: m, wrong }) => [
    ...[m.victim, m.flood, `${mb(m.before)}/${mb(m.peak)}/${mb(m.after)}`],
    ...[
      `${m.median.toFixed(0)}/${m.worst.toFixed(0)}`,
      String(m.calls),
      wrong.length === 0 ? "held" : wrong.join("; "),
    ],
  ]);
  const head = ["victim", "attack", "MB before/peak/after", "ms median/worst", "calls", "verdict"];
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i].length)));
  console.log();
  for (const row of [head, ...rows]) console.log(row.map((cell, i) => cell.padEnd(widths[i])).join("  ").trimEnd());
}
