/** `deno task compare`: random workspaces, with stock Bazel and through RBS. Exit code 1: something differed. */
import { Command, InvalidArgumentError, Option } from "commander";
import { findBazels } from "../support/bazels.ts";
import { startCluster } from "../support/cluster.ts";
import { compareRandomly } from "./random.ts";

function whole(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError("it must be a whole number");
  return Number(text);
}

const options = new Command("deno task compare")
  .description(
    "Makes small workspaces, does random things to them, and runs each command by the stock client twice: with a server " +
      "of its own and through RBS. Exit codes, outputs and sources must be the same after each. Needs dist/ (`deno task compile`).",
  )
  .addOption(new Option("--seed <number>", "where to begin; a failed run prints its own").argParser(whole))
  .addOption(new Option("--seconds <number>", "how long").argParser(whole).default(120))
  .addOption(
    new Option("--workspace <mode>", "how agents have the workspace").choices(["shared", "synced"]).default("synced"),
  )
  .parse(Deno.args, { from: "user" }).opts<{ seed?: number; seconds: number; workspace: string }>();

const { found: [bazel], missing } = await findBazels({ npm: false });
if (!bazel) {
  console.error(`compare: ${missing.join(" ")}`);
  Deno.exit(1);
}
const seed = options.seed ?? crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000_000;
console.log(`seed ${seed}, Bazel ${bazel.version}, ${options.workspace}, ${options.seconds} s`);
await using cluster = await startCluster({
  args: [`--workspace=${options.workspace}`],
  env: { RBS_BAZEL: bazel.path },
  // Its last workspace is brought to an end.
  lifetimeMs: (options.seconds + 600) * 1000,
});
const compared = await compareRandomly(bazel, cluster, {
  ...{ seed, seconds: options.seconds },
  say: (line) => console.log(line),
});
if (compared.failure) console.error(compared.failure);
console.log(
  `${compared.workspaces} workspaces, ${compared.steps} steps: ${compared.failure ? "FAILED" : "all the same"}`,
);
await cluster[Symbol.asyncDispose]();
Deno.exit(compared.failure ? 1 : 0);
