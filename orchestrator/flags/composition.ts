import { type Command, Option, type OptionValues } from "commander";
import type { FlagPart, Places } from "./flag_part.ts";

/** Some parts of the orchestrator. */
export type FlagParts = readonly FlagPart<object>[];

/** What `Parts` read, together. */
export type FlagsOf<Parts extends FlagParts> = Parts extends
  readonly [FlagPart<infer First>, ...infer Rest extends FlagParts] ? First & FlagsOf<Rest> : unknown;

/**
 * The options of all parts. Throws an Error if two have the same flag or the same variable.
 *
 * @param first The long flags that are listed first, in this order; the others follow in the order of the parts.
 */
export function optionsOf(parts: FlagParts, first: readonly string[] = []): Option[] {
  const options = parts.flatMap((part) => part.options());
  const taken = new Set<string>();
  for (const { long, short, envVar } of options) {
    for (const name of [long, short, envVar]) {
      if (!name) continue;
      if (taken.has(name)) throw new Error(`${name} is declared twice among the parts of the orchestrator`);
      taken.add(name);
    }
  }
  const rank = ({ long }: Option) => {
    const place = first.indexOf(long ?? "");
    return place < 0 ? first.length : place;
  };
  return options.sort((a, b) => rank(a) - rank(b));
}

/** What was said for a parsed command's options. */
export function valuesOf(command: Command): OptionValues {
  const values = { ...command.opts() };
  for (const option of command.options) {
    const name = option.attributeName();
    // Commander takes any value of a variable for a boolean option's "yes".
    if (option.isBoolean() && option.envVar && command.getOptionValueSource(name) === "env") {
      values[name] = !["", "0", "false"].includes(Deno.env.get(option.envVar) ?? "");
    }
  }
  return values;
}

/** What all parts read. Throws an Error if two return the same property, and what a part throws. */
export function flagsOf<const Parts extends FlagParts>(
  parts: Parts,
  values: OptionValues,
  places: Places,
): FlagsOf<Parts> {
  const flags: Record<string, unknown> = {};
  for (const part of parts) {
    for (const [name, value] of Object.entries(part.read(values, places))) {
      if (name in flags) throw new Error(`${name} is read twice among the parts of the orchestrator`);
      flags[name] = value;
    }
  }
  return flags as FlagsOf<Parts>;
}
