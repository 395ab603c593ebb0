import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { encodeFields } from "../proto/base/protobuf_fields.ts";
import { readOptions, unlisted } from "./path_options.ts";

/** What `bazel help flags-as-proto` prints. */
function printed(options: { name: string; isSwitch?: boolean; documentation?: string; commands?: string[] }[]): string {
  return Buffer.from(encodeFields(options.map((option): [number, Uint8Array] => [
    1,
    encodeFields([
      [1, option.name],
      [2, option.isSwitch ?? false],
      [3, option.documentation ?? ""],
      ...(option.commands ?? ["build"]).map((command): [number, string] => [4, command]),
    ]),
  ]))).toString("base64") + "\n";
}

Deno.test("an option is found by its name or by what is said of it, unless the table has it or it is no path", () => {
  const options = readOptions(printed([
    { name: "profile" },
    { name: "new_log_path" },
    { name: "new_thing", documentation: "If set, writes into the specified file." },
    { name: "new_switch", documentation: "Writes a file.", isSwitch: true },
    { name: "new_number", documentation: "How many are started at once." },
    { name: "new_base_dir", commands: ["startup"] },
  ]));
  assert.deepEqual(unlisted(options).map(({ name }) => name), ["new_log_path", "new_thing"]);
});
