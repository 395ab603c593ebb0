/**
 * Entries that tools expect in an output base, and that exist after the first command with a local server: ibazel reads
 * `external`, editors open `java.log`, and two files warn people off (Bazel 2 to 9 all make these).
 */
import { mkdirSync, symlinkSync } from "../../proto/tree/file_calls.ts";
import { lookAt } from "./output_folders.ts";

const README = (workspace: string) =>
  `This is Bazel's output base for ${workspace}.

Its Bazel server works on another machine, through RBS. What it has made for the targets that were built is here, below
execroot. \`bazel info output_base\` brings the server's own java.log and the profile of the last command here;
until then java.log is what the server's place-holder on this machine has said.
`;

/** Makes the missing entries. Absolute paths. Throws Deno's errors. */
export function makeExpectedNames(outputBase: string, workspace: string): void {
  const at = (name: string) => `${outputBase}/${name}`;
  const file = (name: string, content: string) => {
    if (!lookAt(at(name))) Deno.writeTextFileSync(at(name), content, { createNew: true, mode: 0o644 });
  };
  for (const folder of ["external", "execroot"]) if (!lookAt(at(folder))) mkdirSync(at(folder));
  file("DO_NOT_BUILD_HERE", workspace);
  file("README", README(workspace));
  if (!lookAt(at("java.log"))) symlinkSync("server/jvm.out", at("java.log"));
}
