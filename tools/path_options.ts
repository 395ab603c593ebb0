/**
 * `deno task path-options [BAZEL…]`: asks Bazels for all of their options, and prints those that look as if they named a
 * path and stand in no row of proxy/arguments/path_options.ts. Ends with 1 if there are any.
 */
import { Buffer } from "node:buffer";
import { bytesValue, scanFields, textValue, varintValue } from "../proto/base/protobuf_fields.ts";
import { PATH_OPTIONS } from "../proxy/arguments/path_options.ts";
import { bazelVersion, findBazels } from "../tests/support/bazels.ts";
import { output } from "../tests/support/run.ts";
import { tempDir } from "../tests/support/temp_dir.ts";

/** An option as `bazel help flags-as-proto` describes it: FlagInfo of bazel_flags.proto. */
export interface BazelOption {
  name: string;
  /** It is on or off. */
  isSwitch: boolean;
  documentation: string;
  /** Those that take it; "startup" stands for the client's own. */
  commands: string[];
}

const NAME = new RegExp(
  "(^|_)(paths?|files?|dirs?|directory|base|root|tmpdir|log|profile|certificate|key|credentials?|executable|socket|" +
    "cache|helper|script|command)($|_)",
);
const DOCUMENTATION = /\b(paths?( ?names?)?|files?|filename|director(y|ies)|executable|unix:)\b/i;

/** Reads what `bazel help flags-as-proto` prints, which is in Base64. Throws a WireError for what is no such thing. */
export function readOptions(text: string): BazelOption[] {
  const options: BazelOption[] = [];
  const collection = Buffer.from(text.trim(), "base64");
  scanFields(collection, (flag) => {
    if (flag.number !== 1) return;
    const info = bytesValue(collection, flag);
    const option: BazelOption = { name: "", isSwitch: false, documentation: "", commands: [] };
    scanFields(info, (field) => {
      if (field.number === 1) option.name = textValue(info, field);
      else if (field.number === 2) option.isSwitch = varintValue(info, field) !== 0;
      else if (field.number === 3) option.documentation = textValue(info, field);
      else if (field.number === 4) option.commands.push(textValue(info, field));
    });
    options.push(option);
  });
  return options;
}

/** Those that look as if they named a path, and of which the table says nothing. */
export function unlisted(options: readonly BazelOption[]): BazelOption[] {
  return options.filter(({ name, isSwitch, documentation, commands }) =>
    !isSwitch && commands.some((command) => command !== "startup") && !Object.hasOwn(PATH_OPTIONS, name) &&
    (NAME.test(name) || DOCUMENTATION.test(documentation))
  );
}

/** All options of a Bazel. @param bazel The client's path. */
export async function optionsOf(bazel: string): Promise<BazelOption[]> {
  await using workspace = await tempDir("rbs-options-");
  await Deno.writeTextFile(workspace.join("WORKSPACE"), "");
  // A server of its own, which ends with the command.
  const argv = [bazel, `--output_user_root=${workspace.join("root")}`, "--batch", "help", "flags-as-proto"];
  const options = readOptions(await output(argv, { cwd: workspace.path, env: { HOME: workspace.path } }));
  if (options.length < 100) throw new Error(`${bazel} tells of ${options.length} options only.`);
  return options;
}

if (import.meta.main) {
  const bazels = Deno.args.length > 0 ? Deno.args : (await findBazels()).found.map(({ path }) => path);
  let count = 0;
  for (const bazel of bazels) {
    const found = unlisted(await optionsOf(bazel));
    count += found.length;
    console.log(`Bazel ${await bazelVersion(bazel)}: ${found.length} options are in no row of path_options.ts.`);
    for (const { name, commands, documentation } of found) {
      console.log(`  --${name} (${commands.slice(0, 3).join(", ")}): ${documentation.split("\n")[0]}`);
    }
  }
  if (count > 0) Deno.exit(1);
}
