import assert from "node:assert/strict";
import { Option } from "commander";
import { RbsError } from "../proto/base/errors.ts";
import { flagsOf, optionsOf } from "./flags/composition.ts";
import type { FlagPart } from "./flags/flag_part.ts";
import { HELP_ORDER, orchestratorCommand, parseFlags } from "./flags.ts";

const PROGRAM = "file:///opt/rbs/orchestrator";
const PLACES = { stateDir: "/state", program: "/opt/rbs/orchestrator" };

/** A part with one flag of its own. */
function part(flag: string, variable: string, property: string): FlagPart<object> {
  return { options: () => [new Option(`${flag} <value>`).env(variable)], read: () => ({ [property]: flag }) };
}

/** Runs with a variable set. */
function withVariable(name: string, value: string, run: () => void): void {
  const before = Deno.env.get(name);
  Deno.env.set(name, value);
  try {
    run();
  } finally {
    if (before === undefined) Deno.env.delete(name);
    else Deno.env.set(name, before);
  }
}

Deno.test("two parts cannot declare the same flag, variable or property", () => {
  const one = part("--one", "RBS_ONE", "one");
  assert.throws(() => optionsOf([one, part("--one", "RBS_OTHER", "other")]), /^Error: --one is declared twice/);
  assert.throws(() => optionsOf([one, part("--other", "RBS_ONE", "other")]), /^Error: RBS_ONE is declared twice/);
  const same = part("--other", "RBS_OTHER", "one");
  assert.throws(() => flagsOf([one, same], {}, PLACES), /^Error: one is read twice/);
  const other = part("--other", "RBS_OTHER", "other");
  assert.deepEqual(flagsOf([one, other], {}, PLACES), { one: "--one", other: "--other" });
});

Deno.test("help lists the usual flags first, and those of a new part after them without being told", () => {
  const parts = [part("--a", "RBS_A", "a"), part("--b", "RBS_B", "b"), part("--c", "RBS_C", "c")];
  assert.deepEqual(optionsOf(parts, ["--c", "--b"]).map(({ long }) => long), ["--c", "--b", "--a"]);
  const all = orchestratorCommand().options.map(({ long }) => long);
  assert.deepEqual(HELP_ORDER.filter((flag) => !all.includes(flag)), [], "there are no such flags");
});

Deno.test("each flag has a variable; that of a flag without a value is off if it is empty, 0 or false", () => {
  for (const { flags, envVar } of orchestratorCommand().options) assert.match(envVar ?? "", /^RBS_/, flags);
  for (const [value, isOn] of [["", false], ["0", false], ["false", false], ["1", true], ["no", true]] as const) {
    withVariable("RBS_UNSHARE_NET", value, () => {
      assert.equal(parseFlags(["--local-mode"], PROGRAM)?.unshareNet, isOn, `"${value}"`);
    });
  }
  withVariable(
    "RBS_LOCAL_MODE",
    "0",
    () => assert.throws(() => parseFlags([], PROGRAM), /^RbsError: Say --local-mode/),
  );
});

Deno.test("what lies in the state directory follows it, and paths are absolute", () => {
  const flags = parseFlags(["--local-mode", "--state-dir=/state", "--agent=bin/agent"], PROGRAM);
  assert.equal(flags?.stateDir, "/state");
  assert.equal(flags.storageRoot, "/state/storage");
  assert.deepEqual(flags.store, { kind: "sqlite", file: "/state/sessions.sqlite" });
  assert.equal(flags.agent, `${Deno.cwd()}/bin/agent`);
});

Deno.test("flags that belong together are refused apart, within a part and across parts", () => {
  const refused = (message: RegExp, ...args: string[]) =>
    assert.throws(() => parseFlags(["--local-mode", ...args], PROGRAM), (e: unknown) => {
      assert(e instanceof RbsError);
      assert.equal(e.exitCode, 2);
      assert.match(e.message, message);
      return true;
    });
  refused(/^--ca-cert and --ca-key belong together; `orchestrator --help` lists the options\.$/, "--ca-cert=ca.crt");
  refused(/^--agent-user belongs with --workspace=synced: /, "--agent-user=builder");
  assert.equal(
    parseFlags(["--local-mode", "--agent-user=builder", "--workspace=synced"], PROGRAM)?.agentUser,
    "builder",
  );
});
