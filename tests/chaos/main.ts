/** `deno task chaos`: random operations and faults over several orchestrators. Exit code 1: something did not hold. */
import { Command, InvalidArgumentError, Option } from "commander";
import { hasEmulator, SpannerEmulator } from "../../orchestrator/testing/spanner_emulator.ts";
import { spannerDatabase, sqliteDatabase } from "./databases.ts";
import { runChaos } from "./run.ts";

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
  .parse(Deno.args, { from: "user" }).opts();

const seed = options.seed ?? crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000_000;
if (options.store === "spanner" && !hasEmulator) {
  console.error("chaos: there is no Spanner emulator here: see README.md.");
  Deno.exit(1);
}
console.log(`seed ${seed}, ${options.store}, ${options.seconds} s`);
await using emulator = options.store === "spanner" ? await SpannerEmulator.start() : undefined;
const { runs, operations, failure } = await runChaos({
  seed,
  seconds: options.seconds,
  shrink: options.shrink,
  newDatabase: emulator ? spannerDatabase(emulator) : sqliteDatabase,
});
if (failure) console.error(failure);
console.log(`${runs} runs, ${operations} operations: ${failure ? "FAILED" : "all held"}`);
await emulator?.[Symbol.asyncDispose]();
Deno.exit(failure ? 1 : 0);
