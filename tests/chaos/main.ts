/** `deno task chaos`: random operations and faults over several orchestrators. Exit code 1: something did not hold. */
import { Command, InvalidArgumentError, Option } from "commander";
import { hasEmulator, SpannerEmulator } from "../../orchestrator/testing/spanner_emulator.ts";
import { spannerDatabase, sqliteDatabase } from "./databases.ts";
import { scenarios } from "./operations.ts";
import { hasBazel } from "./processes/process_world.ts";
import { processScenarios } from "./processes/scenarios.ts";
import { canMount, withOwnMounts } from "./processes/small_disk.ts";
import { type Outcome, runChaos } from "./run.ts";

function whole(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError("it must be a whole number");
  return Number(text);
}

const options = new Command("deno task chaos")
  .description("Random operations and faults over several orchestrators; what must hold is checked after each run.")
  .addOption(new Option("--seed <number>", "where to begin; a failed run prints its own").argParser(whole))
  .addOption(new Option("--seconds <number>", "how long").argParser(whole).default(60))
  .addOption(new Option("--store <kind>", "where sessions are kept").choices(["sqlite", "spanner"]).default("sqlite"))
  .addOption(new Option("--shrink <runs>", "try fewer operations when a run failed").argParser(whole).default(0))
  .addOption(
    new Option(
      "--processes",
      "two programs of dist/ and their agents (`deno task compile` makes them) instead of three orchestrators in one " +
        "process: killed, stopped and ended by signals, behind links that break, on a disk that is full (as root)",
    ).default(false),
  )
  .parse(Deno.args, { from: "user" }).opts();

if (options.store === "spanner" && !hasEmulator) {
  console.error("chaos: there is no Spanner emulator here: see CONTRIBUTING.md.");
  Deno.exit(1);
}
if (options.processes && !canMount) {
  const code = await withOwnMounts([
    Deno.execPath(),
    "run",
    "--frozen",
    "--allow-all",
    import.meta.filename!,
    ...Deno.args,
  ]);
  if (code !== undefined) Deno.exit(code);
  console.log("not root: no disk is full");
}
const seed = options.seed ?? crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000_000;
console.log(`seed ${seed}, ${options.store}, ${options.seconds} s${options.processes ? ", processes" : ""}`);
await using emulator = options.store === "spanner" ? await SpannerEmulator.start() : undefined;
const newDatabase = emulator ? spannerDatabase(emulator) : sqliteDatabase;
const { seconds, shrink } = options;
let outcome: Outcome;
if (options.processes) {
  if (!hasBazel) console.log("Debian's Bazel is not here: agents start no Bazel server");
  const scenarios = processScenarios({ newDatabase, bazel: hasBazel, disk: canMount });
  const command = `deno task chaos --processes --store=${options.store}`;
  outcome = await runChaos({ seed, seconds, shrink, scenarios, command });
} else {
  outcome = await runChaos({ seed, seconds, shrink, scenarios: scenarios(newDatabase) });
}
const { runs, operations, failure } = outcome;
if (failure) console.error(failure);
console.log(`${runs} runs, ${operations} operations: ${failure ? "FAILED" : "all held"}`);
await emulator?.[Symbol.asyncDispose]();
Deno.exit(failure ? 1 : 0);
